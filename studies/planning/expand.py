"""From a study to its plan: a trial for each method, value and seed, and what is left to do."""

from collections.abc import Sequence
from dataclasses import replace

from baselines import Pairing
from studies.errors import StudyError
from studies.known_methods import method_of
from studies.planning.costs import (
    Judging,
    assumed_seconds_per_unit,
    units_of_entry,
    validation_units,
)
from studies.planning.estimates import Estimate, Estimator, Work, need_of, read_probes
from studies.planning.judgements import SharedKeys, checks_of, held_out_of, points_of
from studies.planning.plan import ONLY_CHECKS, Left, Plan, PlannedTrial, Split, State
from studies.planning.run_keys import (
    absolute_root,
    entry_config,
    entry_key,
    key_config,
    sources_by_label,
)
from studies.planning.waiting import LookedUp, heed_sources
from studies.storage.folder import Folder
from studies.storage.opening import in_threads
from studies.storage.sealed import ResultError, digest
from studies.study_file.method_blocks import Entry
from studies.study_file.study import Study
from studies.trial.checkpoints import has_checkpoint
from studies.trial.records import read_checks, read_failure, read_points, read_result
from studies.trial.shapes import CheckSpec, PointSpec, TrialJob
from studies.trial.stored import Trained


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
    keys, judging = SharedKeys(study), Judging(study)
    expanded = (
        _plan_trial(study, entry, seed, folder, keys, judging, split)
        for seed, entry in study.trials()
    )

    def look_up(trial: PlannedTrial) -> LookedUp:
        if trial.run_key not in there:
            return LookedUp(trial, None)
        return _look_up(trial, trials_folder.sub(trial.run_key), judging)

    every = list(expanded)
    _check_apart(every)
    looked_up = heed_sources(list(in_threads(look_up, every)))
    finished: dict[str, list[tuple[float, float]]] = {}
    for trial, trained in looked_up:
        if trained is not None and trial.units:
            finished.setdefault(trial.kind, []).append((trained["device_seconds"], trial.units))
    # candidates of a search are planned one by one, hundreds in a folder: nobody reads how long
    # each takes, nor what else is there
    own_run = split == "test"
    estimator = Estimator(finished, read_probes(folder) if own_run else [])
    trials = [trial for trial, _ in looked_up]
    if own_run:
        trials = [
            replace(trial, estimate=_estimate(study, entry, trial, estimator))
            for trial, (_, entry) in zip(trials, study.trials(), strict=True)
        ]
    own = {trial.run_key for trial in trials}
    others = [key for key in known if key not in own] if own_run else []
    sizes = in_threads(lambda key: trials_folder.size(f"{key}/result.json"), others)
    foreign = tuple(key for key, size in zip(others, sizes, strict=True) if size is not None)
    speed = estimator.seconds_per_unit
    rough = assumed_seconds_per_unit(study, study.resources) if speed is None else speed
    return Plan(study, tuple(trials), foreign, rough, speed is not None)


def _check_apart(trials: Sequence[PlannedTrial]) -> None:
    """Refuse two trials of one folder.

    Raises:
        StudyError: Two entries are the same network, as two files of the same content are.
    """
    known: dict[str, PlannedTrial] = {}
    for trial in trials:
        if (other := known.setdefault(trial.run_key, trial)) is not trial:
            raise StudyError(
                f"`methods` lists the same network twice, as '{other.label}' and '{trial.label}'; "
                "leave one out."
            )


def _estimate(study: Study, entry: Entry, trial: PlannedTrial, estimator: Estimator) -> Estimate:
    work = Work(trial.units, validation_units(study, entry), trial.judge_units)
    rough = assumed_seconds_per_unit(study, entry.need)
    return estimator.estimate(trial.kind, work, entry.need, rough)


def point_keys(study: Study, split: Split) -> set[str]:
    """Return the keys of the points that a run of a study judges, on test or held-out images."""
    keys = SharedKeys(study)
    found: list[PointSpec] = []
    for seed, entry in study.trials():
        own = _own_keys(study, entry, seed)
        if split == "test":
            found += points_of(study, entry.method, own, seed, keys, split)
        else:
            found += held_out_of(study, entry.method, own, seed, keys)
    return {point["point_key"] for point in found}


def _own_keys(study: Study, entry: Entry, seed: int) -> list[str]:
    """Return the run key of a trial; of a pair also those of its two ends."""
    ends = sources_by_label(study, entry, seed) if isinstance(entry.method, Pairing) else {}
    return [digest(entry_key(study, entry, seed)), *ends.values()]


def _plan_trial(
    study: Study,
    entry: Entry,
    seed: int,
    folder: Folder,
    keys: "SharedKeys",
    judging: Judging,
    split: Split,
) -> PlannedTrial:
    """Plan one trial as if nothing of it were there."""
    method = entry.method
    # settings of a method's own, and a start, are no other budget: the study says that they differ
    shared = key_config(study, method, seed, study.train)
    run_key, *_ = own = _own_keys(study, entry, seed)
    sources = sources_by_label(study, entry, seed)
    job: TrialJob = {
        "run_key": run_key,
        "config": entry_config(study, entry, seed),
        "budget": digest({k: v for k, v in shared.items() if k not in {"method", "seed"}}),
        "points": points_of(study, method, own, seed, keys, split),
        "held_out": [] if split == "val" else held_out_of(study, method, own, seed, keys),
        "checks": checks_of(study, method, run_key),
        "siblings": folder.sub("trials").uri,
        "choices": folder.sub("choices").uri,
        "data": {"root": absolute_root(study.data), "download": study.data.download},
        "resources": need_of(entry.need),
    }
    if sources:
        job["sources"] = sources
    if named := sorted(study.own_code()):
        job["own"] = named
    return PlannedTrial(
        run_key,
        entry.label,
        seed,
        job,
        "missing",
        units_of_entry(study, entry),
        judging.units(method, [*job["points"], *job["held_out"]], job["checks"]),
        kind=digest(entry_key(study, entry, None)),
    )


def _look_up(trial: PlannedTrial, folder: Folder, judging: Judging) -> LookedUp:
    """Return a trial as its folder says that it is, and its training if it has one."""

    def found(
        state: State, reason: str | None, trained: Trained | None = None, left: Left | None = None
    ) -> LookedUp:
        return LookedUp(replace(trial, state=state, reason=reason, left=left), trained)

    try:
        result = read_result(folder)
    except ResultError as error:
        return found("damaged", str(error))
    if result is not None and result["status"] == "diverged":
        return found("diverged", result["error"])
    failure = read_failure(folder)
    if (trained := result["trained"] if result is not None else None) is None:
        if failure is not None:
            return found("failed", failure)
        return found("unfinished" if has_checkpoint(folder) else "missing", None)
    points, held_out, checks = _missing(folder, trained["training_id"], trial.job)
    if not points and not held_out and not checks:
        return found("done", None, trained)
    missing = [*points, *held_out]
    method = method_of(trial.job["config"])
    left = Left(len(missing), judging.units(method, missing, checks))
    if failure is not None:
        return found("failed", failure, trained, left)
    if points:
        reason = f"{len(points)} points are to be evaluated"
    elif held_out:
        reason = f"{len(held_out)} points on held-out images are to be evaluated"
    else:
        reason = ONLY_CHECKS
    return found("evaluate", reason, trained, left)


def _missing(
    folder: Folder, training_id: str, job: TrialJob
) -> tuple[list[PointSpec], list[PointSpec], list[CheckSpec]]:
    """Return the points, those on held-out images and the checks that a trained model lacks."""
    rows, _ = read_points(folder, training_id)
    judged = {row["point_key"] for row in rows}
    checked = {check["check_key"] for check in read_checks(folder, training_id)}
    return (
        [point for point in job["points"] if point["point_key"] not in judged],
        [point for point in job["held_out"] if point["point_key"] not in judged],
        [check for check in job["checks"] if check["check_key"] not in checked],
    )
