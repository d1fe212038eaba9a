"""Which trials of a search win: a pure function of what the search has recorded."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypedDict, cast

import numpy as np

from studies.statistics.frontier import hypervolume, pareto_mask
from studies.study_file.method_blocks import FileBlock
from studies.study_file.tune_block import Select
from studies.trial.evaluated import PlaceColumns

Place = tuple[float | None, float | None, float]
"""λ, β and width of a dedicated model."""


class SearchPoint(PlaceColumns):
    """A point of a trial of a search, on held-out images.

    Attributes:
        sa: Standard accuracy, as a fraction.
        ra: Robust accuracy under the attack of tuning.
    """

    sa: float
    ra: float


class SearchTrialRecord(TypedDict):
    """A `SearchTrial` as plain values.

    Attributes:
        number: This and all that follow: see there.
        state: Likewise.
        run_key: Likewise.
        entry: Likewise.
        start: Likewise.
        sa: A fraction.
        ra: A fraction.
        points: See `SearchPoint`.
        device_seconds: In seconds.
        reason: Likewise.
    """

    number: int
    state: str
    run_key: str
    entry: FileBlock
    start: bool
    sa: float | None
    ra: float | None
    points: list[SearchPoint]
    device_seconds: float
    reason: str


class SearchRecord(TypedDict):
    """A `Search` as plain values: an item of ``tuning.json``.

    Attributes:
        method: This and all that follow: see there.
        once: Likewise.
        starts: Likewise.
        budget: In seconds.
        device_seconds: In seconds.
        ended: Likewise.
        trials: See `SearchTrialRecord`.
        winners: Likewise.
        dimensions: Likewise.
        notes: Likewise.
        untried: Likewise.
    """

    method: str
    once: bool
    starts: int
    budget: float
    device_seconds: float
    ended: str
    trials: list[SearchTrialRecord]
    winners: list[str]
    dimensions: list[str]
    notes: list[str]
    untried: list[FileBlock]


@dataclass(frozen=True)
class SearchTrial:
    """One trial of a search.

    Attributes:
        number: In Optuna's study.
        state: ``done``, ``diverged``, ``failed``, ``stopped early``, ``died`` (with its driver; its
            candidate was tried again), ``not run`` (a suggestion that was no use), or ``open``.
        run_key: Of the training; empty if none was planned.
        entry: Of the study file that it stands for.
        start: Whether those are the study's own settings.
        sa: Mean of SA over its points on held-out images; None unless it is done.
        ra: Of RA.
        points: Its points on held-out images: lam, beta, width_mult, sa, ra.
        device_seconds: Of training.
        reason: Why it is not done.
    """

    number: int
    state: str
    run_key: str = ""
    entry: FileBlock = field(default_factory=dict)
    start: bool = False
    sa: float | None = None
    ra: float | None = None
    points: Sequence[SearchPoint] = ()
    device_seconds: float = 0.0
    reason: str = ""

    def values(self) -> list[tuple[float, float]]:
        """Return SA and RA of its points."""
        return [(float(p["sa"] or 0), float(p["ra"] or 0)) for p in self.points]


@dataclass(frozen=True)
class Search:
    """What the search of one method has found.

    Attributes:
        method: The variant.
        once: Whether one network serves every λ.
        starts: How many trials the study's own settings make.
        budget: Device seconds that it had.
        device_seconds: Device seconds that its trainings took.
        ended: Why it has ended.
        trials: What it tried, in order.
        winners: Run keys of the trials that won.
        dimensions: Names of what was searched.
        untried: Entries of the study's own for listed values that no trial was finished at.
        notes: What a reader must know.
    """

    method: str
    once: bool
    starts: int
    budget: float
    device_seconds: float
    ended: str
    trials: Sequence[SearchTrial]
    winners: Sequence[str]
    dimensions: Sequence[str]
    notes: Sequence[str] = field(default_factory=list)
    untried: Sequence[FileBlock] = field(default_factory=list)

    def entries(self) -> list[FileBlock]:
        """Return the entries of the study file that the winners make, and what was not tried."""
        return [*(trial.entry for trial in self.won()), *self.untried]

    def done(self) -> list[SearchTrial]:
        """Return the trials that are done."""
        return [trial for trial in self.trials if trial.state == "done"]

    def won(self) -> list[SearchTrial]:
        """Return the trials that won."""
        return [trial for trial in self.done() if trial.run_key in self.winners]

    def started(self) -> list[SearchTrial]:
        """Return the trials of the study's own settings; none unless all are done."""
        found = [trial for trial in self.done() if trial.start]
        return found if len(found) == self.starts else []

    def dump(self) -> SearchRecord:
        """Return plain values, such as JSON holds."""
        return cast(SearchRecord, asdict(self))


def place_of(point: PlaceColumns) -> Place:
    """Return the place of a dedicated model's point."""
    return point["lam"], point["beta"], point["width_mult"]


def search_of(record: SearchRecord) -> Search:
    """Make a search from what `Search.dump` returned."""
    trials = tuple(SearchTrial(**trial) for trial in record["trials"])
    fields: dict[str, Any] = {**record, "trials": trials}
    return Search(**fields)


def area(trials: Sequence[SearchTrial]) -> float:
    """Return the hypervolume of the front that trials make together on held-out images."""
    return hypervolume(np.array([v for trial in trials for v in trial.values()]).reshape(-1, 2))


def choose(
    trials: Sequence[SearchTrial], select: Select, once: bool, places: Sequence[Place] = ()
) -> tuple[list[SearchTrial], list[str]]:
    """Choose the winners of a method.

    Args:
        trials: Its trials; only those that are done can win. Of equal ones the first does.
        select: The rule.
        once: Whether one network serves every λ.
        places: Where the study lists a dedicated model. By the rule ``front`` each keeps one: what
            has none on the front, its trial with the largest SA + RA. Fewer models would be a
            smaller front on test images, for no fault but the luck of few held-out ones.

    Returns:
        The winners in the order of the search, and what a reader must know.
    """
    done = [trial for trial in trials if trial.state == "done" and trial.points]
    if not done:
        return [], ["no trial was finished, so that the study's own settings stay."]
    if select.rule == "front" and not once:
        owners = [trial for trial in done for _ in trial.values()]
        on_front = pareto_mask(np.array([v for trial in done for v in trial.values()]))
        kept = {owner.number for owner, on in zip(owners, on_front, strict=True) if on}
        for place in places:
            there = [trial for trial in done if place_of(trial.points[0]) == place]
            if there and not any(trial.number in kept for trial in there):
                kept.add(max(there, key=lambda trial: sum(trial.values()[0])).number)
        return [trial for trial in done if trial.number in kept], []
    if select.rule in {"front", "hypervolume"}:
        return [max(done, key=lambda trial: area([trial]))], []
    points = [(trial, *value) for trial in done for value in trial.values()]
    if select.rule == "weighted":
        weight = select.weight
        assert weight is not None, "`Select` has checked it"
        return [max(points, key=lambda p: weight * p[1] + (1 - weight) * p[2])[0]], []
    least = select.ra
    assert least is not None, "`Select` has checked it"
    reaching = [point for point in points if point[2] >= least]
    if reaching:
        return [max(reaching, key=lambda p: p[1])[0]], []
    best = max(points, key=lambda p: p[2])
    said = (
        f"no trial reaches RA {100 * least:g} % on held-out images; the one with the highest, "
        f"{100 * best[2]:.1f} %, was taken."
    )
    return [best[0]], [said]
