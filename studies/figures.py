"""How the fronts of a comparison are drawn, and the figures for a paper."""

import io
import math
import textwrap
from dataclasses import dataclass, replace
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from studies.comparison import Comparison
from studies.fronts import front_name
from studies.methods import ONCE, knob_text

# Okabe and Ito's colours, told apart by colour-blind readers
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = (
    ("o", "circle"),
    ("s", "square"),
    ("^", "triangle-up"),
    ("D", "diamond"),
    ("v", "triangle-down"),
    ("P", "cross"),
)
"""Of matplotlib and of plotly."""

DASHES = (("-", "solid"), ("--", "dash"), (":", "dot"), ("-.", "dashdot"))
"""Of matplotlib and of plotly; with the size of a mark they tell widths apart in grey."""

SUMMARY = ("#444444", "X", "x")
"""Colour and markers of fronts over several variants or widths."""

LABEL_SIDES = ((1, 1), (1, -1), (-1, 1), (-1, -1))
"""Where a label may stand beside its mark, the best first."""

LEGEND_WIDTH = 100
"""Characters that the legend of a figure holds in a line."""


@dataclass(frozen=True)
class Style:
    """How something is drawn.

    Attributes:
        colour: By width where there are several, else by variant.
        marker: By variant; of matplotlib.
        symbol: The same, of plotly.
        line: By width; of matplotlib.
        dash: The same, of plotly.
        scale: Of the size of a mark: the wider the network, the larger.
        filled: Whether one model serves all; a model each has a hollow mark.
    """

    colour: str
    marker: str
    symbol: str
    line: str = "-"
    dash: str = "solid"
    scale: float = 1.0
    filled: bool = False


@dataclass(frozen=True)
class Series:
    """The cells of one variant at one width, in order of their value, and how they are drawn.

    Attributes:
        name: For the legend.
        variant: The variant.
        cells: Rows of `Comparison.cells`.
        once: Whether one model serves all of them.
        style: How they are drawn.
    """

    name: str
    variant: str
    cells: pd.DataFrame
    once: bool
    style: Style


def variants_of(cells: pd.DataFrame) -> list[str]:
    """Return the variants in the order in which they are drawn, once-for-all models first."""
    once = cells["method"].isin(ONCE)
    return [*cells.loc[once, "variant"].unique(), *cells.loc[~once, "variant"].unique()]


def series(cells: pd.DataFrame) -> list[Series]:
    """Divide the cells into what is drawn alike, once-for-all models first."""
    widths = sorted(cells["width_mult"].unique(), reverse=True)
    found = []
    for i, variant in enumerate(variants_of(cells)):
        for j, width in enumerate(widths):
            own = cells[(cells["variant"] == variant) & (cells["width_mult"] == width)]
            if own.empty:
                continue
            name = front_name(variant, width, len(widths) > 1)
            own = own.sort_values(["lam", "beta"])
            once = own["method"].iloc[0] in ONCE
            found.append(Series(name, variant, own, once, _style(i, j, len(widths) > 1, once)))
    return found


def _style(variant: int, width: int, several: bool, once: bool) -> Style:
    return Style(
        COLOURS[(width if several else variant) % len(COLOURS)],
        *MARKERS[variant % len(MARKERS)],
        *DASHES[width % len(DASHES)],
        max(0.5, 1 - 0.2 * width),
        once,
    )


def front_styles(comparison: Comparison) -> dict[str, Style]:
    """Return how the mark of each front is drawn, by its name."""
    styles: dict[str, Style] = {}
    for line in series(comparison.cells):
        styles[line.name] = line.style
        own = replace(line.style, colour=SUMMARY[0], scale=1.2)
        styles.setdefault(front_name(line.variant, None, True), own)
    return {name: styles.get(name, Style(*SUMMARY)) for name in comparison.fronts["front"]}


def paper_figure(comparison: Comparison, title: str) -> Figure:
    """Draw standard against robust accuracy, a line for OAT and a mark for each dedicated model."""
    lines = series(comparison.cells)
    labels = [f"{s.name} ({'one model' if s.once else 'a model each'})" for s in lines]
    figure, axes, wrapped = _canvas(labels, title)
    for line, label in zip(lines, wrapped, strict=True):
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
    axes.set_ylabel(f"robust accuracy RA under {comparison.attack}, %")
    _legend(figure, wrapped)
    _annotate(figure, lines)
    return figure


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
    axes.set_ylabel(f"hypervolume, RA under {comparison.attack}")
    _legend(figure, wrapped)
    return figure


def side_by_side(costs: pd.Series) -> list[float]:
    """Set equal costs a little apart for a logarithmic axis, so that no mark hides another."""
    step = max(1.001, float(costs.max() / costs.min()) ** 0.02)
    rank, count = costs.groupby(costs).cumcount(), costs.groupby(costs).transform("size")
    return [float(x) for x in costs * step ** (rank - (count - 1) / 2)]


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
