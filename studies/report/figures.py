"""The figures of a comparison for a paper."""

import io
import math
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from studies.comparison.answer import Comparison
from studies.naming import knob_text
from studies.report.styles import Series, front_styles, ra_of, series, side_by_side

LABEL_SIDES = ((1, 1), (1, -1), (-1, 1), (-1, -1))
"""Where a label may stand beside its mark, the best first."""

LEGEND_WIDTH = 100
"""Characters that the legend of a figure holds in a line."""


def paper_figure(comparison: Comparison, title: str) -> Figure:
    """Draw standard against robust accuracy, a line for OAT and a mark for each dedicated model."""
    lines = series(comparison.cells)
    figure, axes, wrapped = _canvas(_labels(lines), title)
    draw_front(comparison, axes, wrapped)
    _legend(figure, wrapped)
    _annotate(figure, lines)
    return figure


def _labels(lines: Sequence[Series]) -> list[str]:
    return [f"{s.name} ({'one model' if s.once else 'one model per mark'})" for s in lines]


def draw_front(comparison: Comparison, axes: Axes, labels: Sequence[str] = ()) -> None:
    """Draw the operating points of a comparison with their intervals.

    Args:
        comparison: The comparison.
        axes: Where to draw.
        labels: What the legend calls each line; without, the lines' own names.
    """
    lines = series(comparison.cells)
    for line, label in zip(lines, labels or _labels(lines), strict=True):
        cells, x, y = line.cells, 100 * line.cells["sa"], 100 * line.cells["ra"]
        axes.errorbar(
            x,
            y,
            xerr=[x - 100 * cells["sa_low"], 100 * cells["sa_high"] - x],
            yerr=[y - 100 * cells["ra_low"], 100 * cells["ra_high"] - y],
            fmt=line.style.marker,
            linestyle=line.style.line if line.once else "none",
            color=line.style.colour,
            markersize=6 * line.style.scale,
            # one model is a filled mark, a model each a hollow one
            markerfacecolor=line.style.colour if line.style.filled else "white",
            elinewidth=0.6,
            ecolor=(line.style.colour, 0.45),
            linewidth=1.2,
            label=label,
        )
    axes.set_xlabel("standard accuracy SA, %")
    axes.set_ylabel(f"robust accuracy {ra_of(comparison)}, %")


def price_figure(comparison: Comparison, title: str) -> Figure:
    """Draw the hypervolume of each front against what training its models costs."""
    fronts = comparison.fronts
    styles = front_styles(comparison)
    figure, axes, wrapped = _canvas(list(fronts["front"]), title)
    costs = side_by_side(fronts["train_units"])
    for label, cost, row in zip(wrapped, costs, fronts.to_dict("records"), strict=True):
        style, area = styles[row["front"]], row["hypervolume"]
        axes.errorbar(
            [cost / 1e6],
            [area],
            yerr=[[area - row["hypervolume_low"]], [row["hypervolume_high"] - area]],
            fmt=style.marker,
            linestyle="none",
            color=style.colour,
            markersize=7 * style.scale,
            markerfacecolor=style.colour if style.filled else "white",
            elinewidth=0.8,
            label=label,
        )
    axes.set_xscale("log")
    for of in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        of("{x:g}")
    axes.xaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
    axes.set_xlabel("training cost, million forward passes of the full network")
    axes.set_ylabel(f"hypervolume, {ra_of(comparison)}")
    _legend(figure, wrapped)
    return figure


def _canvas(labels: list[str], title: str) -> tuple[Figure, Axes, list[str]]:
    """Make a figure with room for a legend below, and wrap what the legend says."""
    wrapped = [textwrap.fill(label, LEGEND_WIDTH) for label in labels]
    rows = math.ceil(sum(1 + label.count("\n") for label in wrapped) / _columns(wrapped))
    figure = Figure(figsize=(5.2, 3.6 + 0.14 * rows), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3, linewidth=0.5)
    return figure, axes, wrapped


def _columns(labels: list[str]) -> int:
    longest = max(len(part) for label in labels for part in label.splitlines())
    return min(3, max(1, LEGEND_WIDTH // (longest + 8)))


def _legend(figure: Figure, labels: list[str]) -> None:
    figure.legend(fontsize=7, loc="outside lower center", ncols=_columns(labels), frameon=False)


def _annotate(figure: Figure, lines: list[Series]) -> None:
    """Write the value beside each mark, where there is room for it."""
    axes = figure.axes[0]
    figure.draw_without_rendering()  # fixes the layout, and with it where a mark is, in pixels
    marks = [
        (line, knob_text(cell), (100 * cell["sa"], 100 * cell["ra"]))
        for line in lines
        for cell in line.cells.to_dict("records")
    ]
    places = [tuple(axes.transData.transform(at)) for _, _, at in marks]
    taken: list[tuple[float, float]] = []
    for (line, text, at), (x, y) in zip(marks, places, strict=True):
        for right, up in LABEL_SIDES:
            centre = x + 20 * right, y + 9 * up
            # a label is about 26 pixels wide and 8 high, a mark 8 of both
            crowded = any(abs(centre[0] - u) < 28 and abs(centre[1] - v) < 9 for u, v in taken)
            hides = any(abs(centre[0] - u) < 17 and abs(centre[1] - v) < 8 for u, v in places)
            if crowded or hides:
                continue
            taken.append(centre)
            axes.annotate(
                text,
                at,
                xytext=(5 * right, 4 * up),
                textcoords="offset points",
                ha="left" if right > 0 else "right",
                va="bottom" if up > 0 else "top",
                fontsize=6,
                color=line.style.colour,
            )
            break


def picture(figure: Figure, kind: str) -> bytes:
    """Write a figure as ``png`` or ``svg``; the same figure makes the same bytes."""
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "oat", "svg.fonttype": "none"}):
        metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(buffer, format=kind, dpi=200, metadata=metadata)
    return buffer.getvalue()
