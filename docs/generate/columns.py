"""The data dictionary: every column of a frame of points."""

import inspect
import re
from collections.abc import Callable
from typing import Any

from docs.generate.markdown import BY_MACHINE, cell, table
from studies.results import points
from studies.results.masking import MaskingColumns
from studies.results.reading import IntervalColumns, PlannedPointRow
from studies.trial.evaluated import MaskingCheck, PlaceColumns, Point

KINDS = {"str": "text", "float64": "number", "int64": "whole number"}
UNIT = re.compile(r"\s*Unit: ([^.]+?)\.(?=\s|$)")
MISSING = re.compile(r"\s*\bNone ([^.]+)\.")


def columns_page() -> str:
    """Write the data dictionary: every column of a frame of points."""
    rows = [(f"`{name}`", KINDS[kind], *_column(name)) for name, kind in points.COLUMNS.items()]
    return "\n".join(
        [
            BY_MACHINE + "# Every column of a point\n",
            "A point is one row: one network at one λ and width under one attack. `studies.points` "
            "and `oat points` read points from storage, `studies.runs` and `oat runs` ask MLflow. "
            "Accuracies are fractions everywhere; only tables and figures for people show "
            "percent.\n",
            table(("column", "kind", "unit", "meaning", "NaN"), rows),
            "A frame has columns beyond these:\n",
            "- `ra_<attack>`, such as `ra_pgd20`, in what `oat runs` returns and in MLflow: RA of "
            "the same operating point under that attack. "
            f"{_second(points.with_attack_columns)}\n"
            "- `folder`, in what `studies.points` returns: the URI of the point's trial.\n",
            "## What follows from what\n",
            "These columns are not stored. They are derived whenever points are read: "
            f"{', '.join(f'`{name}`' for name in points.DERIVED)}.\n",
            "Points of one operating point differ by their attack alone. They share "
            f"{', '.join(f'`{name}`' for name in points.OPERATING_POINT)}.\n",
        ]
    )


def _column(name: str) -> tuple[str, str, str]:
    """Return unit, meaning and when it is missing of a column."""
    homes = (PlannedPointRow, MaskingColumns, IntervalColumns, Point, PlaceColumns)
    said = next(_attributes(home)[name] for home in homes if name in _attributes(home))
    missing = MISSING.search(said)
    if name.startswith("check_") and name.removeprefix("check_") in _attributes(MaskingCheck):
        missing = MISSING.search(_attributes(MaskingColumns)["check_images"])
        said = _attributes(MaskingCheck)[name.removeprefix("check_")]
        if older := MISSING.search(said):
            missing = older
    unit = UNIT.search(said)
    meaning = MISSING.sub("", UNIT.sub("", said)).strip()
    return unit[1] if unit else "", meaning, missing[1] if missing else ""


def _attributes(home: type) -> dict[str, str]:
    """Return what a class says of each of its attributes, in one line each."""
    doc = inspect.cleandoc(home.__doc__ or "").partition("Attributes:\n")[2]
    found = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", doc, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


def _second(function: Callable[..., Any]) -> str:
    return cell(inspect.cleandoc(function.__doc__ or "").split("\n\n")[1])
