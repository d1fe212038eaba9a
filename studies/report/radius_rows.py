"""The tables of a comparison at several radii as rows of text."""

import math
from collections.abc import Mapping
from typing import Any

from studies.comparison.answer import Comparison
from studies.comparison.verdict import ONE_SEED, VERDICTS
from studies.naming import radius_text
from studies.report.cells import Cell, Row

BY_RADIUS = "By radius (* decides): number of each verdict, and hypervolume ratio"
CURVES = "RA by radius, in percent, and the area under it"
PAGE_ALONE = ("images", "OAT at")
"""Columns of the table by radius that a terminal has no room for."""


def radius_rows(comparison: Comparison) -> list[Row]:
    """Return what a comparison is at each radius as text.

    Nothing where there is one radius, or no model with a knob to compare.
    """
    table = comparison.by_radius
    if table.empty or not (table["models"].any() or table["ratio"].notna().any()):
        return []
    several, judged = table["front"].nunique() > 1, (table["verdict"] != ONE_SEED).any()
    return [
        {
            "ε": Cell(radius_text(row["eps"]) + ("*" if row["decides"] else ""), row["eps"]),
            "RA under": Cell(row["attacks"]),
            "images": Cell(str(row["images"]), row["images"]),
            "OAT at": Cell(row["question"]),
            **{verdict: _count(row, verdict) for verdict in VERDICTS},
            **({"verdict": Cell(row["verdict"])} if judged else {}),
            **({"front": Cell(row["front"])} if several else {}),
            "ratio": _ratio(row),
        }
        for row in table.to_dict("records")
    ]


def _count(row: Mapping[Any, Any], verdict: str) -> Cell:
    count = row[verdict.replace(" ", "_")]
    return Cell(str(count), count)


def _ratio(row: Mapping[Any, Any]) -> Cell:
    if math.isnan(row["ratio"]):
        return Cell("", math.nan)
    ends = f"[{row['ratio_low']:.3f}, {row['ratio_high']:.3f}]"
    return Cell(f"{row['ratio']:.3f} {ends}", row["ratio"])


def curve_rows(comparison: Comparison) -> list[Row]:
    """Return RA(ε) of each operating point as text, and the area under it."""
    if comparison.radii is None:
        return []
    curves, areas = comparison.radii.curves, comparison.radii.areas
    radii = sorted(curves["eps"].unique())
    known = {(row["point"], row["eps"]): row for row in curves.to_dict("records")}
    return [
        {
            "operating point": Cell(area["point"]),
            **{_heading(eps): _accuracy(known.get((area["point"], eps)), "ra") for eps in radii},
            "area": _accuracy(area, "area"),
        }
        for area in areas.to_dict("records")
    ]


def _heading(eps: float) -> str:
    return "SA (ε=0)" if eps == 0 else f"ε={radius_text(eps)}"


def _accuracy(row: Mapping[Any, Any] | None, name: str) -> Cell:
    """Write an accuracy in percent with its interval; empty where there is none."""
    if row is None or math.isnan(row[name]):
        return Cell("", math.nan)
    value, low, high = (100 * row[key] for key in (name, f"{name}_low", f"{name}_high"))
    return Cell(f"{value:.1f} [{low:.1f},{high:.1f}]", row[name])
