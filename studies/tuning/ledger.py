"""What Optuna's database and the trials' folders say together of a search: done, died, spent."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from studies.known_methods import ONCE
from studies.planning.plan import PlannedTrial
from studies.results.reading import read_planned
from studies.storage.folder import Folder
from studies.storage.sealed import ResultError
from studies.trial.records import read_epochs, read_failure, read_result
from studies.trial.stored import TrialResult
from studies.tuning.candidates import Params, Tunable
from studies.tuning.early import VALIDATION
from studies.tuning.optuna_internals import set_attributes, set_failed
from studies.tuning.winners import Place, Search, SearchTrial, choose, place_of

COMPLETE, PRUNED = TrialState.COMPLETE, TrialState.PRUNED


@dataclass(frozen=True)
class Left:
    """What earlier drivers have left of a search to do, before anything new is suggested.

    Attributes:
        candidates: To be tried in this order: those whose trials died, the study's own settings,
            and those that have failed.
        begun: Of the first so many a training has begun. They were let in under the budget, and
            go on whatever is left of it.
        died: Trials that died with the last driver.
    """

    candidates: Sequence[Params]
    begun: int
    died: int


def settle(
    study: optuna.Study, number: int, trial: PlannedTrial, folder: Folder, lost: str | None
) -> TrialState:
    """Tell Optuna what storage says of a trial that does not run any more, and return its state.

    A finished trial is complete with the mean SA and RA of its points, a diverged one with 0 and
    0, as it is of no use; one that was stopped early is pruned; all else has failed.

    Args:
        study: Optuna's study.
        number: Of its trial.
        trial: What was planned.
        folder: The folder of ours.
        lost: Why nothing more comes of it; None if that stands in its folder.
    """
    place = folder.sub(f"trials/{trial.run_key}")
    rows = read_planned(place, trial.job)
    attrs: dict[str, Any] = {"device_seconds": spent_seconds(place)}
    validated = [e for e in read_epochs(place) if e["sa_val"] is not None]
    values = None
    if len(rows) == len(trial.job["points"]):
        state, attrs["ended"] = TrialState.COMPLETE, "done"
        points = [{k: row[k] for k in ("lam", "beta", "width_mult", "sa", "ra")} for row in rows]
        attrs["points"] = points
        if validated:
            attrs[VALIDATION] = [validated[-1][name] for name in ("sa_val", "ra_val")]
        values = [float(np.mean([row[name] for row in rows])) for name in ("sa", "ra")]
    elif (result := _result(place)) is not None and result["status"] == "diverged":
        state, attrs["ended"] = TrialState.COMPLETE, "diverged"
        attrs["reason"], attrs["points"], values = result["error"], [], [0.0, 0.0]
    elif lost is not None or (failure := read_failure(place)) is not None:
        state, attrs["ended"] = TrialState.FAIL, "failed"
        attrs["reason"] = lost if lost is not None else failure
    elif result is not None:
        state, attrs["ended"] = TrialState.FAIL, "failed"
        attrs["reason"] = "its points are damaged"
    else:
        state, attrs["ended"] = TrialState.PRUNED, "stopped early"
    set_attributes(study, study.trials[number], attrs)
    study.tell(number, values, state=state)
    return state


def _result(place: Folder) -> TrialResult | None:
    try:
        return read_result(place)
    except ResultError:
        return None


def spent_seconds(place: Folder) -> float:
    """Return the device seconds of training that a trial's folder tells of."""
    result = _result(place)
    if result is not None:
        told = result["trained"] if result["status"] == "done" else result
        if "device_seconds" in told:  # older records of divergence do not say
            return float(told["device_seconds"])
    epochs = read_epochs(place)
    return float(epochs[-1]["device_seconds"]) if epochs else 0.0


def costs(study: optuna.Study, folder: Folder) -> dict[str, float]:
    """Return the device seconds of each training that a search has begun, by run key."""
    found: dict[str, float] = {}
    for trial in study.get_trials(deepcopy=False):
        run_key = trial.user_attrs.get("run_key")
        if run_key is None or trial.user_attrs.get("ended") == "not run":
            continue
        if trial.state == TrialState.COMPLETE:
            found[run_key] = trial.user_attrs["device_seconds"]
        elif run_key not in found:
            found[run_key] = spent_seconds(folder.sub(f"trials/{run_key}"))
    return found


def take_up(study: optuna.Study, tuned: Tunable) -> Left:
    """Take a search over from an earlier driver, whose trials cannot run any more.

    They are marked failed. What is left to do follows from what the database says of all trials,
    so that a kill at any time loses nothing.
    """
    died = [trial for trial in study.get_trials(deepcopy=False) if not trial.state.is_finished()]
    lost = [trial for trial in died if trial.state == TrialState.RUNNING]
    for trial in died:
        mark_died(study, trial)
    trials = study.get_trials(deepcopy=False)
    known = [trial.params for trial in trials if trial.state in {COMPLETE, PRUNED}]

    def lacking(wanted: Iterable[Params]) -> list[Params]:
        found: list[Params] = []
        for params in wanted:
            if params.keys() == tuned.dimensions.keys() and params not in (*known, *found):
                found.append(params)
        return found

    dead = [trial for trial in trials if trial.user_attrs.get("ended") == "died"]
    begun = lacking(trial.params for trial in dead if "run_key" in trial.user_attrs)
    failed = [trial.params for trial in trials if trial.user_attrs.get("ended") == "failed"]
    others = [*(trial.params for trial in dead), *tuned.starts(), *failed]
    return Left(lacking([*begun, *others]), len(begun), len(lost))


def mark_died(study: optuna.Study, trial: FrozenTrial) -> None:
    """Mark a trial failed whose driver has died."""
    ended = "died" if trial.state == TrialState.RUNNING else "not run"
    set_attributes(study, trial, {"ended": ended, "reason": "its driver died"})
    set_failed(study, trial)


def read_search(tuned: Tunable, search: optuna.Study, folder: Folder, ended: str) -> Search:
    """Return what a search has found, and choose its winners."""
    trials = [_trial(trial, folder) for trial in search.trials]
    once = tuned.block.name in ONCE
    select = tuned.settings.select
    places = listed_places(tuned) if tuned.listed and not once else []
    winners, notes = choose(trials, select, once, places)
    untried = []
    if winners and select.rule == "front":
        have = {place_of(trial.points[0]) for trial in winners}
        starts = zip(places, tuned.starts(), strict=False)
        untried = [tuned.entry(start) for place, start in starts if place not in have]
    tried = sum(t.start and t.state == "done" for t in trials)
    if tried < len(tuned.starts()):
        rest = "; the others stay as they are" if untried else ""
        notes.append(
            f"of the study's own settings {tried} of {len(tuned.starts())} were finished, so that "
            f"what tuning gained on held-out images is not known{rest}."
        )
    if len({(entry.need.cpu, entry.need.share) for entry in tuned.study.entries()}) > 1:
        need = tuned.block.resources or tuned.study.resources
        notes.append(
            f"a second of its training is one of {need.cpu} CPU and {need.share:.4g} GPU; the "
            "methods of this study do not have the same, so that equal seconds are no equal budget."
        )
    return Search(
        method=tuned.name,
        once=once,
        starts=len(tuned.starts()),
        budget=tuned.settings.seconds,
        device_seconds=sum(costs(search, folder).values()),
        ended=ended,
        trials=trials,
        winners=[trial.run_key for trial in winners],
        dimensions=list(tuned.dimensions),
        notes=notes,
        untried=untried,
    )


def listed_places(tuned: Tunable) -> list[Place]:
    """Return where a study lists the dedicated models of a method, in the order of its starts."""
    return [
        (
            getattr(method, "lam", None),
            getattr(method, "beta", None),
            method.conditioning().base_width,
        )
        for method in tuned.block.expand()
    ]


def _trial(trial: optuna.trial.FrozenTrial, folder: Folder) -> SearchTrial:
    attrs = trial.user_attrs
    run_key = attrs.get("run_key", "")
    done = attrs.get("ended") == "done"
    seconds = attrs.get("device_seconds")
    if seconds is None:
        seconds = spent_seconds(folder.sub(f"trials/{run_key}")) if run_key else 0.0
    return SearchTrial(
        number=trial.number,
        state=attrs.get("ended", "open"),
        run_key=run_key,
        entry=json.loads(attrs.get("entry", "{}")),
        start=attrs.get("start", False),
        sa=trial.values[0] if done else None,
        ra=trial.values[1] if done else None,
        points=attrs.get("points", []),
        device_seconds=seconds,
        reason=attrs.get("reason", ""),
    )
