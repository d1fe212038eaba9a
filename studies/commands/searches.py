"""The searches of tuning, one method after another, while MLflow follows."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import TrialState
from rich.console import Console

from studies.console import say
from studies.driver.following import followed
from studies.planning.expand import make_plan
from studies.planning.plan import Plan
from studies.storage.folder import Folder
from studies.tuning.candidates import Tunable
from studies.tuning.ledger import mark_died, settle, take_up
from studies.tuning.search import MethodSearch

if TYPE_CHECKING:
    from studies.tracking.tracker import Tracker


class Searches:
    """Runs searches, one after another, while MLflow follows."""

    def __init__(
        self, current: Plan, folder: Folder, tracker: "Tracker", console: Console, local: bool
    ) -> None:
        self._current, self._folder, self._tracker = current, folder, tracker
        self._console, self._local = console, local

    def run(
        self, tuned: Tunable, search: optuna.Study, database: optuna.storages.BaseStorage
    ) -> str:
        """Search until the budget is spent; return why it ended."""
        empty = Plan(
            self._current.study, (), (), self._current.seconds_per_unit, self._current.measured
        )
        around = followed(empty, self._folder, self._tracker, self._console, tuned.name)
        with around as (progress, begun):
            if tuned.dimensions:
                return self._search(tuned, search, database, [progress], begun)
            return self._once(tuned, search, [progress], begun)

    def _search(
        self,
        tuned: Tunable,
        search: optuna.Study,
        database: optuna.storages.BaseStorage,
        callbacks: list[Any],
        begun: Callable[[Any], None],
    ) -> str:
        import ray

        from studies.cluster.capacity import node_sizes, request_of, slots
        from studies.cluster.launching import search as run_search
        from studies.tuning.early import EarlyStop

        left = take_up(search, tuned)
        if left.died:
            trials = f"{left.died} trial{'s' if left.died > 1 else ''}"
            say(
                self._console,
                f"{tuned.name}: {trials} died with an earlier run; their candidates go on.",
            )
        first = make_plan(tuned.candidate(tuned.starts()[0]), self._folder, "val").trials[0]
        made: list[MethodSearch] = []

        def make(config: Any) -> MethodSearch:
            made.append(
                MethodSearch(
                    tuned,
                    self._folder,
                    database,
                    config,
                    left,
                    seconds_per_unit=(
                        self._current.seconds_per_unit if self._current.measured else None
                    ),
                    slots=slots(request_of(first), node_sizes(ray.nodes())),
                    begun=begun,
                )
            )
            return made[0]

        early = tuned.settings.early_stopping
        stop = None if early is None else EarlyStop(search, early.slack)
        # a worker that is stopped goes on until its next report: none may be handed on
        run_search(
            tuned.study.name,
            self._folder,
            make,
            callbacks,
            reuse_workers=self._local and stop is None,
            stopping=stop,
        )
        return made[0].why_ended

    def _once(
        self,
        tuned: Tunable,
        search: optuna.Study,
        callbacks: list[Any],
        begun: Callable[[Any], None],
    ) -> str:
        """Train a method that has nothing to tune, once."""
        from studies.cluster.launching import launch

        say(self._console, f"{tuned.name} has nothing to tune; it is trained once.")
        ended = "there is nothing to tune: trained once"
        if any(trial.state == TrialState.COMPLETE for trial in search.trials):
            return ended
        for left in search.trials:
            if left.state == TrialState.RUNNING:
                mark_died(search, left)
        planned = make_plan(tuned.candidate({}), self._folder, "val")
        (trial,) = planned.trials
        asked = search.ask()
        attrs = {
            "run_key": trial.run_key,
            "entry": json.dumps(tuned.entry({})),
            "start": True,
            "units": trial.units,
        }
        for name, value in attrs.items():
            asked.set_user_attr(name, value)
        begun(trial)
        lost = {}
        if trial.needs_run:
            lost = launch(planned, self._folder, callbacks, reuse_workers=self._local)
        settle(search, asked.number, trial, self._folder, lost.get(trial.run_key))
        return ended
