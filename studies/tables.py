"""The tables of a comparison as text: in a terminal, in Markdown, and for other forms."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd
from rich import box
from rich.table import Table

from studies.comparison import Comparison
from studies.intervals import LEVEL
from studies.methods import value_text
from studies.pairs import VERDICTS
from studies.progress import duration

HEADINGS = {
    "dedicated": "dedicated model",
    "oat": "OAT at",
    "sa_oat": "SA OAT",
    "sa_dedicated": "SA ded.",
    "d_sa": "ΔSA",
    "ra_oat": "RA OAT",
    "ra_dedicated": "RA ded.",
    "d_ra": "ΔRA",
    "verdict": "OAT is",
    "cost": "training",
}
WIDE = 118
"""Columns of a terminal that the tables fit into with intervals beside their values."""

IN_TERMINAL = ("front", "models", "operating points", "hypervolume", "training time", "stored")
"""Columns of the table of fronts that a terminal shows."""

PRICE = (
    "models",
    "training time",
    "forward passes",
    "gradients",
    "cheaper from",
    "parameters",
    "stored",
)
"""Columns of the table of fronts that say what a front costs; the page shows them apart."""

GAINED = "What tuning gained: hypervolume of the study's own settings → of the winners"

Row = dict[str, "Cell"]


class Cell(str):
    """The text of a cell, with what a table is sorted by.

    Attributes:
        key: The number behind the text, NaN where there is none; or the text itself.
    """

    key: float | str

    def __new__(cls, text: str, key: float | str | None = None) -> "Cell":
        """Make a cell; without a key it is sorted by its text."""
        cell = super().__new__(cls, text)
        cell.key = text if key is None else key
        return cell


def percent(fraction: float) -> Cell:
    """Write a fraction as percent with one decimal; empty where there is none."""
    return Cell("" if math.isnan(fraction) else f"{100 * fraction:.1f}", fraction)


def difference(row: Mapping[Any, Any], name: str) -> Cell:
    """Write a difference of fractions in points with its interval; empty where there is none."""
    if name not in row or math.isnan(row[name]):
        return Cell("", math.nan)
    value, low, high = (100 * row[key] for key in (name, f"{name}_low", f"{name}_high"))
    return Cell(f"{value:+.1f} [{low:+.1f},{high:+.1f}]", row[name])


def has_widths(comparison: Comparison) -> bool:
    """Return whether networks of more than one width are compared."""
    return bool(comparison.cells["width_mult"].nunique() > 1)


def rows(comparison: Comparison) -> list[Row]:
    """Return the free-vs-retrained table as text, a mapping of `HEADINGS` keys for each row."""
    several = comparison.table["once"].nunique() > 1 if len(comparison.table) else False
    widths = has_widths(comparison)
    out = []
    for row in comparison.table.to_dict("records"):
        width = f" width={row['width_mult']:g}" if widths else ""
        once = f"{row['once']} " if several else ""
        out.append(
            {
                "dedicated": Cell(f"{row['dedicated']} {value_text(row)}{width}"),
                "oat": Cell(f"{once}λ={row['oat_lam']:g}", None if several else row["oat_lam"]),
                "sa_oat": percent(row["sa_oat"]),
                "sa_dedicated": percent(row["sa_dedicated"]),
                "d_sa": difference(row, "d_sa"),
                "ra_oat": percent(row["ra_oat"]),
                "ra_dedicated": percent(row["ra_dedicated"]),
                "d_ra": difference(row, "d_ra"),
                "verdict": Cell(row["verdict"], VERDICTS.index(row["verdict"])),
                "cost": Cell(duration(row["seconds_dedicated"]), row["seconds_dedicated"]),
            }
        )
    return out


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


def gain_rows(table: pd.DataFrame) -> list[Row]:
    """Return the table of what tuning gained as text; what no method has is left out.

    Args:
        table: See `studies.gains.Gains`.
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
        "largest RA gap": known("gap", "{points:.1f} at SA {level:.1f}"),
        "covered": known("covered", "{covered:.0%}"),
        "cheaper from": known("break_even", "{break_even:g}"),
        "training time": Cell(duration(row["device_seconds"]), row["device_seconds"]),
        "forward passes": known("train_units", "{millions:,.2f} M"),
        "gradients": known("train_gradients", "{millions:,.2f} M"),
        "parameters": known("parameters", "{parameters:,.0f}"),
        "stored": Cell(f"{row['network_bytes'] / 1e6:.2f} MB", row["network_bytes"]),
    }


def terminal(comparison: Comparison, width: int) -> Iterator[Table | str]:
    """Yield what a terminal of so many columns shows of a comparison, in order."""
    if len(comparison.table):
        tables = list(comparison.table.groupby("once", sort=False))
        for once, table in tables:
            name = f" {once}," if len(tables) > 1 else ""
            yield _main_table(replace(comparison, table=table), name, width)
    if comparison.reference is not None:
        texts = variant_rows(comparison)
        yield _terminal_table(
            f"Against '{comparison.reference}', RA under {comparison.attack}, in percent",
            list(texts[0]),
            [list(row.values()) for row in texts],
            left=1,
            width=width,
        )
    yield _terminal_table(
        f"Hypervolume above (0, 0) with {LEVEL:.0%} interval, and price",
        list(IN_TERMINAL),
        [[row[key] for key in IN_TERMINAL] for row in front_rows(comparison)],
        left=1,
        width=width,
    )
    if comparison.gains is not None:
        texts = gain_rows(comparison.gains.table)
        yield _terminal_table(
            GAINED, list(texts[0]), [list(row.values()) for row in texts], left=1, width=width
        )
    yield comparison.answer()
    yield from comparison.remarks()
    yield from comparison.notes
    if comparison.gains is not None:
        yield from comparison.gains.notes


def _main_table(comparison: Comparison, name: str, width: int) -> Table:
    """Make the table of one once-for-all model against all dedicated ones."""
    # on a narrow terminal the training time stands in the second table alone
    shown = [key for key in HEADINGS if width >= WIDE or key != "cost"]
    return _terminal_table(
        f"Free vs retrained,{name} RA under {comparison.attack}, in percent",
        [HEADINGS[key] for key in shown],
        [[row[key] for key in shown] for row in rows(comparison)],
        left=2,
        width=width,
    )


def _terminal_table(
    title: str, headings: list[str], body: list[list[Cell]], *, left: int, width: int
) -> Table:
    """Make a table; where the terminal is too narrow, intervals stand under their values.

    Names, the columns at the left, are broken between words, and within one where even that is too
    wide.
    """
    for narrow in (False, True):
        table = _laid_out(title, headings, body, left=left, narrow=narrow)
        gaps = (1 if narrow else 2) * (len(headings) - 1)
        if sum(column.min_width or 0 for column in table.columns) + gaps <= width:
            return table
    for column in table.columns[:left]:
        column.min_width = None
    return table


def _laid_out(
    title: str, headings: list[str], body: list[list[Cell]], *, left: int, narrow: bool
) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 0 if narrow else 1),
        collapse_padding=True,
        pad_edge=False,
        show_edge=False,
    )
    for i, heading in enumerate(headings):
        shown = heading.replace(" ", "\n", 1) if narrow else heading
        texts = [_folded(row[i], narrow) for row in body]
        pieces = [part for text in texts for part in text.split(None if i < left else "\n")]
        table.add_column(
            shown,
            justify="left" if i < left else "right",
            # names give way to numbers, which are never cut
            no_wrap=i >= left,
            overflow="fold",
            min_width=max(map(len, [*shown.split("\n"), *pieces])),
        )
    for row in body:
        table.add_row(*(_folded(text, narrow) for text in row))
    return table


def _folded(text: str, narrow: bool) -> str:
    """Put the interval of a value on a line of its own."""
    return text.replace(" [", "\n[") if narrow else str(text)


def heading_of(comparison: Comparison) -> str:
    """Say what RA of a comparison is under, and on how many images."""
    images = comparison.cells["images"]
    return f"RA under {comparison.attack}, on {images.iloc[0] if len(images) else 0} test images"


def markdown(comparison: Comparison, others: Iterable[Comparison] = ()) -> str:
    """Write all tables, the answer and the notes as Markdown.

    Args:
        comparison: The comparison that the answer is of.
        others: The same study under other attacks, each under a heading of its own.
    """
    texts, variants = rows(comparison), variant_rows(comparison)
    parts = [
        *([_markdown_table(texts, HEADINGS)] if texts else []),
        *([_markdown_table(variants)] if variants else []),
        *([_markdown_table(fronts)] if (fronts := front_rows(comparison)) else []),
        *([_markdown_table(gain_rows(comparison.gains.table))] if comparison.gains else []),
        comparison.answer(),
        *comparison.remarks(),
        *comparison.notes,
        *(comparison.gains.notes if comparison.gains else []),
    ]
    for other in others:
        parts.append(f"## {heading_of(other)}")
        if texts := rows(other):
            parts.append(_markdown_table(texts, HEADINGS))
        parts.append(other.answer())
    return "\n\n".join(parts) + "\n"


def _markdown_table(body: list[Row], headings: Mapping[str, str] | None = None) -> str:
    names: list[str] = list(headings.values()) if headings else list(body[0])
    lines: list[Iterable[str]] = [names, ["---"] * len(names), *(row.values() for row in body)]
    return "\n".join(
        "| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines
    )


def frames(comparison: Comparison) -> dict[str, pd.DataFrame]:
    """Return the data frames behind the tables by name, for files that keep every digit."""
    tables = {"table": comparison.table, "cells": comparison.cells, "fronts": comparison.fronts}
    if comparison.reference is not None:
        tables["variants"] = comparison.variants
    if len(comparison.masking):
        tables["masking"] = comparison.masking
    if comparison.gains is not None:
        tables["tuning"] = comparison.gains.table
    return tables
