"""The data dictionary: every column of a frame of points."""

import inspect
from collections.abc import Callable
from typing import Any

from docs.generate.markdown import BY_MACHINE, cell, table
from studies.results import points
from studies.results.meanings import meanings

KINDS = {"str": "text", "float64": "number", "int64": "whole number"}


def columns_page() -> str:
    """Write the data dictionary: every column of a frame of points."""
    said = meanings()
    rows = [(f"`{name}`", KINDS[kind], *said[name]) for name, kind in points.COLUMNS.items()]
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


def _second(function: Callable[..., Any]) -> str:
    return cell(inspect.cleandoc(function.__doc__ or "").split("\n\n")[1])
