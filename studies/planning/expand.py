"""From a study to its plan: a trial for each method, value and seed, and what is left to do."""

from dataclasses import replace

from baselines import Pairing
from studies.planning.costs import assumed_seconds_per_unit, judging_units, validation_units
from studies.planning.estimates import Estimate, Estimator, Work, need_of, read_probes
from studies.planning.judgements import SharedKeys, checks_of, held_out_of, points_of
from studies.planning.plan import ONLY_CHECKS, Plan, PlannedTrial, Split, State
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
from studies.trial.shapes import TrialJob
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
    keys = SharedKeys(study)
    expanded = (
        _plan_trial(study, entry, seed, folder, keys, split) for seed, entry in study.trials()
    )

    def look_up(trial: PlannedTrial) -> LookedUp:
        if trial.run_key not in there:
            return LookedUp(trial, None)
        state, reason, trained = _state(trials_folder.sub(trial.run_key), trial.job)
        return LookedUp(replace(trial, state=state, reason=reason), trained)

    looked_up = heed_sources(list(in_threads(look_up, expanded)))
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


def _estimate(study: Study, entry: Entry, trial: PlannedTrial, estimator: Estimator) -> Estimate:
    work = Work(trial.units, validation_units(study, entry), trial.judge_units)
    rough = assumed_seconds_per_unit(study, entry.need)
    return estimator.estimate(trial.kind, work, entry.need, rough)


def _plan_trial(
    study: Study, entry: Entry, seed: int, folder: Folder, keys: "SharedKeys", split: Split
) -> PlannedTrial:
    """Plan one trial as if nothing of it were there."""
    method = entry.method
    # settings of a method's own, and a start, are no other budget: the study says that they differ
    shared = key_config(study, method, seed, study.train)
    run_key = digest(entry_key(study, entry, seed))
    sources = sources_by_label(study, entry, seed)
    own = [run_key, *(sources.values() if isinstance(method, Pairing) else ())]
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
    units, judge_units = judging_units(study, entry)
    kind = digest(entry_key(study, entry, None))
    return PlannedTrial(run_key, entry.label, seed, job, "missing", units, judge_units, kind=kind)


def _state(folder: Folder, job: TrialJob) -> tuple[State, str | None, Trained | None]:
    """Return what a trial's folder says: its state, the reason, and its training if it has one."""
    try:
        result = read_result(folder)
    except ResultError as error:
        return "damaged", str(error), None
    if result is not None and result["status"] == "diverged":
        return "diverged", result["error"], None
    trained = result["trained"] if result is not None else None
    if trained is not None:
        training_id = trained["training_id"]
        rows, _ = read_points(folder, training_id)
        have = {row["point_key"] for row in rows}
        points = sum(point["point_key"] not in have for point in job["points"])
        held_out = sum(point["point_key"] not in have for point in job["held_out"])
        have = {check["check_key"] for check in read_checks(folder, training_id)}
        checks = sum(check["check_key"] not in have for check in job["checks"])
        if not points and not held_out and not checks:
            return "done", None, trained
        left = f"{points} points are to be evaluated"
        if not points:
            left = f"{held_out} points on held-out images are to be evaluated"
            left = left if held_out else ONLY_CHECKS
    if (failure := read_failure(folder)) is not None:
        return "failed", failure, trained
    if trained is not None:
        return "evaluate", left, trained
    return ("unfinished" if has_checkpoint(folder) else "missing"), None, None
