"""How the fronts of a comparison are drawn, on paper and on the page."""

from dataclasses import dataclass, replace

import pandas as pd

from studies.comparison.answer import Comparison
from studies.comparison.fronts import front_name
from studies.known_methods import ONCE
from studies.naming import radius_text

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

DARKER = 0.35
"""Share of black in the colour of a text beside a mark: on white all are read well."""

OUTSIDE = ("#6B7280", "*", "star")
"""Colour and markers of networks from outside."""

OUTSIDE_LABEL = "from outside (not trained like OAT, in no verdict)"

SUMMARY = ("#444444", "X", "x")
"""Colour and markers of fronts over several variants or widths."""


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

    @property
    def label(self) -> str:
        """Its name, and whether one model serves all of its marks."""
        return f"{self.name} ({'one model' if self.once else 'one model per mark'})"


def ink(colour: str) -> str:
    """Return a colour for a text beside a mark of a colour, on white."""
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(part * (1 - DARKER)):02x}" for part in parts)


def ra_of(comparison: Comparison) -> str:
    """Say on an axis what RA is: under which attack; where there are several radii, at which."""
    if comparison.radii is None:
        return f"RA under {comparison.attack}"
    return f"RA at ε={radius_text(comparison.radii.decides)}"


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


def side_by_side(costs: pd.Series) -> list[float]:
    """Set equal costs a little apart for a logarithmic axis, so that no mark hides another."""
    step = max(1.001, float(costs.max() / costs.min()) ** 0.02)
    rank, count = costs.groupby(costs).cumcount(), costs.groupby(costs).transform("size")
    return [float(x) for x in costs * step ** (rank - (count - 1) / 2)]
