"""The cells of a table: text, with the number behind it that the table is sorted by."""

import math
from collections.abc import Mapping
from typing import Any

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
    value, low, high = (_points(row[key]) for key in (name, f"{name}_low", f"{name}_high"))
    return Cell(f"{value} [{low},{high}]", row[name])


def _points(fraction: float) -> str:
    """Write a difference in points: with one decimal, or more where that would make it none."""
    for digits in (1, 2, 3):
        text = f"{100 * fraction:+.{digits}f}"
        if float(text) or not fraction:
            return text
    return "+0.0"
