"""From a study to the list of its trials, and what is still to do for each."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from oat.adversaries import EvaluationAttack, Pgd, Transfer
from oat.data import DataConfig
from oat.evaluation import EVALUATION_SEED
from oat.lambdas import SAME_LAM
from oat.masking import HOW as MASKING_HOW
from oat.masking import PASSES as MASKING_PASSES
from oat.method import Method, training_cost
from oat.models import relative_flops
from oat.recipe import TrainConfig, images_seen
from studies.blocks import Entry, Resources
from studies.checkpoints import has_checkpoint
from studies.config import Study
from studies.estimates import (
    Basis,
    Bound,
    Estimate,
    Estimator,
    Work,
    read_probes,
    rough_seconds_per_unit,
)
from studies.methods import RESULTS_VERSION
from studies.records import ResultError, digest, read_checks, read_failure, read_points, read_result
from studies.storage import Folder, in_threads

State = Literal["done", "evaluate", "unfinished", "missing", "failed", "damaged", "diverged"]
Split = Literal["test", "val"]
TO_RUN: frozenset[State] = frozenset({"evaluate", "unfinished", "missing", "failed", "damaged"})

ONLY_CHECKS = "the checks for masked gradients are to be made"
"""Reason of a trial that has all its points."""

NOMINAL_DATA: dict[str, tuple[int, int, tuple[int, int, int]]] = {
    "digits": (1_348, 449, (1, 8, 8)),
    "fashion_mnist": (60_000, 10_000, (1, 28, 28)),
    "cifar10": (50_000, 10_000, (3, 32, 32)),
    "svhn": (73_257, 26_032, (3, 32, 32)),
    "stl10": (5_000, 8_000, (3, 96, 96)),
}
"""Official training images, test images and their shape: planning does not read the data."""
UNKNOWN_DATA = (10_000, 2_000)
"""Training and test images that are assumed of a folder of images."""


@dataclass(frozen=True)
class PlannedTrial:
    """One model to train and judge.

    Attributes:
        run_key: 12 hex digits of everything that decides the weights.
        label: Method and value, for people.
        seed: Seed of the trial.
        job: What `studies.trial.run_trial` takes.
        state: What its folder says: ``evaluate`` is trained with points missing, ``unfinished``
            has a checkpoint; ``failed`` is tried again and ``damaged`` redone by the next run,
            ``diverged`` is final.
        units: Estimated cost of training, in forward passes of the plain network.
        judge_units: Estimated cost of judging all its points, likewise.
        reason: Why it failed or diverged, or what is to be evaluated.
        kind: The run key without the seed: trials of one kind take the same time.
        estimate: How long it takes; None in plans that nobody asks for it.
    """

    run_key: str
    label: str
    seed: int
    job: Mapping[str, Any]
    state: State
    units: float
    judge_units: float
    reason: str | None = None
    kind: str = ""
    estimate: Estimate | None = None

    @property
    def to_run(self) -> bool:
        """Whether a run has something to do for it."""
        return self.state in TO_RUN


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
        left = [trial for trial in self.trials if trial.to_run]
        return sorted(left, key=lambda trial: -self.seconds_left(trial))

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
        if not trial.to_run:
            return 0.0
        found = self.estimate(trial)
        trained = trial.state == "evaluate"
        training = 0.0 if trained else found.training + found.validation
        return (training + found.judging) * found.factor(bound)

    def makespan(self, slots: int, bound: Bound = "middle") -> float:
        """Estimate the seconds to the end of the run with so many trials at a time."""
        ends = [0.0] * max(1, slots)
        for trial in self.to_run():
            soonest = min(range(len(ends)), key=ends.__getitem__)
            ends[soonest] += self.seconds_left(trial, bound)
        return max(ends)

    def records(self) -> list[dict[str, Any]]:
        """Return a row of plain values for each trial: what `oat plan --json` prints."""
        return [
            {
                "run_key": trial.run_key,
                "trial": trial.label,
                "seed": trial.seed,
                "state": trial.state,
                "reason": trial.reason,
                "resources": dict(trial.job["resources"]),
                "device_hours": self.device_seconds(trial) / 3600,
                "estimate": self.estimate(trial).record(),
                "config": dict(trial.job["config"]),
            }
            for trial in self.trials
        ]


def asking_as(current: Plan, other: Plan) -> Plan:
    """Return a plan whose trials ask of a node what those of another plan ask."""
    asked = {trial.run_key: trial.job["resources"] for trial in other.trials}
    trials = (
        replace(trial, job={**trial.job, "resources": asked[trial.run_key]})
        for trial in current.trials
    )
    return replace(current, trials=tuple(trials))


def trial_config(
    study: Study, method: Method, seed: int, train: TrainConfig | None = None
) -> dict[str, Any]:
    """Return everything that decides the trained weights, as plain values."""
    data = asdict(study.data.resolved())
    for place in ("root", "download"):
        del data[place]
    return {
        "results_version": RESULTS_VERSION,
        "seed": seed,
        "data": data,
        "model": asdict(study.model),
        "train": _lists(asdict(train or study.train)),
        "attack": asdict(study.attack),
        "method": {"name": method.name, **_lists(asdict(method))},  # type: ignore[call-overload]
    }


def _key_of(study: Study, method: Method, seed: int, train: TrainConfig) -> dict[str, Any]:
    """Return what a run key is made from: the trial's config without what is at its default.

    So an option that a later release adds changes no key, and no finished result is lost; a
    default that changes raises `RESULTS_VERSION`.
    """
    data = _changed(study.data.resolved())
    for place in ("root", "download"):
        data.pop(place, None)
    if study.data.name == "imagefolder":  # there, the place says which images they are
        data["root"] = absolute_root(study.data)
    return {
        "results_version": RESULTS_VERSION,
        "seed": seed,
        "data": data,
        "model": _changed(study.model),
        "train": _changed(train),
        "attack": _changed(study.attack),
        "method": {"name": method.name, **_lists(_changed(method))},
    }


def absolute_root(data: DataConfig) -> str:
    """Return where the data lie, also for a worker, which has a working folder of its own."""
    return str(Path(data.root).absolute())


def _changed(config: Any) -> dict[str, Any]:
    """Return the fields of a config that differ from their default."""
    return {
        field.name: getattr(config, field.name)
        for field in fields(config)
        if getattr(config, field.name) != field.default
    }


def _lists(values: dict[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def _points(
    study: Study, method: Method, run_key: str, seed: int, keys: "_Keys", split: Split
) -> list[dict[str, Any]]:
    """List the operating points to judge, each with a key over all that decides its numbers."""
    points = []
    for rule in study.evaluate.checkpoints:
        for lam, width_mult in method.operating_points(study.lams()):
            for attack in study.attacks():
                settings = _attack_settings(attack)
                what = {
                    "checkpoint_rule": rule,
                    "lam": lam,
                    "width_mult": width_mult,
                    "attack": settings,
                    "images": _fewest(attack.images, study.evaluate.images),
                    "batch_size": study.evaluate.batch_size,
                    **_surrogates(study, attack, lam, run_key, keys.dedicated(seed)),
                    **({} if split == "test" else {"split": split}),
                    **_tf32(study),
                }
                key = digest({"run_key": run_key, "seed": EVALUATION_SEED, **what})
                points.append(
                    {
                        "point_key": key,
                        "attack_label": study.label_of(attack),
                        "attack_settings": keys.settings(attack),
                        **what,
                    }
                )
    return points


def _tf32(study: Study) -> dict[str, bool]:
    """Return the entry of a judgement in TF32; none without, so that older keys stand."""
    return {"tf32": True} if study.evaluate.tf32 else {}


def count_points(study: Study) -> int:
    """Count the points that all trials of a study are to be judged at."""
    places = sum(len(method.operating_points(study.lams())) for method in study.all_methods())
    each = len(study.evaluate.checkpoints) * len(study.attacks())
    return places * each * len(study.seeds)


def _attack_settings(attack: EvaluationAttack) -> dict[str, Any]:
    """Return what decides an attack; of its options those at their default are left out.

    So an option that a later release adds changes no key. Steps and step size are older than
    this rule and always there.
    """
    always = {"name", "eps", "steps", "step_size"}
    return {
        field.name: getattr(attack, field.name)
        for field in fields(attack)
        if field.name != "images"
        and (field.name in always or getattr(attack, field.name) != field.default)
    }


def _shared_settings(study: Study, attack: EvaluationAttack) -> dict[str, Any]:
    """Return what points under one attack must share to be compared."""
    shared = {
        "seed": EVALUATION_SEED,
        "batch": study.evaluate.batch_size,
        **_attack_settings(attack),
        **_tf32(study),
    }
    if isinstance(attack, Pgd) and attack.every_lam:
        shared["lams"] = study.lams()
    if isinstance(attack, Transfer):
        # those of another seed are other trainings of the same settings
        seed = study.seeds[0]
        keys = (
            {**_key_of(study, entry.method, seed, entry.train), "seed": None}
            for entry in _dedicated(study)
        )
        shared["sources"] = sorted(map(digest, keys))
    return shared


def _dedicated(study: Study) -> list[Entry]:
    return [entry for entry in study.entries() if not entry.method.conditioning().lambda_choices]


def _fewest(*counts: int | None) -> int | None:
    return min((count for count in counts if count is not None), default=None)


class _Keys:
    """Keys that many trials share, each made once.

    Made anew for every trial, those of transfer would take the square of the trials' number.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self._settings: dict[EvaluationAttack, str] = {}
        self._dedicated: dict[int, tuple[str, ...]] = {}

    def settings(self, attack: EvaluationAttack) -> str:
        """Return the digest of what points under an attack must share to be compared."""
        if attack not in self._settings:
            self._settings[attack] = digest(_shared_settings(self._study, attack))
        return self._settings[attack]

    def dedicated(self, seed: int) -> tuple[str, ...]:
        """Return the run keys of the dedicated models of a seed; none without `Transfer`."""
        if not any(isinstance(attack, Transfer) for attack in self._study.attacks()):
            return ()
        if seed not in self._dedicated:
            self._dedicated[seed] = tuple(
                digest(_key_of(self._study, entry.method, seed, entry.train))
                for entry in _dedicated(self._study)
            )
        return self._dedicated[seed]


def _surrogates(
    study: Study,
    attack: EvaluationAttack,
    lam: float | None,
    run_key: str,
    dedicated: Sequence[str],
) -> dict[str, Any]:
    """Name what else images are crafted on: the same network at other λ, or other trials."""
    if isinstance(attack, Pgd) and attack.every_lam and lam is not None:
        return {"other_lams": [other for other in study.lams() if abs(other - lam) >= SAME_LAM]}
    if isinstance(attack, Transfer):
        return {"sources": sorted(key for key in dedicated if key != run_key)}
    return {}


def _checks(study: Study, method: Method, run_key: str) -> list[dict[str, Any]]:
    """List the operating points to check for masked gradients, each with a key."""
    if not study.evaluate.masking_images:
        return []
    checks = []
    for rule in study.evaluate.checkpoints:
        for lam, width_mult in method.operating_points(study.lams()):
            what = {
                "checkpoint_rule": rule,
                "lam": lam,
                "width_mult": width_mult,
                "eps": study.attack.eps,
                "images": _fewest(study.evaluate.masking_images, study.evaluate.images),
                "batch_size": study.evaluate.batch_size,
                **_tf32(study),
            }
            decides = {"seed": EVALUATION_SEED, "how": MASKING_HOW, "check": what}
            key = digest({"run_key": run_key, **decides})
            checks.append({"check_key": key, **what})
    return checks


def make_plan(study: Study, folder: Folder, split: Split = "test") -> Plan:
    """Expand a study and look up in its folder what is done.

    Args:
        study: The study.
        folder: The study's own folder, ``<storage>/<name>``.
        split: Which images judge: those held out from training (``val``) are for choosing.
    """
    trials_folder = folder.sub("trials")
    known = trials_folder.names()
    there = frozenset(known)
    keys = _Keys(study)
    expanded = (
        _plan_trial(study, entry, seed, folder, keys, split)
        for seed in study.seeds
        for entry in study.entries()
    )

    def look_up(trial: PlannedTrial) -> tuple[PlannedTrial, float | None]:
        if trial.run_key not in there:
            return trial, None
        state, reason, seconds = _state(trials_folder.sub(trial.run_key), trial.job)
        return replace(trial, state=state, reason=reason), seconds

    looked_up = in_threads(look_up, expanded)
    finished: dict[str, list[tuple[float, float]]] = {}
    for trial, seconds in looked_up:
        if seconds is not None and trial.units:
            finished.setdefault(trial.kind, []).append((seconds, trial.units))
    # candidates of a search are planned one by one, hundreds in a folder: nobody reads how long
    # each takes, nor what else is there
    own_run = split == "test"
    estimator = Estimator(finished, read_probes(folder) if own_run else [])
    trials = [trial for trial, _ in looked_up]
    if own_run:
        entries = study.entries() * len(study.seeds)
        trials = [
            replace(trial, estimate=_estimate(study, entry, trial, estimator))
            for trial, entry in zip(trials, entries, strict=True)
        ]
    own = {trial.run_key for trial in trials}
    others = [key for key in known if key not in own] if own_run else []
    sizes = in_threads(lambda key: trials_folder.size(f"{key}/result.json"), others)
    foreign = tuple(key for key, size in zip(others, sizes, strict=True) if size is not None)
    speed = estimator.seconds_per_unit
    rough = _rough_seconds_per_unit(study, study.resources) if speed is None else speed
    return Plan(study, tuple(trials), foreign, rough, speed is not None)


def _estimate(study: Study, entry: Entry, trial: PlannedTrial, estimator: Estimator) -> Estimate:
    work = Work(trial.units, _validation_units(study, entry), trial.judge_units)
    rough = _rough_seconds_per_unit(study, entry.need)
    return estimator.estimate(trial.kind, work, entry.need, rough)


def _plan_trial(
    study: Study, entry: Entry, seed: int, folder: Folder, keys: "_Keys", split: Split
) -> PlannedTrial:
    """Plan one trial as if nothing of it were there."""
    method = entry.method
    config = trial_config(study, method, seed, entry.train)
    key = _key_of(study, method, seed, entry.train)
    # settings of a method's own are no other budget: the study says that they differ
    shared = _key_of(study, method, seed, study.train)
    run_key = digest(key)
    job = {
        "run_key": run_key,
        "config": config,
        "budget": digest({k: v for k, v in shared.items() if k not in {"method", "seed"}}),
        "points": _points(study, method, run_key, seed, keys, split),
        "checks": _checks(study, method, run_key),
        "siblings": folder.sub("trials").uri,
        "choices": folder.sub("choices").uri,
        "data": {"root": absolute_root(study.data), "download": study.data.download},
        "resources": entry.need.model_dump(),
    }
    units, judge_units = _units(study, entry)
    kind = digest({**key, "seed": None})
    return PlannedTrial(run_key, entry.label, seed, job, "missing", units, judge_units, kind=kind)


def _state(folder: Folder, job: Mapping[str, Any]) -> tuple[State, str | None, float | None]:
    try:
        result = read_result(folder)
    except ResultError as error:
        return "damaged", str(error), None
    if result is not None and result["status"] == "diverged":
        return "diverged", result["error"], None
    seconds = result["trained"]["device_seconds"] if result else None
    if result is not None:
        training_id = result["trained"]["training_id"]
        rows, _ = read_points(folder, training_id)
        have = {row["point_key"] for row in rows}
        points = sum(point["point_key"] not in have for point in job["points"])
        have = {check["check_key"] for check in read_checks(folder, training_id)}
        checks = sum(check["check_key"] not in have for check in job["checks"])
        if not points and not checks:
            return "done", None, seconds
        left = f"{points} points are to be judged" if points else ONLY_CHECKS
    if (failure := read_failure(folder)) is not None:
        return "failed", failure, seconds
    if result is not None:
        return "evaluate", left, seconds
    return ("unfinished" if has_checkpoint(folder) else "missing"), None, None


def _nominal_data(study: Study) -> tuple[int, int, tuple[int, int, int]]:
    """Return the numbers and the shape of the images as far as the study tells."""
    side = study.data.image_size or 32
    train, test, shape = NOMINAL_DATA.get(study.data.name, (*UNKNOWN_DATA, (3, side, side)))
    left = train - _nominal_held_out(study)
    return study.data.train_images or left, min(study.evaluate.images or test, test), shape


def _nominal_held_out(study: Study) -> int:
    """Return how many images are held out of the training images."""
    train = NOMINAL_DATA.get(study.data.name, UNKNOWN_DATA)[0]
    return max(1, round(study.data.val_fraction * train))


def training_units(study: Study) -> float:
    """Return the units of work of the dearest training of a study; see `PlannedTrial`."""
    return max(_units(study, entry)[0] for entry in study.entries())


def _units(study: Study, entry: Entry) -> tuple[float, float]:
    """Estimate the cost of training and of judging from the study alone."""
    method = entry.method
    images, judged, shape = _nominal_data(study)
    size = min(study.train.batch_size, images)
    cost = training_cost(method, study.attack, size, study.model, shape)
    for_a_point = sum(
        min(judged, attack.images or judged) * (1 + attack.passes()) for attack in study.attacks()
    )
    for_a_point += min(judged, study.evaluate.masking_images) * MASKING_PASSES
    base = method.conditioning().base_width
    points = sum(
        relative_flops(study.model, base * point.width_mult, shape)
        for point in method.operating_points(study.lams())
    )
    rules = len(study.evaluate.checkpoints)
    return images_seen(entry.train, images) * cost, rules * points * for_a_point


def _validation_units(study: Study, entry: Entry) -> float:
    """Estimate the cost of all validations of a training, if no image is broken."""
    method, train = entry.method, entry.train
    base, shape = method.conditioning().base_width, _nominal_data(study)[2]
    points = method.operating_points(method.conditioning().lambda_choices)
    each = sum(relative_flops(study.model, base * p.width_mult, shape) for p in points)
    images = min(train.val_images, _nominal_held_out(study))
    return validations(train) * each * images * (1 + 2 * study.attack.steps)


def validations(train: TrainConfig) -> int:
    """Count the validations of a training: the last epoch is always validated."""
    return math.ceil(train.epochs / train.val_every)


def _rough_seconds_per_unit(study: Study, need: Resources) -> float:
    return rough_seconds_per_unit(study.model, _nominal_data(study)[2], need)
