"""From a study to its plan: a trial for each method, value and seed, and what is left to do."""

from dataclasses import replace

from studies.planning.costs import assumed_seconds_per_unit, judging_units, validation_units
from studies.planning.estimates import Estimate, Estimator, Work, need_of, read_probes
from studies.planning.judgements import SharedKeys, checks_of, held_out_of, points_of
from studies.planning.plan import ONLY_CHECKS, Plan, PlannedTrial, Split, State
from studies.planning.run_keys import absolute_root, key_config, trial_config
from studies.storage.folder import Folder
from studies.storage.opening import in_threads
from studies.storage.sealed import ResultError, digest
from studies.study_file.method_blocks import Entry
from studies.study_file.study import Study
from studies.trial.checkpoints import has_checkpoint
from studies.trial.records import read_checks, read_failure, read_points, read_result
from studies.trial.shapes import TrialJob


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
    keys = SharedKeys(study)
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
    rough = assumed_seconds_per_unit(study, study.resources) if speed is None else speed
    return Plan(study, tuple(trials), foreign, rough, speed is not None)


def _estimate(study: Study, entry: Entry, trial: PlannedTrial, estimator: Estimator) -> Estimate:
    work = Work(trial.units, validation_units(study, entry), trial.judge_units)
    rough = assumed_seconds_per_unit(study, entry.need)
    return estimator.estimate(trial.kind, work, entry.need, rough)


def _plan_trial(
    study: Study, entry: Entry, seed: int, folder: Folder, keys: "SharedKeys", split: Split
) -> PlannedTrial:
    """Plan one trial as if nothing of it were there."""
    method = entry.method
    config = trial_config(study, method, seed, entry.train)
    key = key_config(study, method, seed, entry.train)
    # settings of a method's own are no other budget: the study says that they differ
    shared = key_config(study, method, seed, study.train)
    run_key = digest(key)
    job: TrialJob = {
        "run_key": run_key,
        "config": config,
        "budget": digest({k: v for k, v in shared.items() if k not in {"method", "seed"}}),
        "points": points_of(study, method, run_key, seed, keys, split),
        "held_out": [] if split == "val" else held_out_of(study, method, run_key, seed, keys),
        "checks": checks_of(study, method, run_key),
        "siblings": folder.sub("trials").uri,
        "choices": folder.sub("choices").uri,
        "data": {"root": absolute_root(study.data), "download": study.data.download},
        "resources": need_of(entry.need),
    }
    units, judge_units = judging_units(study, entry)
    kind = digest({**key, "seed": None})
    return PlannedTrial(run_key, entry.label, seed, job, "missing", units, judge_units, kind=kind)


def _state(folder: Folder, job: TrialJob) -> tuple[State, str | None, float | None]:
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
        held_out = sum(point["point_key"] not in have for point in job["held_out"])
        have = {check["check_key"] for check in read_checks(folder, training_id)}
        checks = sum(check["check_key"] not in have for check in job["checks"])
        if not points and not held_out and not checks:
            return "done", None, seconds
        left = f"{points} points are to be evaluated"
        if not points:
            left = f"{held_out} points on held-out images are to be evaluated"
            left = left if held_out else ONLY_CHECKS
    if (failure := read_failure(folder)) is not None:
        return "failed", failure, seconds
    if result is not None:
        return "evaluate", left, seconds
    return ("unfinished" if has_checkpoint(folder) else "missing"), None, None
