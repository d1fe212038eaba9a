"""Free against retrained: the comparison that the project exists for.

A pure function of a frame of points and, where it is stored, of which images each point has
right; see `studies.statistics.intervals` for the intervals.
"""

from collections.abc import Iterable
from dataclasses import replace

import pandas as pd

from studies.comparison.answer import Comparison
from studies.comparison.fronts import measure_fronts
from studies.comparison.guards import (
    check_comparable,
    finite_points,
    one_checkpoint,
    precision_notes,
)
from studies.comparison.notes import missing_notes, stronger_note, unequal_note, width_note
from studies.comparison.pairs import (
    against_plainest,
    nearest_dedicated,
    pair_cells,
    pair_table,
)
from studies.comparison.resampling import Resampled
from studies.comparison.verdict import MARGIN, verdict_on_all
from studies.errors import ComparisonError
from studies.methods import ONCE
from studies.results.masking import masking_table
from studies.results.reading import correctness
from studies.trial.records import Correct


def compare(
    points: pd.DataFrame,
    *,
    attack: str | None = None,
    checkpoint: str | None = None,
    margin: float = MARGIN,
    force: bool = False,
    unfinished: Iterable[str] = (),
) -> Comparison:
    """Compare one model for every trade-off with one model for each.

    Args:
        points: A frame of points, as `studies.points` returns it. With its ``folder`` column
            intervals are paired by image; without, they are not, and a note says so.
        attack: Which attack's RA to use; None is, of the attacks at the radius of training
            (``pgd20@0.05`` is at another) that judged the most operating points on the most test
            images, the one that leaves least RA.
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
    return _compare(points, correctness(points), attack, checkpoint, margin, force, unfinished)


def _compare(
    points: pd.DataFrame,
    correct: Correct,
    attack: str | None,
    checkpoint: str | None,
    margin: float,
    force: bool,
    unfinished: Iterable[str] = (),
) -> Comparison:
    """Compare as `compare` does, with the correctness of the points, or of more, at hand."""
    points, notes = finite_points(points)
    points, lacking = one_checkpoint(points, checkpoint)
    notes += lacking
    points = _with_recipes(points)
    names, shared = _short_names(points)
    points = points.assign(variant=points["variant"].map(names))
    notes += shared
    attacks = sorted(points["attack"].unique())
    chosen = _strongest(points) if attack is None else attack
    if chosen not in attacks:
        raise ComparisonError(f"No point was judged by '{chosen}'; there are {', '.join(attacks)}.")
    grid, masking = points, masking_table(points)
    notes += stronger_note(points, chosen, correct)
    points = points[points["attack"] == chosen].sort_values("point_key", ignore_index=True)
    notes += check_comparable(points, force) + precision_notes(points)
    draws = Resampled(points, correct)
    pairs = pair_cells(draws)
    table = pair_table(pairs, draws, margin)
    reference, variants = against_plainest(draws)
    fronts = measure_fronts(draws, points, pairs, margin)
    notes += (
        draws.notes
        + unequal_note(fronts)
        + width_note(table, draws.cells, len(draws.seeds), margin)
    )
    notes += missing_notes(points, grid, unfinished)
    return Comparison(
        attack=chosen,
        checkpoint=", ".join(points["checkpoint_rule"].unique()),
        table=table,
        variants=variants,
        reference=reference,
        cells=draws.cells,
        nearest=nearest_dedicated(draws),
        fronts=fronts,
        verdict=verdict_on_all(table),
        margin=margin,
        notes=notes,
        masking=masking,
    )


def compare_all(
    points: pd.DataFrame,
    *,
    attack: str | None = None,
    checkpoint: str | None = None,
    margin: float = MARGIN,
    force: bool = False,
    unfinished: Iterable[str] = (),
) -> tuple[Comparison, list[Comparison]]:
    """Compare under the attack that `compare` would take, and under each other one.

    Args:
        points: See `compare`, also for the rest.
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
    correct = correctness(points)
    options = (checkpoint, margin, force)
    first = _compare(points, correct, attack, *options, unfinished)
    others, notes = [], []
    for other in sorted(set(points["attack"]) - {first.attack}):
        try:
            others.append(_compare(points, correct, other, *options))
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


def _strongest(points: pd.DataFrame) -> str:
    """Return the attack that leaves least RA, of those at the own radius that judged most.

    Most is the most operating points, and of those the most images.
    """
    attacks = points.groupby("attack").agg(
        ra=("ra", "mean"), judged=("ra", "size"), images=("images", "min")
    )
    own = attacks[~attacks.index.str.contains("@")]
    attacks = own if len(own) else attacks
    for most in ("judged", "images"):
        attacks = attacks[attacks[most] == attacks[most].max()]
    return str(attacks["ra"].idxmin())
