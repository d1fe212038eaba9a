"""Tune every method of a study on one and the same budget, and write down who won.

For each entry under ``methods`` an Optuna study of its own runs under Ray Tune, with SA and RA on
held-out images as its two values. Test images are not looked at.
"""

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import pandas as pd
import yaml
from optuna.trial import TrialState
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from studies.addresses import without_credentials
from studies.candidates import Tuned, name_of, tuned_methods
from studies.config import Study
from studies.errors import TuningError
from studies.loading import load_study
from studies.methods import ONCE
from studies.planning import Plan, make_plan
from studies.searching import MethodSearch, costs, mark_died, settle, spent_seconds, take_up
from studies.session import (
    STORAGE,
    Source,
    home_of,
    join_cluster,
    only_driver,
    open_tracker,
    refusal,
    study_folder,
    tracking_place,
)
from studies.storage import Folder
from studies.tuned import RECORD, TUNED, keep, read_record, searches_of, tuned_study, tuning_plan
from studies.winners import Place, Search, SearchTrial, choose, place_of

if TYPE_CHECKING:
    from studies.tracking import Tracker

log = logging.getLogger("oat.tuning")

SETTINGS = "oat.settings"
"""User attribute of an Optuna study: all that decides its values."""


@dataclass(frozen=True)
class TuneOutcome:
    """What tuning left behind.

    Attributes:
        searches: What was tried of each method, and who won.
        tuned: URI of the study file of the winners.
        storage: URL of Optuna's storage, without credentials.
        notes: What the user must know.
    """

    searches: list[Search]
    tuned: str
    storage: str
    notes: list[str]

    @property
    def complete(self) -> bool:
        """Whether every method has a winner."""
        return all(search.winners for search in self.searches)

    def trials(self) -> pd.DataFrame:
        """Return a row for each trial of each method."""
        return pd.DataFrame(
            [
                {
                    "method": search.method,
                    "number": trial.number,
                    "state": trial.state,
                    "run_key": trial.run_key,
                    "sa": trial.sa,
                    "ra": trial.ra,
                    "device_seconds": trial.device_seconds,
                    "won": trial.run_key in search.winners and trial.state == "done",
                    "settings": json.dumps(trial.entry, ensure_ascii=False),
                    "reason": trial.reason,
                }
                for search in self.searches
                for trial in search.trials
            ]
        )


def tune(
    study: Source,
    *,
    storage: str | Path = STORAGE,
    address: str | None = None,
    tracking_uri: str | None = None,
    optuna_storage: str | None = None,
    overrides: Sequence[str] = (),
    console: Console | None = None,
) -> TuneOutcome:
    """Tune each method of a study under the budget of its ``tune`` block. Safe to call again.

    Args:
        study: A preset's name, a YAML file, a mapping, or a study.
        storage: Folder or URI of all studies' results; every node must reach it.
        address: Ray cluster to use; None starts a Ray on this machine.
        tracking_uri: MLflow; see `studies.session.tracking_place`.
        optuna_storage: URL of an Optuna database; None is ``optuna.db`` beside MLflow's default.
        overrides: ``path.to.key=value`` each.
        console: Where progress goes; None is standard error.

    Raises:
        StudyError: The study is faulty, or cannot run here; nothing was started.
        TuningError: It does not say how it is tuned, the budget is too small, or Optuna's storage
            does not answer or holds another study; nothing was started.
        StorageError: The storage cannot be written; nothing was started.
        TrackingError: MLflow does not answer; nothing was started.
    """
    from studies.packing import choose_share, study_with_share
    from studies.preconditions import check_evaluation, check_here, demand

    resolved = load_study(study, overrides)
    methods = tuned_methods(resolved)
    folder = study_folder(resolved, storage)
    console = console or Console(stderr=True)
    uri, artifacts = tracking_place(storage, tracking_uri)
    demand(check_here(resolved, folder, uri))
    if address is None:
        demand([check_evaluation(methods[0].candidate(methods[0].starts()[0]))])
    url = optuna_storage or f"sqlite:///{home_of(storage) / 'optuna.db'}"
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with only_driver(resolved, folder, console):
        before = make_plan(resolved, folder)
        check_budget(methods, before)
        with optuna_faults(url):
            database = optuna.storages.RDBStorage(url)
            searches = {tuned.name: open_search(tuned, database, url) for tuned in methods}
        with ExitStack() as stack:
            join_cluster(resolved, folder, address, stack, console)
            tracker = open_tracker(uri, resolved.name, artifacts)
            share = choose_share(before.trials, folder, console)
            # the record is of the study as it was given: resources decide nothing of a candidate
            for tuned in tuned_methods(study_with_share(resolved, share)):
                with optuna_faults(url):
                    session = _Session(before, folder, tracker, console, address is None)
                    ended = session.run(tuned, searches[tuned.name], database)
                found = read_search(tuned, searches[tuned.name], folder, ended)
                keep(resolved, folder, found)
        record = read_record(folder)
        outcome = _finish(resolved, folder, record, url)
        notes = refusal(lambda: tracker.keep_tuning(folder, tuning_plan(before, folder)))
        return TuneOutcome(outcome.searches, outcome.tuned, outcome.storage, outcome.notes + notes)


@contextmanager
def optuna_faults(url: str) -> Iterator[None]:
    """Turn what Optuna's database does not do into one sentence.

    Raises:
        TuningError: It does not answer, refuses, or is of another version.
    """
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.OptunaError, ImportError, RuntimeError) as error:
        ours = ("DB access module", "runtime optuna version")  # of a class that many raise
        if isinstance(error, ImportError | RuntimeError) and not any(w in str(error) for w in ours):
            raise
        cause = getattr(error, "orig", None) or error.__cause__ or error
        said = " ".join(str(cause).split()).rstrip(".")
    else:
        return
    hidden = without_credentials(url)
    raise TuningError(
        f"Optuna's storage '{hidden}' does not do what it must ({said.replace(url, hidden)}); "
        "what has been trained is safe, and the same command goes on once it does."
    )


def open_search(tuned: Tuned, database: optuna.storages.BaseStorage, url: str) -> optuna.Study:
    """Open a method's Optuna study, or make it.

    Raises:
        TuningError: There is one of this name that was made for other settings, or by another
            version.
    """
    name = name_of(tuned.study, tuned)
    search = optuna.create_study(
        study_name=name,
        storage=database,
        directions=["maximize", "maximize"],
        load_if_exists=True,
    )
    wanted = tuned.decides()
    found = search.user_attrs.get(SETTINGS)
    if found is None and not search.trials:
        with warnings.catch_warnings():
            # "experimental", and all that it does is to name the axes of the dashboard
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            search.set_metric_names(["SA", "RA"])
        search.set_user_attr(SETTINGS, wanted)
        return search
    if found != json.loads(json.dumps(wanted)):
        known = found or {}
        odd = [key for key in wanted if known.get(key) != json.loads(json.dumps(wanted[key]))]
        raise TuningError(
            f"Optuna's storage '{without_credentials(url)}' has a study '{name}' with another "
            f"{' and '.join(odd or ['origin'])}; give another `--optuna-storage`, or the study "
            "another `name`."
        )
    return search


def check_budget(methods: Sequence[Tuned], current: Plan) -> None:
    """Refuse a budget of which a method cannot train once.

    Raises:
        TuningError: It is too small; says how much one trial takes.
    """
    for tuned in methods:
        dearest = tuned.dearest_units() * current.seconds_per_unit
        if dearest > tuned.settings.seconds:
            basis = "as measured" if current.measured else "a rough guess before any has run"
            raise TuningError(
                f"`tune.budget` {tuned.settings.budget} is too small: one trial of {tuned.name} "
                f"takes about {dearest:.0f} s ({basis})."
            )


class _Session:
    """Runs searches, one after another, while MLflow follows."""

    def __init__(
        self, current: Plan, folder: Folder, tracker: "Tracker", console: Console, local: bool
    ) -> None:
        self._current, self._folder, self._tracker = current, folder, tracker
        self._console, self._local = console, local

    def run(self, tuned: Tuned, search: optuna.Study, database: optuna.storages.BaseStorage) -> str:
        """Search until the budget is spent; return why it ended."""
        from studies.background import BackgroundSync
        from studies.progress import Progress

        empty = Plan(
            self._current.study, (), (), self._current.seconds_per_unit, self._current.measured
        )
        follower = BackgroundSync(self._tracker, empty, self._folder)
        follower.start()
        try:
            with Progress(empty, self._console, follower.changed, tuned.name) as progress:

                def begun(trial: Any) -> None:
                    follower.add(trial)
                    progress.add(trial)

                if tuned.dimensions:
                    return self._search(tuned, search, database, [progress], begun)
                return self._once(tuned, search, [progress], begun)
        finally:
            follower.close()

    def _search(
        self,
        tuned: Tuned,
        search: optuna.Study,
        database: optuna.storages.BaseStorage,
        callbacks: list[Any],
        begun: Callable[[Any], None],
    ) -> str:
        import ray

        from studies.capacity import node_sizes, request_of, slots
        from studies.early import EarlyStop
        from studies.runner import search as run_search

        left = take_up(search, tuned)
        if left.died:
            trials = f"{left.died} trial{'s' if left.died > 1 else ''}"
            self._say(f"{tuned.name}: {trials} died with an earlier run; their candidates go on.")
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
        tuned: Tuned,
        search: optuna.Study,
        callbacks: list[Any],
        begun: Callable[[Any], None],
    ) -> str:
        """Train a method that has nothing to tune, once."""
        from studies.runner import launch

        self._say(f"{tuned.name} has nothing to tune; it is trained once.")
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
        if trial.to_run:
            lost = launch(planned, self._folder, callbacks, reuse_workers=self._local)
        settle(search, asked.number, trial, self._folder, lost.get(trial.run_key))
        return ended

    def _say(self, sentence: str) -> None:
        self._console.print(sentence, highlight=False, markup=False, soft_wrap=True)


def read_search(tuned: Tuned, search: optuna.Study, folder: Folder, ended: str) -> Search:
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


def listed_places(tuned: Tuned) -> list[Place]:
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


def _finish(study: Study, folder: Folder, record: dict[str, Any] | None, url: str) -> TuneOutcome:
    """Write the study file of the winners."""
    assert record is not None, "it has just been written"
    searches = searches_of(record)
    notes = [f"{search.method}: {note}" for search in searches for note in search.notes]
    made = tuned_study(record)
    assert study.tune is not None
    head = (
        f"# The winners of `oat tune`: {study.tune.budget} of training for each method, rule "
        f"'{study.tune.select.rule}'\n# on held-out images; {RECORD} beside this file has every "
        "trial. `oat run` takes this file as it is.\n"
    )
    text = head + yaml.safe_dump(made, sort_keys=False, allow_unicode=True)
    folder.write(TUNED, text.encode())
    return TuneOutcome(searches, folder.sub(TUNED).uri, without_credentials(url), notes)
