"""Free against retrained: the comparison that the project exists for.

A pure function of a frame of points and, where it is stored, of which images each point has
right; see `studies.intervals` for the intervals.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from studies.errors import ComparisonError
from studies.fronts import measure_fronts
from studies.guards import (
    check_comparable,
    finite_points,
    missing_notes,
    one_checkpoint,
    precision_notes,
    stronger_note,
    unequal_note,
    width_note,
)
from studies.intervals import LEVEL, Interval
from studies.masking import masking_table, masking_verdict
from studies.methods import ONCE
from studies.pairs import VERDICTS, against_plainest, nearest_dedicated, pair_cells, pair_table
from studies.records import Correct
from studies.resampling import Resampled
from studies.results import correctness

if TYPE_CHECKING:
    from studies.gains import Gains

MARGIN = 0.01


@dataclass(frozen=True)
class Comparison:
    """The answer to "is the in-situ trade-off free?", under one attack.

    Attributes:
        attack: The attack that RA is under.
        checkpoint: The weights that were judged; see `oat.recipe.CheckpointRule`.
        table: A row for each dedicated operating point, with OAT's beside it: SA, RA, their
            differences (OAT minus dedicated) with intervals, the verdict, the training time.
        variants: A row for each operating point of every variant of OAT but the plainest, with its
            differences from that one at the same λ and width.
        reference: The plainest variant; None if there are not two.
        cells: A row for each operating point: SA and RA, mean over seeds, with intervals;
            ``run_keys`` and ``point_keys`` name what it is of, a word for each seed.
        nearest: A row for each operating point of OAT that has dedicated ones of its width:
            ``once`` and ``dedicated`` are rows of ``cells``, the second the nearest of all methods
            in SA and RA; with the differences between them.
        fronts: A row for each variant at each width (and over all, where there are several), and
            one for all dedicated models there: models, operating points, hypervolume with
            interval, training time, bytes; for OAT, what tells it from the dedicated models
            there, see `studies.fronts`. The rows of OATS at its widths have one and the same model.
        verdict: ``free``, ``better``, ``not free`` or ``undecided``, over the whole table.
        margin: How much worse still counts as free.
        notes: What a reader must know: seeds, missing cells, unpaired intervals.
        masking: A row for each operating point and seed that says what was checked for masked
            gradients; see `studies.masking.masking_table`.
        gains: What tuning gained for each method, where the models are tuned.
    """

    attack: str
    checkpoint: str
    table: pd.DataFrame
    variants: pd.DataFrame
    reference: str | None
    cells: pd.DataFrame
    nearest: pd.DataFrame
    fronts: pd.DataFrame
    verdict: str
    margin: float
    notes: list[str] = field(default_factory=list)
    masking: pd.DataFrame = field(default_factory=pd.DataFrame)
    gains: "Gains | None" = None

    @property
    def ratios(self) -> dict[str, Interval]:
        """Hypervolume ratio of each front of OAT that has dedicated models beside it, by name."""
        known = self.fronts[self.fronts["ratio"].notna()]
        return {
            str(row.front): Interval(row.ratio, row.ratio_low, row.ratio_high)
            for row in known.itertuples()
        }

    def answer(self) -> str:
        """Say the answer in one sentence."""
        if self.table.empty:
            said = "Nothing to compare: the study needs OAT and at least one dedicated model."
            if self.reference is None:
                return said
            return f"No dedicated model to compare with; variants stand beside '{self.reference}'."
        counts = self.table["verdict"].value_counts()
        parts = ", ".join(f"{counts[v]} {v}" for v in VERDICTS if v in counts)
        what = "dedicated models" if self.table["once"].nunique() == 1 else "comparisons"
        return (
            f"The in-situ trade-off is {self.verdict.upper()} here: of {len(self.table)} {what}, "
            f"OAT is {parts} (margin {in_points(self.margin)} in SA and RA, "
            f"{LEVEL:.0%} intervals); {self._ratio_text()}."
        )

    def front_remarks(self) -> list[str]:
        """Say what else the fronts tell, a sentence for each once-for-all front."""
        known = self.fronts[self.fronts["gap"].notna()]
        return [_front_remark(row, self.margin) for row in known.to_dict("records")]

    def remarks(self) -> list[str]:
        """Say what else the fronts tell, and the checks for masked gradients."""
        verdict = masking_verdict(self.masking)
        checks = " ".join([verdict.said, *(f"{flag.rstrip('.')}." for flag in verdict.flagged)])
        return [*self.front_remarks(), checks]

    def _ratio_text(self) -> str:
        if not self.ratios:
            return "the dedicated front has no area to compare with"
        texts = {
            name: f"{r.value:.3f} [{r.low:.3f}, {r.high:.3f}]" for name, r in self.ratios.items()
        }
        if len(texts) == 1:
            return f"hypervolume ratio {next(iter(texts.values()))}"
        return "hypervolume ratios " + ", ".join(f"{name} {text}" for name, text in texts.items())


def in_points(fraction: float) -> str:
    """Write a difference of accuracies for people, such as ``1 point``."""
    return f"{100 * fraction:g} point{'' if fraction == 0.01 else 's'}"


def _front_remark(row: Mapping[Any, Any], margin: float) -> str:
    covered = (
        f"The front of {row['front']} reaches {row['covered']:.0%} of the dedicated front within "
        f"{in_points(margin)}"
    )
    where = f"at SA {100 * row['gap_at']:.1f}"
    if row["sa_max"] < row["gap_at"] - margin - 1e-12:
        where += f", which it does not reach (its highest is {100 * row['sa_max']:.1f})"
    gap = (
        f"at worst it lies {100 * row['gap']:.1f} points of RA below, {where}"
        if row["gap"] > 0
        else f"it nowhere lies below (largest gap {100 * row['gap']:.1f} points of RA)"
    )
    number = row["break_even"]
    price = f"it is the cheaper from {number:g} dedicated model{'s' if number > 1 else ''} on"
    return f"{covered}; {gap}; {price}."


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
        verdict=_overall(table),
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


def _overall(table: pd.DataFrame) -> str:
    """Give the verdict on all pairs: the worst that any of them has."""
    found = set(table["verdict"]) if len(table) else set()
    for verdict in reversed(VERDICTS):
        if verdict in found:
            return verdict
    return "undecided"
