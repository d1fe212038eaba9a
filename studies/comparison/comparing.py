"""Free against retrained: the comparison that the project exists for.

A pure function of a frame of points and, where it is stored, of which images each point has
right; see `studies.statistics.intervals` for the intervals.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from studies.comparison.answer import BEST, SAME, Comparison
from studies.comparison.choosing import choose_points, held_out_values
from studies.comparison.fronts import measure_fronts
from studies.comparison.guards import (
    check_comparable,
    finite_points,
    one_checkpoint,
    precision_notes,
)
from studies.comparison.notes import distance_notes, missing_notes, start_notes, unequal_note
from studies.comparison.pairs import (
    Pairs,
    against_plainest,
    nearest_dedicated,
    pair_table,
    same_knob,
)
from studies.comparison.resampling import Resampled
from studies.comparison.rivals import against_rivals
from studies.comparison.verdict import MARGIN, verdict_on_all
from studies.errors import ComparisonError
from studies.known_methods import ONCE
from studies.results.masking import masking_table
from studies.results.reading import MODELS, Stored, stored_beside
from studies.results.worst import label_of, own_radius, worst_case


def compare(
    points: pd.DataFrame,
    *,
    held_out: pd.DataFrame | None = None,
    attack: str | None = None,
    checkpoint: str | None = None,
    margin: float = MARGIN,
    force: bool = False,
    unfinished: Iterable[str] = (),
) -> Comparison:
    """Compare one model for every trade-off with one model for each.

    Args:
        points: A frame of points, as `studies.points` returns it. With its ``folder`` column
            intervals are paired by image; without, they are not, and the answer says so.
        held_out: Points of the same models on held-out images, by which λ is chosen; None reads
            them from the folders that ``points`` names.
        attack: Which attack's RA to use; None is the worst over the attacks at the radius of
            training (``pgd20@0.05`` is at another) that judged the most operating points on the
            most test images.
        checkpoint: Which weights to compare; None is the last where all models were judged with
            those, else the first rule in the alphabet that all were judged with.
        margin: How much worse, as a fraction, still counts as free.
        force: Compare points of different settings all the same.
        unfinished: Trials that are planned and not done, for a note.

    Returns:
        The comparison; a pure function of the points.

    Raises:
        ComparisonError: There are no points, or they come from different settings.
    """
    stored = _stored(points, held_out)
    return _compare(points, stored, attack, checkpoint, margin, force, unfinished)


def _stored(points: pd.DataFrame, held_out: pd.DataFrame | None) -> Stored:
    """Return what lies beside the points, with the points on held-out images that are given."""
    stored = stored_beside(points)
    return stored if held_out is None else Stored(stored.correct, held_out)


def _compare(
    points: pd.DataFrame,
    stored: Stored,
    attack: str | None,
    checkpoint: str | None,
    margin: float,
    force: bool,
    unfinished: Iterable[str] = (),
) -> Comparison:
    """Compare as `compare` does, with what is stored of the points, or of more, at hand."""
    grid, chosen, notes = _sound(points, attack, checkpoint, force)
    missing, masking = _missing(points), masking_table(grid)
    points, correct, bounds = worst_case(grid, stored.correct, chosen)
    points = points.sort_values("point_key", ignore_index=True)
    notes = list(dict.fromkeys(notes + bounds)) + precision_notes(points)
    notes += distance_notes(grid, points, chosen, correct, masking)
    draws = Resampled(points, correct)
    held_out = held_out_values(draws, points, stored.held_out)
    knob = same_knob(draws)
    pairs = choose_points(draws, held_out)
    own, rival = (_of(pairs or knob, draws.conditional == kind) for kind in (True, False))
    table, others, at_knob = (pair_table(some, draws, margin) for some in (own, rival, knob))
    reference, variants = against_plainest(draws)
    fronts = measure_fronts(draws, points, knob, margin)
    seeds = int(draws.cells["seeds"].min())
    if len(table) or not held_out.images:
        notes += held_out.notes
    notes += draws.notes + unequal_note(fronts) + start_notes(fronts)
    notes += missing_notes(points, grid, unfinished)
    return Comparison(
        attack=label_of(chosen),
        attacks=chosen,
        checkpoint=", ".join(points["checkpoint_rule"].unique()),
        table=pd.concat([table, others], ignore_index=True) if rival else table,
        rivals=against_rivals(draws, fronts),
        question=BEST if pairs else SAME,
        same_knob=at_knob,
        chosen_on=held_out.images if pairs else 0,
        chosen_under=held_out.attack,
        variants=variants,
        reference=reference,
        cells=draws.cells,
        nearest=nearest_dedicated(draws),
        fronts=fronts,
        verdict=verdict_on_all(table, seeds),
        seeds=seeds,
        paired=not draws.unpaired,
        margin=margin,
        notes=notes,
        missing=missing,
        masking=masking,
    )


def _missing(points: pd.DataFrame) -> list[str]:
    """Name the models of the study that a frame of its points lacks, as far as the frame knows."""
    models: Mapping[str, str] = points.attrs.get(MODELS, {})
    there = set(points["run_key"])
    return [name for run_key, name in models.items() if run_key not in there]


def _sound(
    points: pd.DataFrame, attack: str | None, checkpoint: str | None, force: bool
) -> tuple[pd.DataFrame, list[str], list[str]]:
    """Return the points that can be compared under every attack, what RA is under, and notes.

    Raises:
        ComparisonError: There are none, or none that go together.
    """
    points = points.copy(deep=False)
    points.attrs = {}  # pandas would copy it at every step
    points, notes = finite_points(points)
    points, lacking = one_checkpoint(points, checkpoint)
    points = _with_recipes(points)
    names, shared = _short_names(points)
    points = points.assign(variant=points["variant"].map(names))
    attacks = sorted(points["attack"].unique())
    if attack is not None and attack not in attacks:
        raise ComparisonError(f"No point was judged by '{attack}'; there are {', '.join(attacks)}.")
    chosen, mixed = _comparable(points, own_radius(points) if attack is None else [attack], force)
    return points, chosen, notes + lacking + shared + mixed


def _of(pairs: Pairs, which: NDArray[np.bool_]) -> Pairs:
    """Return the pairs of which the once-for-all cell is one of some."""
    return [(i, j) for i, j in pairs if which[i]]


def _comparable(
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


def compare_all(
    points: pd.DataFrame,
    *,
    held_out: pd.DataFrame | None = None,
    attack: str | None = None,
    checkpoint: str | None = None,
    margin: float = MARGIN,
    force: bool = False,
    unfinished: Iterable[str] = (),
) -> tuple[Comparison, list[Comparison]]:
    """Compare under the attacks that `compare` would take, and under each one alone.

    Args:
        points: See `compare`, also for the rest.
        held_out: Points on held-out images.
        attack: The first attack.
        checkpoint: Which weights.
        margin: How much worse still counts as free.
        force: Compare points of different settings all the same.
        unfinished: Trials that are not done.

    Returns:
        The first comparison, with a note for each attack that cannot be compared under; and the
        others, by the names of their attacks.

    Raises:
        ComparisonError: The first cannot be made.
    """
    stored = _stored(points, held_out)
    options = (checkpoint, margin, force)
    first = _compare(points, stored, attack, *options, unfinished)
    others, notes = [], []
    for other in sorted(set(points["attack"]) - {first.attack}):
        try:
            others.append(_compare(points, stored, other, *options))
        except ComparisonError as error:
            notes.append(f"Not compared under '{other}': {error}")
    return replace(first, notes=first.notes + notes), others


def _with_recipes(points: pd.DataFrame) -> pd.DataFrame:
    """Tell models apart by those settings of their own in which any two differ.

    A once-for-all network that was trained otherwise is another variant. Dedicated models are
    retrained one by one, as the user sees fit for each value: all are of one front.
    """
    if "recipe" not in points:  # a frame that is older than the column
        points = points.assign(recipe="")
    words = points["recipe"].fillna("").str.split()
    shared = set.intersection(*map(set, words))
    own = words.map(lambda some: " ".join(word for word in some if word not in shared))
    once = points["method"].isin(ONCE)
    variant = (points["variant"] + " " + own).str.strip()
    return points.assign(
        variant=points["variant"].where(~once, variant), recipe=own.where(~once, "")
    )


def _short_names(points: pd.DataFrame) -> tuple[dict[str, str], list[str]]:
    """Name variants by their method and those options in which its variants differ.

    Returns:
        The names by variant, and notes that say what the variants of a method have in common.
    """
    names: dict[str, str] = {}
    notes = []
    for method, variants in points.groupby("method")["variant"].unique().items():
        options = {variant: variant.split()[1:] for variant in variants}
        shared = set.intersection(*(set(chosen) for chosen in options.values()))
        if shared:
            notes.append(f"'{method}' stands for {method} with {', '.join(sorted(shared))}.")
        for variant, chosen in options.items():
            odd = [option for option in chosen if option not in shared]
            names[variant] = " ".join([variant.split()[0], *odd])
    return names, notes
