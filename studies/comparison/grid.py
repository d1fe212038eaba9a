"""The points of a comparison that go together, under every attack, and how they are compared."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from studies.comparison.guards import (
    check_comparable,
    check_one_data,
    finite_points,
    one_checkpoint,
)
from studies.comparison.model_names import short_names, with_recipes
from studies.comparison.outside import without_outside
from studies.errors import ComparisonError
from studies.results.masking import masking_table
from studies.results.reading import MODELS, Stored


@dataclass(frozen=True)
class Grid:
    """Points that can be compared, under every attack, and how they are compared.

    Attributes:
        points: A frame of points of one checkpoint rule.
        outside: Those of networks from outside.
        stored: What is stored of them, or of more.
        missing: Models of the study that they lack, those without weights by the rule among them.
        notes: What a reader must know of them.
        names: What the names of their variants leave out.
        masking: See `studies.results.masking.masking_table`.
        margin: How much worse still counts as free.
        force: Compare points of different settings all the same.
    """

    points: pd.DataFrame
    outside: pd.DataFrame
    stored: Stored
    missing: list[str]
    notes: list[str]
    names: list[str]
    masking: pd.DataFrame
    margin: float
    force: bool


def sound_points(
    points: pd.DataFrame, stored: Stored, checkpoint: str | None, margin: float, force: bool
) -> Grid:
    """Return the points that can be compared, under every attack.

    Raises:
        ComparisonError: There are none, or none that go together.
    """
    missing = _missing(points)
    points = points.copy(deep=False)
    points.attrs = {}  # pandas would copy it at every step
    points, notes = finite_points(points)
    points, outside = without_outside(points)
    notes += check_one_data(points, force)
    points, lost = one_checkpoint(points, checkpoint)
    missing += lost
    outside = outside[outside["checkpoint_rule"].isin(points["checkpoint_rule"])]
    points = with_recipes(points)
    names, shared = short_names(points)
    points = points.assign(variant=points["variant"].map(names))
    masking = masking_table(points)
    return Grid(points, outside, stored, missing, notes, shared, masking, margin, force)


def _missing(points: pd.DataFrame) -> list[str]:
    """Name the models of the study that a frame of its points lacks, as far as the frame knows."""
    models: Mapping[str, str] = points.attrs.get(MODELS, {})
    there = set(points["run_key"])
    return [name for run_key, name in models.items() if run_key not in there]


def comparable(
    points: pd.DataFrame, attacks: list[str], force: bool
) -> tuple[list[str], list[str]]:
    """Return those of some attacks whose points go together, and notes.

    Raises:
        ComparisonError: Those of none do.
    """
    kept, notes, errors = [], [], []
    for attack in attacks:
        try:
            notes += check_comparable(points[points["attack"] == attack], force)
            kept.append(attack)
        except ComparisonError as error:
            errors.append(error)
    if not kept:
        raise errors[0]
    return kept, notes
