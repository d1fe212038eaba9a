"""One method's search: Optuna suggests, Ray Tune trains, storage tells what came of it.

Optuna's database says what was tried; what a candidate achieved and cost is read from its trial's
folder. So a search can be taken up after anything: a trial that died is marked failed, and its
candidate is tried again first, from its checkpoint.
"""

import json
import logging
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from studies.cluster.configs import TrialSpace
from studies.cluster.launching import MakeConfig
from studies.errors import StudyError
from studies.planning.expand import make_plan
from studies.planning.plan import PlannedTrial
from studies.storage.folder import Folder
from studies.trial.shapes import EpochReport, TrialReport
from studies.tuning.candidates import Params, Tunable, name_of
from studies.tuning.ledger import Left, costs, settle

log = logging.getLogger("oat.tuning")

FAILURES_IN_A_ROW = 5
"""Trials that may fail one after another until a search gives up."""
REPEATS_IN_A_ROW = 100
"""Suggestions that may be known already until a search counts as exhausted."""


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
        tuned: Tunable,
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

    def suggest(self, trial_id: str) -> TrialSpace | str | None:
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

    def on_trial_result(self, trial_id: str, result: TrialReport) -> None:
        """Learn from a trial's epochs what it will cost."""
        trial = self._running.get(trial_id)
        if trial is not None and result.get("kind") == "epoch":
            epoch = cast(EpochReport, result)
            whole = epoch["device_seconds"] * epoch["epochs"] / epoch["epoch"]
            self._projected[trial.run_key] = whole

    def on_trial_complete(
        self, trial_id: str, result: TrialReport | None = None, error: bool = False
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


def _sampler(tuned: Tunable, told: int) -> optuna.samplers.BaseSampler:
    """Return a sampler whose draws are those of no earlier driver of the search."""
    seed = int(np.random.SeedSequence([tuned.study.seeds[0], told]).generate_state(1)[0])
    if tuned.settings.sampler == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed, constant_liar=True)
