"""The plan of a study: its trials, their state, and how long they take."""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypedDict

from studies import notebook
from studies.naming import time_range
from studies.planning.estimates import (
    ENDS,
    Basis,
    Bound,
    Estimate,
    EstimateRecord,
    Work,
    basis_in_words,
)
from studies.planning.rows import MEANINGS, Line, Row, apart, folded
from studies.study_file.study import Study
from studies.trial.shapes import Need, TrialConfig, TrialJob

State = Literal[
    "done", "evaluate", "unfinished", "missing", "waiting", "failed", "damaged", "diverged"
]
Split = Literal["test", "val"]
READY: frozenset[State] = frozenset({"evaluate", "unfinished", "missing", "failed", "damaged"})
TO_RUN: frozenset[State] = READY | {"waiting"}

ONLY_CHECKS = "the checks for masked gradients are to be made"
"""Reason of a trial that has all its points."""


class Left(NamedTuple):
    """What is still to be judged of a model that is trained.

    Attributes:
        points: How many points, those on held-out images included.
        units: Their cost and that of the checks; see `PlannedTrial.judge_units`.
    """

    points: int
    units: float


@dataclass(frozen=True)
class PlannedTrial:
    """One model to train and judge.

    Attributes:
        run_key: 12 hex digits of everything that decides the weights.
        label: Method and value, for people.
        seed: Seed of the trial.
        job: What `studies.trial.run.run_trial` takes.
        state: What its folder says: ``evaluate`` is trained with points missing, ``unfinished``
            has a checkpoint; ``failed`` is tried again and ``damaged`` redone by the next run,
            ``diverged`` is final. ``waiting`` needs the weights of a trial that is not trained.
        units: Estimated cost of training, in forward passes of the plain network.
        judge_units: Estimated cost of judging all its points, likewise.
        reason: Why it failed, diverged or waits, or what is to be evaluated.
        kind: The run key without the seed: trials of one kind take the same time.
        estimate: How long it takes; None in plans that nobody asks for it.
        left: What of it is still to be judged; None while it is not trained.
    """

    run_key: str
    label: str
    seed: int
    job: TrialJob
    state: State
    units: float
    judge_units: float
    reason: str | None = None
    kind: str = ""
    estimate: Estimate | None = None
    left: Left | None = None

    @property
    def needs_run(self) -> bool:
        """Whether a run has something to do for it."""
        return self.state in TO_RUN

    @property
    def sources(self) -> dict[str, str]:
        """Run keys of the trials whose weights it needs, by their labels."""
        return self.job.get("sources", {})


class PlanRow(TypedDict):
    """A trial as `oat plan --json` prints it.

    Attributes:
        run_key: See `PlannedTrial`.
        trial: Its label.
        seed: See `PlannedTrial`.
        state: Likewise.
        reason: Likewise.
        resources: What it asks of a node.
        device_hours: Estimated training time, validations apart.
        estimate: How long it takes.
        config: All that decides its weights.
        sources: See `PlannedTrial`.
    """

    run_key: str
    trial: str
    seed: int
    state: State
    reason: str | None
    resources: Need
    device_hours: float
    estimate: EstimateRecord
    config: TrialConfig
    sources: dict[str, str]


@dataclass(frozen=True)
class Plan:
    """The trials of a study, in the order of the file.

    Attributes:
        study: The resolved study.
        trials: One for each method, value and seed.
        foreign: Run keys in storage with a finished result that no longer belong to the study.
        seconds_per_unit: Training time of one unit, from the finished trials; a rough guess
            if there are none.
        measured: Whether ``seconds_per_unit`` was measured.
    """

    study: Study
    trials: tuple[PlannedTrial, ...]
    foreign: tuple[str, ...]
    seconds_per_unit: float
    measured: bool

    def unfinished(self) -> list[str]:
        """Name the trials that lack a point, with their state."""
        return [
            f"{trial.label} seed {trial.seed} ({trial.state})"
            for trial in self.trials
            if trial.state != "done" and trial.reason != ONLY_CHECKS
        ]

    def to_run(self) -> list[PlannedTrial]:
        """Return what is left to do, the longest first."""
        left = [trial for trial in self.trials if trial.needs_run]
        return sorted(left, key=lambda trial: -self.seconds_left(trial))

    def ready(self) -> list[PlannedTrial]:
        """Return what of it waits for no other trial, in the same order."""
        return [trial for trial in self.to_run() if trial.state in READY]

    def waves(self) -> list[list[PlannedTrial]]:
        """Return what is left to do in the order of its running: sources before who needs them."""
        left = {trial.run_key: trial for trial in self.to_run()}
        waves: list[list[PlannedTrial]] = []
        while left:
            wave = [t for t in left.values() if not left.keys() & set(t.sources.values())]
            for trial in wave:
                del left[trial.run_key]
            waves.append(wave)
        return waves

    def estimate(self, trial: PlannedTrial) -> Estimate:
        """Return how long a trial takes that has nothing done, and how that is known."""
        if trial.estimate is not None:
            return trial.estimate
        basis: Basis = "measured on others" if self.measured else "assumed"
        return Work(trial.units, 0.0, trial.judge_units).at(self.seconds_per_unit, basis)

    def device_seconds(self, trial: PlannedTrial) -> float:
        """Estimate the training time of a trial, validations apart."""
        return self.estimate(trial).training

    def seconds_left(self, trial: PlannedTrial, bound: Bound = "middle") -> float:
        """Estimate the time of what a run has still to do for a trial; an end of its range."""
        if not trial.needs_run:
            return 0.0
        found = self.estimate(trial)
        if trial.left is None:
            seconds = found.training + found.validation + found.judging
        else:
            seconds = found.judging * trial.left.units / trial.judge_units
        return seconds * found.factor(bound)

    def makespan(self, slots: int, bound: Bound = "middle") -> float:
        """Estimate the seconds to the end of the run with so many trials at a time."""
        whole = 0.0
        for wave in self.waves():
            ends = [0.0] * max(1, slots)
            for trial in wave:
                soonest = min(range(len(ends)), key=ends.__getitem__)
                ends[soonest] += self.seconds_left(trial, bound)
            whole += max(ends)
        return whole

    @property
    def title(self) -> str:
        """What the plan is of, in words."""
        trials = f"{len(self.trials)} trial{'' if len(self.trials) == 1 else 's'}"
        return f"Study {self.study.name}: {trials}; times of one trial, alone on its device"

    def rows(self, verbose: bool = False) -> list[Row]:
        """Return the plan as rows of text by `studies.planning.rows.MEANINGS`.

        The basis of the times is left out where all have the same, which `sentences` say.

        Args:
            verbose: Whether each trial has a row; else the seeds of an entry share one.
        """
        lines = [
            Line(t.label, t.seed, t.run_key, t.state, t.job["resources"], self.estimate(t))
            for t in self.trials
        ]
        rows = apart(lines) if verbose else folded(lines)
        if len({row["basis"] for row in rows}) == 1:
            rows = [{name: text for name, text in row.items() if name != "basis"} for row in rows]
        return rows

    def sentences(self) -> list[str]:
        """Say what the whole takes and what that rests on, who waits, and what else is there."""
        left = self.to_run()
        said = [f"{len(left)} to run."]
        if left:
            one, two, eight = (
                time_range(*(self.makespan(slots, end) for end in ENDS)) for slots in (1, 2, 8)
            )
            said = [
                f"{len(left)} to run. Training and evaluation together take {one} one at a time, "
                f"{two} two at a time, {eight} eight at a time."
            ]
        rests_on = basis_in_words([self.estimate(trial) for trial in left or self.trials])
        said.append(f"Times are {rests_on}.")
        waiting: dict[str, list[PlannedTrial]] = {}
        for trial in left:
            if trial.state == "waiting":
                waiting.setdefault(trial.label, []).append(trial)
        for label, (first, *others) in waiting.items():
            more = f" So do {len(others)} more of its seeds." if others else ""
            said.append(f"{label} seed {first.seed}: {first.reason}{more}")
        if count := len(self.foreign):
            trials = "trial in storage does" if count == 1 else "trials in storage do"
            said.append(f"{count} finished {trials} not belong to this study.")
        return said

    def _repr_html_(self) -> str:
        """Show the plan in a notebook: its table, what each column means, and the whole time."""
        body = self.rows()
        names = {name: name for name in body[0]}
        shown = notebook.table(self.title, body, names)
        known = notebook.legend({name: MEANINGS[name] for name in names})
        return shown + notebook.bullets(self.sentences()) + known

    def records(self) -> list["PlanRow"]:
        """Return a row of plain values for each trial: what `oat plan --json` prints."""
        return [
            {
                "run_key": trial.run_key,
                "trial": trial.label,
                "seed": trial.seed,
                "state": trial.state,
                "reason": trial.reason,
                "resources": trial.job["resources"].copy(),
                "device_hours": self.device_seconds(trial) / 3600,
                "estimate": self.estimate(trial).record(),
                "config": trial.job["config"].copy(),
                "sources": trial.sources.copy(),
            }
            for trial in self.trials
        ]


def asking_as(current: Plan, other: Plan) -> Plan:
    """Return the trials that another plan has as well; they ask of a node what they ask there."""
    asked = {trial.run_key: trial.job["resources"] for trial in other.trials}
    trials = (
        replace(trial, job={**trial.job, "resources": asked[trial.run_key]})
        for trial in current.trials
        if trial.run_key in asked
    )
    return replace(current, trials=tuple(trials))
