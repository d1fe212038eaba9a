"""The answer of a comparison as it is kept and said; `comparison.verdict` gives the verdict."""

import json
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd

from studies.comparison.assumed import Rates
from studies.comparison.curves import area_remark
from studies.comparison.fronts import front_remark
from studies.comparison.gained import Gains
from studies.comparison.rivals import LOSES, rival_remarks
from studies.comparison.verdict_words import counted, verdict_said
from studies.comparison.wording import areas_and_price, heading
from studies.known_methods import RIVALS
from studies.naming import in_points, listed, radius_text
from studies.results.masking import masking_verdict
from studies.statistics.intervals import LEVEL, Interval

Question = Literal["best λ", "the same λ"]
BEST: Question = "best λ"
SAME: Question = "the same λ"


@dataclass(frozen=True)
class Comparison:
    """The answer to "is the in-situ trade-off free?", under one attack.

    Attributes:
        attack: What RA is under: an attack, or the worst of several.
        attacks: Their names.
        checkpoint: The weights that were judged; see `oat.recipe.CheckpointRule`.
        table: A row for each dedicated operating point, with OAT's beside it: SA, RA, their
            differences (OAT minus dedicated) with intervals, the verdict, what would decide it, the
            training time.
        rivals: A row for each variant of OAT against each rival (mixed or interpolated models); see
            `studies.comparison.rivals.against_rivals`. In ``table`` rivals have rows of their own,
            which do not count in the verdict on OAT.
        question: How OAT's operating points were found: the ``best λ`` for each dedicated model, as
            chosen on held-out images, or ``the same λ``.
        same_knob: The same table at the λ and width of each dedicated model that has a λ.
        chosen_on: Held-out images by which λ was chosen; 0 where it was not.
        chosen_under: The attack that RA was under there.
        variants: A row for each operating point of every variant of OAT but the plainest, with its
            differences from that one at the same λ and width.
        reference: The plainest variant; None if there are not two.
        cells: A row for each operating point: SA and RA, mean over seeds, with intervals; ``eps``
            is the radius of the attack that RA is under;
            ``run_keys`` and ``point_keys`` name what it is of, a word for each seed.
        nearest: A row for each operating point of OAT that has dedicated ones of its width:
            ``once`` and ``dedicated`` are rows of ``cells``, the second the nearest of all methods
            in SA and RA; with the differences between them.
        fronts: A row for each variant at each width (and over all, where there are several), and
            one for all dedicated models there: models, operating points, hypervolume with
            interval, training time, bytes; for OAT, what tells it from the dedicated models
            there, see `studies.comparison.fronts`. The rows of OATS at its widths have one and the
            same model.
        verdict: ``free``, ``better``, ``not free`` or ``undecided``, over the whole table; ``one
            seed`` where no setting was trained twice, since one training each compares networks and
            not methods.
        seeds: Trainings of each setting, the fewest that any has.
        paired: Whether all intervals are paired by test image.
        margin: How much worse still counts as free.
        notes: What a reader must know: seeds, missing cells, unpaired intervals.
        missing: Models of the study that the points lack, named for people.
        mixed: What should agree between the points and does not, where they were forced.
        masking: A row for each operating point and seed that says what was checked for masked
            gradients; see `studies.results.masking.masking_table`.
        gains: What tuning gained for each method, where the models are tuned.
        outside: Networks that were trained elsewhere, which are in no verdict; see
            `studies.comparison.outside.outside_table`.
        radii: What the comparison is at each radius, where the models were attacked at several.
        rates: How far the models differ, for planning another study; see `studies.power`.
        without_row: Retrained models that OAT could be set beside and is not, as neither a choice
            nor the same λ is known for them; the verdict is not *free* then.
        left_out: Attacks that belong to the worst case and whose points are not comparable;
            likewise.
    """

    attack: str
    attacks: list[str]
    checkpoint: str
    table: pd.DataFrame
    rivals: pd.DataFrame
    question: Question
    same_knob: pd.DataFrame
    chosen_on: int
    chosen_under: str
    variants: pd.DataFrame
    reference: str | None
    cells: pd.DataFrame
    nearest: pd.DataFrame
    fronts: pd.DataFrame
    verdict: str
    seeds: int
    paired: bool
    margin: float
    notes: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)
    masking: pd.DataFrame = field(default_factory=pd.DataFrame)
    gains: Gains | None = None
    radii: "Radii | None" = None
    rates: Rates | None = None
    without_row: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    outside: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def under(self) -> str:
        """What RA is under; with the radius where there are several."""
        if self.radii is None:
            return self.attack
        return f"{self.attack} at ε={radius_text(self.radii.decides)}"

    @property
    def by_radius(self) -> pd.DataFrame:
        """What the comparison is at each radius; empty if there is one. See `Radii.table`."""
        return pd.DataFrame() if self.radii is None else self.radii.table

    @property
    def own_rows(self) -> pd.DataFrame:
        """The rows of the table that count in the verdict: those of OAT and OATS."""
        if self.table.empty:
            return self.table
        return self.table[~self.table["once"].str.split().str[0].isin(RIVALS)]

    @property
    def heading(self) -> str:
        """What the table sets beside the retrained models, and where it runs."""
        return heading(self.table, self.question, "OAT" if self.own_rows.size else "")

    @property
    def ratios(self) -> dict[str, Interval]:
        """Hypervolume ratio of each front of OAT that has dedicated models beside it, by name."""
        known = self.fronts[self.fronts["ratio"].notna()]
        return {
            str(row.front): Interval(row.ratio, row.ratio_low, row.ratio_high)
            for row in known.itertuples()
        }

    @property
    def caveats(self) -> list[str]:
        """What narrows the answer, a clause for each; empty if nothing does."""
        said = []
        if self.mixed:
            said.append(f"the points come from different {listed(self.mixed)}")
        if count := len(self.missing):
            what = "1 model of the study is" if count == 1 else f"{count} models of the study are"
            said.append(f"{what} missing ({listed(self.missing)})")
        if self.left_out:
            said.append(f"points under {listed(self.left_out)} are not comparable and left out")
        if self.without_row and not self.own_rows.empty:
            names = listed(self.without_row)
            said.append(f"too few held-out images are evaluated for a row of {names}")
        if not self.paired:
            said.append("some results are not known by image, so intervals are wider than need be")
        if self.question == SAME:
            said.append(f"OAT runs at {SAME}, as too few held-out images are evaluated to choose")
        return said

    def answer(self) -> str:
        """Say the answer: the verdict, the areas and the price; and what narrows it, if anything.

        Accuracies are in percent, areas are fractions.
        """
        if self.own_rows.empty and (names := listed(self.without_row)):
            first = f"There is no verdict: nothing says at which λ OAT is set beside {names}"
        elif self.table.empty:
            if self.reference is None:
                return "Nothing to compare: points of OAT and of a retrained model are needed."
            return f"There is no retrained model; variants are compared with '{self.reference}'."
        elif self.own_rows.empty:
            return "Nothing to compare with its rivals: points of OAT are needed."
        else:
            given = f"{self.counts()} ({', '.join(self.conditions())})"
            first = f"{verdict_said(self.verdict, self.cells)}: {given}"
        parts = [f"{first}.", areas_and_price(self.ratios, self.fronts)]
        lost = [row for row in self.rivals.to_dict("records") if row["verdict"] == LOSES]
        if lost:
            names = listed(row["rival"] for row in lost)
            parts.insert(0, f"OAT loses to {names}, whose front has more area.")
        if self.caveats:
            parts.append(f"Limits: {'; '.join(self.caveats)}.")
        return " ".join(parts)

    def counts(self) -> str:
        """Say against how many retrained models OAT has each verdict; "" if there is none."""
        return "" if self.own_rows.empty else counted(self.own_rows)

    def conditions(self) -> list[str]:
        """Say what the verdicts hold for: radius where there are several, margin, level, λ."""
        radius = [] if self.radii is None else [f"at ε={radius_text(self.radii.decides)}"]
        chosen = f"λ chosen on {self.chosen_on} held-out images"
        return [
            *radius,
            f"margin {in_points(self.margin)} in SA and RA",
            f"{LEVEL:.0%} intervals",
            *([chosen] if self.question == BEST else []),
        ]

    def __str__(self) -> str:
        """Return the answer with all that a reader must know of it, a line for each."""
        return "\n".join([self.answer(), *self.told()])

    def told(self) -> list[str]:
        """Say all that a reader must know beside the answer, the most important first."""
        masking = self._masking_remark()
        alarming = masking_verdict(self.masking).state == "bad"
        return [
            *([masking] if alarming else []),
            *self.notes,
            *self.rival_remarks(),
            *self.front_remarks(),
            *self.radius_remarks(),
            *([] if self.gains is None else self.gains.notes),
            *([] if alarming else [masking]),
        ]

    def record(self) -> dict[str, Any]:
        """Return the comparison as plain values, such as JSON holds: what `--json` prints."""

        def records(table: pd.DataFrame) -> Any:
            return json.loads(table.to_json(orient="records"))

        return {
            "attack": self.attack,
            "verdict": self.verdict,
            "answer": self.answer(),
            "caveats": self.caveats,
            "question": self.question,
            "seeds": self.seeds,
            "margin": self.margin,
            "checkpoint": self.checkpoint,
            "hypervolume_ratios": {
                name: records(pd.DataFrame([vars(r)]))[0] for name, r in self.ratios.items()
            },
            "table": records(self.table),
            "same_knob": records(self.same_knob),
            "rivals": records(self.rivals),
            "outside": records(self.outside),
            "variants": records(self.variants),
            "cells": records(self.cells),
            "fronts": records(self.fronts),
            "masking": records(self.masking),
            "tuning": None if self.gains is None else records(self.gains.table),
            "by_radius": records(self.by_radius),
            "radii": [] if self.radii is None else records(self.radii.curves),
            "areas": [] if self.radii is None else records(self.radii.areas),
            "rates": None if self.rates is None else records(pd.DataFrame([vars(self.rates)]))[0],
            "remarks": self.remarks(),
            "notes": self.notes,
        }

    def front_remarks(self) -> list[str]:
        """Say what else the fronts tell, a sentence for each once-for-all front."""
        known = self.fronts[self.fronts["gap"].notna()]
        return [front_remark(row, self.margin) for row in known.to_dict("records")]

    def rival_remarks(self) -> list[str]:
        """Say how OAT stands to each rival, a sentence for each."""
        return rival_remarks(self.rivals)

    def radius_remarks(self) -> list[str]:
        """Say the area under RA by radius, where there are several radii."""
        if self.radii is None or self.radii.areas["area"].isna().all():
            return []
        return [area_remark(self.radii.areas, max(self.radii.at))]

    def remarks(self) -> list[str]:
        """Say what else the fronts tell, and the checks for masked gradients."""
        found = [*self.front_remarks(), *self.rival_remarks(), *self.radius_remarks()]
        return [*found, self._masking_remark()]

    def _masking_remark(self) -> str:
        verdict = masking_verdict(self.masking)
        return " ".join([verdict.said, *(f"{sign.rstrip('.')}." for sign in verdict.by_sign)])


@dataclass(frozen=True)
class Radii:
    """What a comparison is at each of several radii.

    Attributes:
        decides: The radius of the verdict.
        at: The comparison at each radius, by rising radius.
        table: A row for each radius and front of a once-for-all model: ``eps``, whether it
            ``decides``, ``attacks`` and ``images``; of ``models`` retrained ones how many rows have
            each verdict; the ``verdict`` there; the ``front`` with its hypervolume ``ratio`` and
            interval.
        curves: RA(ε) with intervals; see `studies.comparison.curves.radius_curves`.
        areas: The area under each curve; see `studies.comparison.curves.areas_under`.
    """

    decides: float
    at: dict[float, Comparison]
    table: pd.DataFrame
    curves: pd.DataFrame
    areas: pd.DataFrame
