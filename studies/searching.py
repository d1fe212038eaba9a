"""One method's search: Optuna suggests, Ray Tune trains, storage tells what came of it.

Optuna's database says what was tried; what a candidate achieved and cost is read from its trial's
folder. So a search can be taken up after anything: a trial that died is marked failed, and its
candidate is tried again first, from its checkpoint.
"""

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from studies.candidates import Params, Tuned, name_of
from studies.early import VALIDATION
from studies.errors import StudyError
from studies.planning import PlannedTrial, make_plan
from studies.records import ResultError, read_failure, read_result
from studies.results import read_epochs, read_planned
from studies.runner import MakeConfig
from studies.storage import Folder

log = logging.getLogger("oat.tuning")

FAILURES_IN_A_ROW = 5
"""Trials that may fail one after another until a search gives up."""
REPEATS_IN_A_ROW = 100
"""Suggestions that may be known already until a search counts as exhausted."""

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


class MethodSearch(OptunaSearch):  # type: ignore[misc]
    """Suggests the candidates of one method until its budget is spent.

    A trial starts only if the dearest candidate would still be paid for when all that runs has
    ended, so that what methods spend differs by less than one trial. Until the first trial tells
    what one costs, it runs alone.

    Args:
        tuned: The method.
        folder: The study's folder.
        storage: Optuna's.
        make_config: Makes what a worker takes.
        left: What is to be tried first.
        seconds_per_unit: What a unit of work costs if that was measured before; None is not known.
        slots: How many trials run at a time.
        begun: Called with each trial that is about to run.
    """

    def __init__(
        self,
        tuned: Tuned,
        folder: Folder,
        storage: optuna.storages.BaseStorage,
        make_config: MakeConfig,
        left: Left,
        *,
        seconds_per_unit: float | None,
        slots: int,
        begun: Callable[[PlannedTrial], None],
    ) -> None:
        study = optuna.load_study(study_name=name_of(tuned.study, tuned), storage=storage)
        super().__init__(
            space=tuned.distributions(),
            metric=["sa", "ra"],
            mode=["max", "max"],
            sampler=_sampler(tuned, len(study.trials)),
            study_name=study.study_name,
            storage=storage,
        )
        self._tuned, self._folder, self._make_config = tuned, folder, make_config
        self._known_speed, self._slots, self._begun = seconds_per_unit, slots, begun
        self._left, self._asked = left, 0
        self._running: dict[str, PlannedTrial] = {}
        self._failed_in_a_row = 0
        self._projected: dict[str, float] = {}
        self._dearest_units = tuned.dearest_units()
        self.why_ended = ""

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return a candidate to train, None to wait, or that there are no more."""
        repeats = 0
        while True:
            why = self._no_use(repeats)
            if why:
                return None if self._running else self._finished(why)
            if self._must_wait():
                return None if self._running else self._finished("the budget is spent")
            trial = self._plan(trial_id, self._ask(trial_id))
            if trial is None:
                repeats += 1
                continue
            repeats = 0
            if trial.state in {"done", "diverged"}:
                self._settle(trial_id, trial, None)  # trained before, for this search or another
                continue
            self._running[trial_id] = trial
            self._begun(trial)
            return {"trial": self._make_config(trial)}

    def _ask(self, trial_id: str) -> Params:
        """Return the next candidate: one that is left, or one that Optuna suggests."""
        if self._asked < len(self._left.candidates):
            self._ot_study.enqueue_trial(self._left.candidates[self._asked])
            self._asked += 1
        params: Params | None = super().suggest(trial_id)
        assert params is not None
        return params

    def _finished(self, why: str) -> str:
        self.why_ended = why
        return str(Searcher.FINISHED)

    def _no_use(self, repeats: int) -> str:
        """Say why there is no use in another candidate; empty if there is."""
        if len(self._taken()) >= self._tuned.size() or repeats >= REPEATS_IN_A_ROW:
            return "every candidate has been tried"
        if self._failed_in_a_row >= FAILURES_IN_A_ROW:
            return f"{FAILURES_IN_A_ROW} trials failed one after another"
        return ""

    def _taken(self) -> dict[str, int]:
        """Return the trainings that are done or at work, by run key, with their trial's number."""
        return {
            trial.user_attrs["run_key"]: trial.number
            for trial in self._of(TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
            if "run_key" in trial.user_attrs
        }

    def _of(self, *states: TrialState) -> list[FrozenTrial]:
        found: list[FrozenTrial] = self._ot_study.get_trials(deepcopy=False, states=states)
        return found

    def _must_wait(self) -> bool:
        """Tell whether another trial may not start now."""
        if len(self._running) >= self._slots:
            return True
        goes_on = self._asked < self._left.begun
        spent, speed = self.spent(), self._speed()
        if speed is None:
            return bool(self._running) or (spent >= self._tuned.settings.seconds and not goes_on)
        if goes_on:
            return False
        dearest = self._dearest_units * speed
        committed = spent + sum(
            self._projected.get(trial.run_key, trial.units * speed)
            for trial in self._running.values()
        )
        return committed > 0 and committed + dearest > self._tuned.settings.seconds

    def _speed(self) -> float | None:
        """Return the seconds of a unit of work as this search has seen it; None if it has not."""
        seen = [
            trial.user_attrs["device_seconds"] / trial.user_attrs["units"]
            for trial in self._of(TrialState.COMPLETE)
            if trial.user_attrs["ended"] == "done" and trial.user_attrs["device_seconds"]
        ]
        seen += [
            self._projected[trial.run_key] / trial.units
            for trial in self._running.values()
            if trial.run_key in self._projected
        ]
        return float(np.median(seen)) if seen else self._known_speed

    def spent(self) -> float:
        """Return the device seconds of all trials of this search that do not run."""
        running = {trial.run_key for trial in self._running.values()}
        return sum(
            seconds
            for run_key, seconds in costs(self._ot_study, self._folder).items()
            if run_key not in running
        )

    def _plan(self, trial_id: str, params: Params) -> PlannedTrial | None:
        """Plan a suggestion; one that is no use is marked failed, and None returned."""
        optuna_trial = self._ot_trials[trial_id]
        try:
            candidate = self._tuned.candidate(params)
        except StudyError as error:
            self._refuse(trial_id, str(error))
            return None
        trial = make_plan(candidate, self._folder, "val").trials[0]
        taken = self._taken()
        if trial.run_key in taken:
            self._refuse(trial_id, f"the same as trial {taken[trial.run_key]}")
            return None
        for name, value in {
            "run_key": trial.run_key,
            "entry": json.dumps(self._tuned.entry(params)),
            "start": dict(params) in self._tuned.starts(),
            "units": trial.units,
        }.items():
            optuna_trial.set_user_attr(name, value)
        return trial

    def _refuse(self, trial_id: str, why: str) -> None:
        optuna_trial = self._ot_trials.pop(trial_id)
        optuna_trial.set_user_attr("ended", "not run")
        optuna_trial.set_user_attr("reason", why)
        self._ot_study.tell(optuna_trial, state=TrialState.FAIL)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Learn from a trial's epochs what it will cost."""
        trial = self._running.get(trial_id)
        if trial is not None and result.get("kind") == "epoch":
            whole = result["device_seconds"] * result["epochs"] / result["epoch"]
            self._projected[trial.run_key] = whole

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell Optuna what storage says of a trial that has ended."""
        trial = self._running.pop(trial_id)
        self._settle(trial_id, trial, "its worker was lost again and again" if error else None)

    def _settle(self, trial_id: str, trial: PlannedTrial, lost: str | None) -> None:
        number = self._ot_trials.pop(trial_id).number
        state = settle(self._ot_study, number, trial, self._folder, lost)
        failed = state == TrialState.FAIL
        self._failed_in_a_row = self._failed_in_a_row + 1 if failed else 0

    def save(self, checkpoint_path: str) -> None:
        """Give Tune an empty file: a search is taken up from Optuna's database."""
        with open(checkpoint_path, "wb"):
            pass

    def __getstate__(self) -> dict[str, Any]:
        """Give Tune nothing to pickle, likewise."""
        return {}


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
    ours = study.trials[number]
    for name, value in attrs.items():
        study._storage.set_trial_user_attr(ours._trial_id, name, value)
    study.tell(number, values, state=state)
    return state


def _result(place: Folder) -> dict[str, Any] | None:
    try:
        return read_result(place)
    except ResultError:
        return None


def spent_seconds(place: Folder) -> float:
    """Return the device seconds of training that a trial's folder tells of."""
    result = _result(place)
    if result is not None:
        told = result.get("trained", result)
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


def take_up(study: optuna.Study, tuned: Tuned) -> Left:
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
    study._storage.set_trial_user_attr(trial._trial_id, "ended", ended)
    study._storage.set_trial_user_attr(trial._trial_id, "reason", "its driver died")
    study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)


def _sampler(tuned: Tuned, told: int) -> optuna.samplers.BaseSampler:
    """Return a sampler whose draws are those of no earlier driver of the search."""
    seed = int(np.random.SeedSequence([tuned.study.seeds[0], told]).generate_state(1)[0])
    if tuned.settings.sampler == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed, constant_liar=True)
