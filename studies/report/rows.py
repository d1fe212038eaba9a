"""The tables of a comparison as rows of text, for every form in which they are shown."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from studies.comparison.answer import BEST, SAME, Comparison
from studies.comparison.verdict import VERDICTS
from studies.known_methods import RIVALS
from studies.naming import duration, value_text
from studies.report.cells import Cell, Row, difference, percent

HEADINGS = {
    "dedicated": "retrained model",
    "verdict": "verdict",
    "oat": "OAT at",
    "sa_oat": "SA OAT",
    "sa_dedicated": "SA retrained",
    "d_sa": "ΔSA",
    "ra_oat": "RA OAT",
    "ra_dedicated": "RA retrained",
    "d_ra": "ΔRA",
    "decide": "would decide it",
    "cost": "training",
}
"""Columns of the main table. What would decide a row is left out where all are decided."""

MEANINGS = {
    "dedicated": "the network that was retrained for this trade-off alone",
    "oat": "where OAT runs beside it",
    "sa_oat": "standard accuracy of OAT there, in percent",
    "sa_dedicated": "standard accuracy of the retrained model, in percent",
    "d_sa": "OAT minus the retrained model, in points, with its 95 percent interval",
    "ra_oat": "robust accuracy of OAT there, in percent",
    "ra_dedicated": "robust accuracy of the retrained model, in percent",
    "d_ra": "OAT minus the retrained model, in points, with its 95 percent interval",
    "verdict": "whether OAT is better, matches within the margin (free), or is worse (not free)",
    "decide": "how many test images or seeds would decide what is undecided",
    "cost": "training time of the retrained model, mean over seeds",
}
"""What these columns mean."""

SAME_HEADINGS = {key: HEADINGS[key] for key in ("dedicated", "verdict", "oat", "d_sa", "d_ra")}
"""Columns of the table at the same λ."""

COST = "training cost (equivalent forward passes, millions)"

COST_HEADINGS = (
    "models",
    "training time",
    COST,
    "gradients (millions)",
    "break-even (models) by cost",
    "break-even (models) by time",
    "parameters",
    "stored weights",
)
"""Columns of the table of fronts that say what a front costs; the page shows them apart."""

SAME_KNOB = "At the same λ as the retrained model"

MOST_IMAGES = 10_000_000
OUT_OF_REACH = "out of reach"
"""What would decide a row whose difference lies so near the margin that no data set does."""

GAINED = "What tuning gained: hypervolume of the study's settings → of the winners"


def has_widths(comparison: Comparison) -> bool:
    """Return whether networks of more than one width are compared."""
    return bool(comparison.cells["width_mult"].nunique() > 1)


def rows(comparison: Comparison) -> list[Row]:
    """Return the main table as text, a mapping of `HEADINGS` keys for each row."""
    out = _rows(comparison, comparison.table)
    if any(row["decide"] for row in out):
        return out
    return [{key: cell for key, cell in row.items() if key != "decide"} for row in out]


def same_knob_rows(comparison: Comparison) -> list[Row]:
    """Return the table at the same λ as text; empty if it is the main one."""
    if comparison.question == SAME:
        return []
    found = _rows(comparison, comparison.same_knob)
    return [{key: row[key] for key in SAME_HEADINGS} for row in found]


def _rows(comparison: Comparison, table: pd.DataFrame) -> list[Row]:
    several = table["once"].nunique() > 1 if len(table) else False
    widths = has_widths(comparison)
    out = []
    for row in table.to_dict("records"):
        width = f" width={row['width_mult']:g}" if widths else ""
        own_width = f" width={row['oat_width_mult']:g}" if widths else ""
        once = f"{row['once']} " if several else ""
        sign = "α" if row["once"].split()[0] in RIVALS else "λ"
        out.append(
            {
                "dedicated": Cell(f"{row['dedicated']} {value_text(row)}{width}"),
                "verdict": Cell(row["verdict"], VERDICTS.index(row["verdict"])),
                "oat": Cell(
                    f"{once}{sign}={row['oat_lam']:g}{own_width}",
                    None if several else row["oat_lam"],
                ),
                "sa_oat": percent(row["sa_oat"]),
                "sa_dedicated": percent(row["sa_dedicated"]),
                "d_sa": difference(row, "d_sa"),
                "ra_oat": percent(row["ra_oat"]),
                "ra_dedicated": percent(row["ra_dedicated"]),
                "d_ra": difference(row, "d_ra"),
                "decide": _decide(row),
                "cost": Cell(duration(row["seconds_dedicated"]), row["seconds_dedicated"]),
            }
        )
    return out


def _decide(row: Mapping[Any, Any]) -> Cell:
    """Write what would decide a row; empty where it is decided."""
    images, seeds = row["images_to_decide"], row["seeds_to_decide"]
    if math.isnan(images):
        return Cell("", math.nan)
    found = [
        text
        for text, value in ((f"{images:,.0f} images", images), (f"{seeds:g} seeds", seeds))
        if math.isfinite(value) and value <= MOST_IMAGES
    ]
    return Cell(" or ".join(found) or OUT_OF_REACH, images)


def headings_of(body: list[Row]) -> dict[str, str]:
    """Return the headings of the columns that the main table has."""
    return {key: HEADINGS[key] for key in HEADINGS if not body or key in body[0]}


def variant_rows(comparison: Comparison) -> list[Row]:
    """Return the table of OAT's variants against the plainest as text."""
    width = has_widths(comparison)
    return [
        {
            "variant": Cell(
                f"{row['variant']} {value_text(row)}"
                + (f" width={row['width_mult']:g}" if width else "")
            ),
            "SA": percent(row["sa"]),
            "ΔSA": difference(row, "d_sa"),
            "RA": percent(row["ra"]),
            "ΔRA": difference(row, "d_ra"),
        }
        for row in comparison.variants.to_dict("records")
    ]


def outside_rows(comparison: Comparison) -> list[Row]:
    """Return the table of networks from outside as text."""

    def with_interval(row: Mapping[Any, Any], name: str) -> Cell:
        low, high = (100 * row[f"{name}_{end}"] for end in ("low", "high"))
        return Cell(f"{100 * row[name]:.1f} [{low:.1f}, {high:.1f}]", row[name])

    return [
        {
            "network": Cell(row["name"]),
            "SA": with_interval(row, "sa"),
            "RA": with_interval(row, "ra"),
            "test images": Cell(f"{row['images']:,}", row["images"]),
            "parameters": Cell(f"{row['parameters']:,}", row["parameters"]),
            "signs of masked gradients": Cell(row["flags"] or "none"),
        }
        for row in comparison.outside.to_dict("records")
    ]


def gain_rows(table: pd.DataFrame) -> list[Row]:
    """Return the table of what tuning gained as text; what no method has is left out.

    Args:
        table: See `studies.comparison.answer.Gains`.
    """
    found = [_gain_row(row) for row in table.to_dict("records")]
    empty = [name for name in (found[0] if found else {}) if all(not row[name] for row in found)]
    return [{k: cell for k, cell in row.items() if k not in empty} for row in found]


def _gain_row(row: Mapping[Any, Any]) -> Row:
    counts = {"stopped early": row["stopped_early"], "failed": row["failed"]}
    odd = [f"{count} {what}" for what, count in counts.items() if count]
    return {
        "method": Cell(row["method"]),
        "trials": Cell(", ".join([str(row["trials"]), *odd]), row["trials"]),
        "training": Cell(
            f"{row['device_seconds']:,.0f} of {row['budget_seconds']:,.0f} s", row["device_seconds"]
        ),
        "winners": Cell(str(row["winners"]), row["winners"]),
        "on held-out images": _areas(row["start"], row["tuned"]),
        "on test images": _areas(row.get("test_start", math.nan), row.get("test_tuned", math.nan)),
        "gain there": _gain(row),
    }


def _areas(before: float, after: float) -> Cell:
    """Write two hypervolumes; the first is not always known."""
    if math.isnan(after):
        return Cell("", math.nan)
    return Cell(f"{'?' if math.isnan(before) else f'{before:.3f}'} → {after:.3f}", after - before)


def _gain(row: Mapping[Any, Any]) -> Cell:
    if math.isnan(row.get("test_gain", math.nan)):
        return Cell("", math.nan)
    value, low, high = (row[f"test_gain{end}"] for end in ("", "_low", "_high"))
    return Cell(f"{value:+.3f} [{low:+.3f},{high:+.3f}]", value)


def front_rows(comparison: Comparison) -> list[Row]:
    """Return the table of fronts and their price as text; what no front has is left out."""
    found = [_front_row(row) for row in comparison.fronts.to_dict("records")]
    optional = [
        name
        for name in (found[0] if found else {})
        if name != "ratio" and all(not row[name] for row in found)
    ]
    return [{k: cell for k, cell in row.items() if k not in optional} for row in found]


def _front_row(row: Mapping[Any, Any]) -> Row:
    def known(key: str, text: str) -> Cell:
        """Fill the values of the columns into a text, if the first of them is there."""
        value = row[key]
        if math.isnan(value):
            return Cell("", math.nan)
        level = 100 * row["gap_at"]
        return Cell(
            text.format(**row, millions=value / 1e6, points=100 * value, level=level), value
        )

    return {
        "front": Cell(str(row["front"])),
        "models": Cell(f"{row['models']:g}", row["models"]),
        "operating points": known("operating_points", "{operating_points:g}"),
        "on the front": known("on_front", "{on_front:g}"),
        "hypervolume": known(
            "hypervolume", "{hypervolume:.3f} [{hypervolume_low:.3f}, {hypervolume_high:.3f}]"
        ),
        "ratio": known("ratio", "{ratio:.3f}"),
        "matched ratio": known("matched", "{matched:.3f} [{matched_low:.3f}, {matched_high:.3f}]"),
        "largest gap (points of RA)": known("gap", "{points:.1f} at SA {level:.1f}"),
        "share of front matched": known("covered", "{covered:.0%}"),
        "break-even (models) by cost": known("break_even", "{break_even:g}"),
        "break-even (models) by time": known("break_even_seconds", "{break_even_seconds:g}"),
        "training time": Cell(duration(row["device_seconds"]), row["device_seconds"]),
        COST: known("train_cost", "{millions:,.2f}"),
        "gradients (millions)": known("train_gradients", "{millions:,.2f}"),
        "parameters": known("parameters", "{parameters:,.0f}"),
        "stored weights": Cell(f"{row['network_bytes'] / 1e6:.2f} MB", row["network_bytes"]),
    }


def heading_of(comparison: Comparison) -> str:
    """Say what RA of a comparison is under, and on how many images."""
    images = comparison.cells["images"]
    return f"RA under {comparison.under}, on {images.iloc[0] if len(images) else 0} test images"


def frames(comparison: Comparison) -> dict[str, pd.DataFrame]:
    """Return the data frames behind the tables by name, for files that keep every digit."""
    tables = {"table": comparison.table, "cells": comparison.cells, "fronts": comparison.fronts}
    if comparison.question == BEST:
        tables["same_knob"] = comparison.same_knob
    if comparison.reference is not None:
        tables["variants"] = comparison.variants
    if len(comparison.rivals):
        tables["rivals"] = comparison.rivals
    if len(comparison.outside):
        tables["outside"] = comparison.outside
    if len(comparison.masking):
        tables["masking"] = comparison.masking
    if comparison.gains is not None:
        tables["tuning"] = comparison.gains.table
    if comparison.radii is not None:
        tables["by_radius"] = comparison.radii.table
        tables["radii"] = comparison.radii.curves
        tables["areas"] = comparison.radii.areas
    return tables
