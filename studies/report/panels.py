"""RA(ε) in small multiples: the operating points of one trade-off value in each panel."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import pandas as pd

from oat.lambdas import SAME_LAM
from studies.comparison.answer import Comparison, Radii
from studies.naming import NamedRow, knob_text, value_text
from studies.report.styles import COLOURS, Series, series, variants_of

BEST_OF_EACH = "largest area of each"
"""The panel in which every method has its operating point with the most area under RA(ε)."""

SIGNS = "λαβ"
"""Trade-off values in the order of their panels."""


@dataclass(frozen=True)
class Line:
    """RA(ε) of one operating point, and how it is drawn.

    Attributes:
        series: The operating points that are drawn like it.
        cell: Its row of `studies.comparison.answer.Radii.areas`.
        curve: Its rows of `studies.comparison.answer.Radii.curves`, by rising radius.
    """

    series: Series
    cell: dict[Any, Any]
    curve: pd.DataFrame

    @property
    def name(self) -> str:
        """The operating point, for a legend."""
        return f"{self.series.name} {value_text(cast(NamedRow, self.cell))}"


@dataclass(frozen=True)
class Panel:
    """Operating points that stand beside each other; once-for-all models come first."""

    title: str
    lines: list[Line]


def panels(comparison: Comparison) -> list[Panel]:
    """Divide the curves of a comparison into panels; none where there is one radius.

    The first has each method where its area is largest. Then there is one for each trade-off value
    (and width). Beside a dedicated model without a counterpart of its value, such as one of TRADES,
    stands OAT as in the table of the comparison.
    """
    if comparison.radii is None:
        return []
    lines = list(_lines(comparison.radii))
    several = comparison.radii.areas["width_mult"].nunique() > 1
    places: dict[str, list[Line]] = {}
    for line in sorted(lines, key=_rank):
        places.setdefault(_place(line.cell, several), []).append(line)
    lone = {title for title, here in places.items() if not any(x.series.once for x in here)}
    for row in comparison.table.to_dict("records"):
        if (title := _place(row, several)) in lone:
            here = places[title]
            here[:0] = [x for x in _partner(row, lines) if not any(x is line for line in here)]
    found = [Panel(title, here) for title, here in places.items()]
    return [Panel(BEST_OF_EACH, _best_of_each(lines)), *found]


def _lines(radii: Radii) -> Iterator[Line]:
    """Yield the operating points, once-for-all models first."""
    curve_of = dict(iter(radii.curves.groupby("point")))
    names = variants_of(radii.areas)
    for found in series(radii.areas):
        # a panel has one width, so that colours tell variants apart, and dashes widths
        colour = COLOURS[names.index(found.variant) % len(COLOURS)]
        alike = replace(found, style=replace(found.style, colour=colour))
        for cell in alike.cells.to_dict("records"):
            yield Line(alike, cell, curve_of[cell["point"]])


def _place(row: Mapping[Any, Any], several: bool) -> str:
    """Write a trade-off value, with the width where there are several."""
    width = f" width={row['width_mult']:g}" if several else ""
    return knob_text(cast(NamedRow, row)) + width


def _rank(line: Line) -> tuple[int, float, float]:
    """Order operating points by their trade-off value, then from the widest."""
    cell = line.cell
    value = cell["beta"] if math.isnan(cell["lam"]) else cell["lam"]
    sign = SIGNS.index(knob_text(cast(NamedRow, cell))[0])
    return sign, value, -cell["width_mult"]


def _partner(row: Mapping[Any, Any], lines: Iterable[Line]) -> list[Line]:
    """Find the once-for-all operating point that a row of the table sets beside its model."""
    return [
        line
        for line in lines
        if line.series.variant == row["once"]
        and abs(line.cell["lam"] - row["oat_lam"]) < SAME_LAM
        and abs(line.cell["width_mult"] - row["oat_width_mult"]) < 1e-9
    ]


def _best_of_each(lines: Iterable[Line]) -> list[Line]:
    """Choose the operating point with the largest area of each series."""
    best: dict[str, Line] = {}
    for line in lines:
        if not math.isnan(line.cell["area"]):
            other = best.setdefault(line.series.name, line)
            if line.cell["area"] > other.cell["area"]:
                best[line.series.name] = line
    return list(best.values())
