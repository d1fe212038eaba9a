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
from studies.comparison.resampling import CELL
from studies.errors import ComparisonError
from studies.known_methods import CONDITIONAL, is_dedicated
from studies.naming import name_point
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
    every = points
    points = points.copy(deep=False)
    points.attrs = {}  # pandas would copy it at every step
    points, notes = finite_points(points)
    missing = _missing(every, points)
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


def _missing(every: pd.DataFrame, points: pd.DataFrame) -> list[str]:
    """Name the models without a point that can be compared: of the study as far as a frame knows.

    Args:
        every: The frame that was given.
        points: What is left of it.
    """
    models: Mapping[str, str] = every.attrs.get(MODELS, {})
    there = set(points["run_key"])
    counts = every["method"].isin(CONDITIONAL) | every["method"].map(is_dedicated)
    left_out = every[counts & ~every["run_key"].isin(there | set(models))]
    return [
        *(name for run_key, name in models.items() if run_key not in there),
        *(name_point(row) for _, row in left_out.drop_duplicates("run_key").iterrows()),
    ]


def lost_models(every: pd.DataFrame, points: pd.DataFrame) -> list[str]:
    """Name what has points, and none under the attacks of a comparison.

    Those are retrained models, and once-for-all variants as a whole. Rivals decide no verdict.

    Args:
        every: Points under every attack.
        points: Points under the attacks that are compared, of the same checkpoint rule.
    """
    dedicated = every["method"].map(is_dedicated)
    cells, there = (pd.MultiIndex.from_frame(some[CELL].astype(str)) for some in (every, points))
    lost = every[dedicated & ~cells.isin(there)].drop_duplicates(CELL)
    ours = every.loc[every["method"].isin(CONDITIONAL), "variant"].unique()
    return [
        *(str(variant) for variant in ours if variant not in set(points["variant"])),
        *(name_point(row, seed=False) for _, row in lost.iterrows()),
    ]


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
            notes.append(not_compared(attack, error))
    if not kept:
        raise errors[0]
    return kept, notes


def not_compared(attack: str, error: ComparisonError) -> str:
    """Say why there is no comparison under an attack."""
    return f"Not compared under '{attack}': {error}"
