"""The figures of a comparison for a paper."""

import io
import math
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import LogLocator
from numpy.typing import NDArray

from studies.comparison.answer import Comparison
from studies.naming import NamedRow, knob_text
from studies.report.labels import place_labels
from studies.report.rows import COST
from studies.report.styles import (
    OUTSIDE,
    OUTSIDE_LABEL,
    front_styles,
    ink,
    ra_of,
    series,
    side_by_side,
)

MARK = 6
"""Size of a mark of the front, in points."""

TITLE_WIDTH = 78
"""Characters that a title holds in a line."""

AXIS_WIDTH = 40
"""Characters that the name of an axis holds in a line."""

LEGEND_WIDTH = 100
"""Characters that the legend of a figure holds in a line."""


PLAIN_TEXTS = mpl.rc_context({"text.parse_math": False})
"""Takes texts as they are: a name may hold dollar signs, which would begin a formula."""


@PLAIN_TEXTS
def paper_figure(comparison: Comparison, title: str) -> Figure:
    """Draw standard against robust accuracy, a line for OAT and a mark for each retrained model."""
    lines = series(comparison.cells)
    outside = [OUTSIDE_LABEL] if len(comparison.outside) else []
    figure, axes, wrapped = _canvas([*(line.label for line in lines), *outside], title)
    draw_front(comparison, axes, wrapped[: len(lines)])
    _legend(figure, wrapped)
    marks = [
        Mark(knob_text(cast(NamedRow, cell)), cell, line.style.colour)
        for line in lines
        for cell in line.cells.to_dict("records")
    ]
    marks += [Mark(row["name"], row, OUTSIDE[0]) for row in comparison.outside.to_dict("records")]
    _annotate(figure, marks)
    return figure


class Mark(NamedTuple):
    """A mark of the front.

    Attributes:
        text: What stands beside it.
        cell: SA and RA with their intervals, fractions.
        colour: Of the mark.
    """

    text: str
    cell: dict[Any, Any]
    colour: str


def draw_front(comparison: Comparison, axes: Axes, labels: Sequence[str] = ()) -> None:
    """Draw the operating points of a comparison with their intervals.

    Args:
        comparison: The comparison.
        axes: Where to draw.
        labels: What the legend calls each line; without, the lines' own names.
    """
    lines = series(comparison.cells)
    for line, label in zip(lines, labels or [line.label for line in lines], strict=True):
        cells, x, y = line.cells, 100 * line.cells["sa"], 100 * line.cells["ra"]
        axes.errorbar(
            x,
            y,
            xerr=[x - 100 * cells["sa_low"], 100 * cells["sa_high"] - x],
            yerr=[y - 100 * cells["ra_low"], 100 * cells["ra_high"] - y],
            fmt=line.style.marker,
            linestyle=line.style.line if line.once else "none",
            color=line.style.colour,
            markersize=MARK * line.style.scale,
            # one model is a filled mark, a model each a hollow one
            markerfacecolor=line.style.colour if line.style.filled else "white",
            elinewidth=0.6,
            ecolor=(line.style.colour, 0.45),
            linewidth=1.2,
            label=label,
        )
    if len(outside := comparison.outside):
        x, y = 100 * outside["sa"], 100 * outside["ra"]
        axes.errorbar(
            x,
            y,
            xerr=[x - 100 * outside["sa_low"], 100 * outside["sa_high"] - x],
            yerr=[y - 100 * outside["ra_low"], 100 * outside["ra_high"] - y],
            fmt=OUTSIDE[1],
            linestyle="none",
            color=OUTSIDE[0],
            markersize=1.4 * MARK,
            elinewidth=0.6,
            label=OUTSIDE_LABEL,
        )
    axes.set_xlabel("standard accuracy SA, %")
    axes.set_ylabel(textwrap.fill(f"robust accuracy {ra_of(comparison)}, %", AXIS_WIDTH))


@PLAIN_TEXTS
def price_figure(comparison: Comparison, title: str) -> Figure:
    """Draw the hypervolume of each front against what training its models costs."""
    fronts = comparison.fronts
    styles = front_styles(comparison)
    figure, axes, wrapped = _canvas(list(fronts["front"]), title)
    costs = side_by_side(fronts["train_cost"])
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
    axes.set_xlabel(COST)
    axes.set_ylabel(textwrap.fill(f"hypervolume, {ra_of(comparison)}", AXIS_WIDTH))
    _legend(figure, wrapped)
    return figure


def _canvas(labels: list[str], title: str) -> tuple[Figure, Axes, list[str]]:
    """Make a figure with room for a legend below, and wrap what the legend says."""
    wrapped = [textwrap.fill(label, LEGEND_WIDTH) for label in labels]
    rows = math.ceil(sum(1 + label.count("\n") for label in wrapped) / _columns(wrapped))
    titled = title_lines(title)
    height = 3.6 + 0.14 * rows + 0.14 * titled.count("\n")
    figure = Figure(figsize=(5.2, height), layout="constrained")
    axes = figure.subplots()
    axes.set_title(titled, fontsize=8)
    axes.grid(alpha=0.3, linewidth=0.5)
    return figure, axes, wrapped


def title_lines(title: str, width: int = TITLE_WIDTH) -> str:
    """Break the lines of a title to so many characters."""
    return "\n".join(textwrap.fill(line, width) for line in title.split("\n"))


def _columns(labels: list[str]) -> int:
    longest = max(len(part) for label in labels for part in label.splitlines())
    return min(3, max(1, LEGEND_WIDTH // (longest + 8)))


def _legend(figure: Figure, labels: list[str]) -> None:
    figure.legend(fontsize=7, loc="outside lower center", ncols=_columns(labels), frameon=False)


def _annotate(figure: Figure, marks: list[Mark]) -> None:
    """Write the value beside each mark; where there is no room, further away with a line to it."""
    axes = figure.axes[0]
    figure.draw_without_rendering()  # fixes the layout, and with it where a mark is, in pixels
    texts = [_label(axes, mark) for mark in marks]
    boxes = [text.get_window_extent() for text in texts]
    within = axes.get_window_extent()
    found = place_labels(
        _pixels(axes, [(mark.cell["sa"], mark.cell["ra"]) for mark in marks]),
        np.array([(box.width, box.height) for box in boxes]),
        (within.x0, within.y0, within.x1, within.y1),
        np.concatenate([_bars(axes, mark.cell) for mark in marks]),
        radius=figure.dpi * MARK / 144,
    )
    for text, place in zip(texts, found, strict=True):
        if place is None:
            text.remove()
            continue
        x, y, far = place
        text.set_position((x * 72 / figure.dpi, y * 72 / figure.dpi))
        assert text.arrow_patch is not None
        text.arrow_patch.set_visible(far)


def _label(axes: Axes, mark: Mark) -> Annotation:
    colour = ink(mark.colour)
    return axes.annotate(
        mark.text,
        (100 * mark.cell["sa"], 100 * mark.cell["ra"]),
        xytext=(0, 0),
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=6,
        color=colour,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.3},
        arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.4, "shrinkB": MARK / 2},
    )


def _pixels(axes: Axes, places: Sequence[tuple[float, float]]) -> NDArray[np.float64]:
    """Return where pairs of SA and RA, fractions, stand in the figure."""
    pixels: NDArray[np.float64] = axes.transData.transform(100 * np.array(places))
    return pixels


def _bars(axes: Axes, cell: dict[Any, Any]) -> NDArray[np.float64]:
    """Return the rectangles of both error bars of a mark, in pixels, shape (2, 4)."""
    ends = [
        ((cell["sa_low"], cell["ra"]), (cell["sa_high"], cell["ra"])),
        ((cell["sa"], cell["ra_low"]), (cell["sa"], cell["ra_high"])),
    ]
    corners = [_pixels(axes, pair) for pair in ends]
    return np.array([[*(low - 0.5), *(high + 0.5)] for low, high in corners])


def picture(figure: Figure, kind: str) -> bytes:
    """Write a figure as ``png`` or ``svg``; the same figure makes the same bytes."""
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "oat", "svg.fonttype": "none"}):
        metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(buffer, format=kind, dpi=200, metadata=metadata)
    return buffer.getvalue()
