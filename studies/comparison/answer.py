"""The answer of a comparison as it is kept and said; `comparison.verdict` gives the verdict."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from studies.comparison.verdict import VERDICTS
from studies.naming import in_points
from studies.results.masking import masking_verdict
from studies.statistics.intervals import LEVEL, Interval


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
            there, see `studies.comparison.fronts`. The rows of OATS at its widths have one and the
            same model.
        verdict: ``free``, ``better``, ``not free`` or ``undecided``, over the whole table.
        margin: How much worse still counts as free.
        notes: What a reader must know: seeds, missing cells, unpaired intervals.
        masking: A row for each operating point and seed that says what was checked for masked
            gradients; see `studies.results.masking.masking_table`.
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


@dataclass(frozen=True)
class Gains:
    """What the tuning of a study gained.

    Attributes:
        table: A row for each method: trials, device seconds and budget; hypervolume on held-out
            images of the study's own settings and of the winners (``start``, ``tuned``; NaN where
            not all of the former were tried); and the same on test images (``test_start``,
            ``test_tuned``, and their difference ``test_gain`` with interval; NaN where
            not all models of both are finished).
        notes: What a reader must know.
    """

    table: pd.DataFrame
    notes: list[str]
