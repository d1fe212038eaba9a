"""Free against retrained: the comparison that the project exists for.

A pure function of a frame of points and, where it is stored, of which images each point has
right; see `studies.statistics.intervals` for the intervals.
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from studies.comparison.answer import BEST, SAME, Comparison
from studies.comparison.assumed import MARGIN
from studies.comparison.by_radius import others_by_radius, with_radii
from studies.comparison.choosing import choose_points, held_out_values, with_those_left
from studies.comparison.curves import Judged
from studies.comparison.fronts import measure_fronts
from studies.comparison.grid import Grid, comparable, lost_models, not_compared, sound_points
from studies.comparison.guards import (
    differing,
    precision_notes,
)
from studies.comparison.notes import distance_notes, missing_notes, start_notes, unequal_note
from studies.comparison.outside import outside_remarks, outside_table
from studies.comparison.pairs import (
    Pairs,
    against_plainest,
    nearest_dedicated,
    pair_table,
    same_knob,
)
from studies.comparison.resampling import Resampled
from studies.comparison.rivals import against_rivals
from studies.comparison.verdict import verdict_on_all
from studies.errors import ComparisonError
from studies.results.reading import Stored, stored_beside
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
            most test images. Where the models were attacked at other radii as well, the comparison
            there stands in `Comparison.radii`.
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
    grid = sound_points(points, _stored(points, held_out), checkpoint, margin, force)
    return _compare(grid, attack, unfinished)


def _stored(points: pd.DataFrame, held_out: pd.DataFrame | None) -> Stored:
    """Return what lies beside the points, with the points on held-out images that are given."""
    stored = stored_beside(points)
    return stored if held_out is None else Stored(stored.correct, held_out)


def _compare(grid: Grid, attack: str | None, unfinished: Iterable[str] = ()) -> Comparison:
    """Compare under an attack, or the worst over those at the radius of training; see `compare`.

    Where the models were attacked at other radii as well, these are compared at too.
    """
    names = own_radius(grid.points) if attack is None else [attack]
    first, judged = _under(grid, names, unfinished)
    others = others_by_radius(grid.points, judged, attack)
    return with_radii(
        first,
        judged,
        others,
        lambda some: _under(grid, some),
        asked=attack is not None,
        force=grid.force,
    )


def _under(
    grid: Grid, attacks: list[str], unfinished: Iterable[str] = ()
) -> tuple[Comparison, Judged]:
    """Compare under the worst over some attacks of one radius, as far as their points go together.

    Raises:
        ComparisonError: Those of none do, or no point was judged by all of them.
    """
    margin, masking = grid.margin, grid.masking
    known = sorted(grid.points["attack"].unique())
    if unknown := [attack for attack in attacks if attack not in known]:
        raise ComparisonError(
            f"No point was evaluated under '{unknown[0]}'; known: {', '.join(known)}."
        )
    chosen, mixed = comparable(grid.points, attacks, grid.force)
    left_out = [attack for attack in attacks if attack not in chosen]
    points, correct, bounds = worst_case(grid.points, grid.stored.correct, chosen)
    if points.empty:
        raise ComparisonError(
            f"No operating point was evaluated under each of {', '.join(chosen)}; name one "
            "(`--attack`), or evaluate all models under the same attacks."
        )
    points = points.sort_values("point_key", ignore_index=True)
    draws = Resampled(points, correct)
    held_out = held_out_values(draws, points, grid.stored.held_out)
    knob = same_knob(draws)
    picked = choose_points(draws, held_out)
    pairs, without_row = with_those_left(picked, knob, draws)
    own = _of(pairs or knob, draws.conditional)
    rival = _of(picked, ~draws.conditional)
    missing = [*grid.missing, *lost_models(grid.points, points)]
    table, others, at_knob = (pair_table(some, draws, margin) for some in (own, rival, knob))
    reference, variants = against_plainest(draws)
    fronts = measure_fronts(draws, points, knob, margin)
    seeds = int(draws.cells["seeds"].min())
    outside, lacking = outside_table(grid.outside, grid.stored.correct, chosen, points)
    notes = [  # the most important first
        *dict.fromkeys(grid.notes + mixed + bounds),
        *draws.notes,
        *missing_notes(points, grid.points, unfinished),
        *distance_notes(grid.points, points, chosen, correct, masking),
        *(held_out.notes if len(table) or not held_out.images else []),
        *precision_notes(points),
        *start_notes(fronts),
        *outside_remarks(outside),
        *lacking,
        *unequal_note(fronts),
        *grid.names,
    ]
    found = Comparison(
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
        verdict=verdict_on_all(table, seeds, complete=not (without_row or missing or left_out)),
        without_row=without_row,
        left_out=left_out,
        seeds=seeds,
        paired=not draws.unpaired,
        margin=margin,
        notes=notes,
        missing=missing,
        mixed=differing(grid.points[grid.points["attack"].isin(chosen)]),
        masking=masking,
        outside=outside,
        rates=draws.rates(own or knob),
    )
    return found, Judged(points, correct)


def _of(pairs: Pairs, which: NDArray[np.bool_]) -> Pairs:
    """Return the pairs of which the once-for-all cell is one of some."""
    return [(i, j) for i, j in pairs if which[i]]


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
    grid = sound_points(points, _stored(points, held_out), checkpoint, margin, force)
    first = _compare(grid, attack, unfinished)
    radii = {} if first.radii is None else first.radii.at
    at_radii = {other.attack: other for other in radii.values() if other.attack != first.attack}
    several = [other for other in at_radii.values() if len(other.attacks) > 1]
    others, notes = [], []
    for other in sorted(set(points["attack"]) - {first.attack}):
        try:
            others.append(at_radii.get(other) or _under(grid, [other])[0])
        except ComparisonError as error:
            notes.append(not_compared(other, error))
    return replace(first, notes=list(dict.fromkeys(first.notes + notes))), several + others
