"""Tune every method of a study on the same budget, and write down who won: `studies.tune`.

For each entry under ``methods`` an Optuna study of its own runs under Ray Tune, with SA and RA on
held-out images as its two values. Test images are not looked at.
"""

import json
import logging
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import optuna
import pandas as pd
from rich.console import Console

from studies.commands.searches import Searches
from studies.console import plain_console
from studies.driver.following import join_cluster, open_tracker, try_mlflow
from studies.driver.lease import only_driver
from studies.driver.places import home_of, study_folder, tracking_place
from studies.driver.same_data import data_of_all
from studies.errors import TuningError
from studies.naming import duration
from studies.planning.estimates import ASSUMED_FACTOR
from studies.planning.expand import make_plan
from studies.planning.plan import Plan
from studies.storage.addresses import DEFAULT_STORAGE, without_credentials
from studies.storage.folder import Folder
from studies.storage.sealed import ResultError
from studies.study_file.loading import Source, load_study
from studies.study_file.plain_yaml import write_yaml
from studies.study_file.study import Study
from studies.tuning.candidates import Tunable, tuned_methods
from studies.tuning.database import check_url, open_database, open_search, optuna_faults
from studies.tuning.ledger import read_search
from studies.tuning.record import (
    TUNING_FILE,
    WINNERS_FILE,
    TuningRecord,
    keep,
    read_record,
    searches_of,
    tuned_study,
    tuning_plan,
)
from studies.tuning.winners import Search

log = logging.getLogger("oat.tuning")


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
    storage: str | Path = DEFAULT_STORAGE,
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
        tracking_uri: MLflow; see `studies.driver.places.tracking_place`.
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
    from studies.driver.checks import check_evaluation, check_here, demand, tell
    from studies.measuring.packing import choose_share, study_with_share

    resolved = load_study(study, overrides)
    methods = tuned_methods(resolved)
    folder = study_folder(resolved, storage)
    console = console or plain_console(stderr=True)
    uri, artifacts = tracking_place(storage, tracking_uri)
    here = check_here(resolved, folder, uri)
    demand(here)
    tell(here, console)
    if (url := optuna_storage) is None:
        url = f"sqlite:///{home_of(storage) / 'optuna.db'}"
    check_url(url)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with only_driver(resolved, folder, console):
        before = make_plan(resolved, folder)
        known = data_of_all(before, folder)
        if address is None:
            candidate = methods[0].candidate(methods[0].starts()[0])
            checks = check_evaluation(candidate, known)
            demand(checks)
            tell(checks, console)
        check_budget(methods, before, trained_before(folder))
        with optuna_faults(url):
            database = open_database(url)
            searches = {tuned.name: open_search(tuned, database, url) for tuned in methods}
        with ExitStack() as stack:
            join_cluster(resolved, folder, address, stack, console, known)
            tracker = open_tracker(uri, resolved.name, artifacts)
            share = choose_share(before.trials, folder, console)
            # the record is of the study as it was given: resources decide nothing of a candidate
            for tuned in tuned_methods(study_with_share(resolved, share)):
                with optuna_faults(url):
                    session = Searches(before, folder, tracker, console, address is None)
                    ended = session.run(tuned, searches[tuned.name], database)
                found = read_search(tuned, searches[tuned.name], folder, ended)
                keep(resolved, folder, found)
        record = read_record(folder)
        outcome = _finish(resolved, folder, record, url)
        notes = try_mlflow(lambda: tracker.keep_tuning(folder, tuning_plan(before, folder)))
        return TuneOutcome(outcome.searches, outcome.tuned, outcome.storage, outcome.notes + notes)


def trained_before(folder: Folder) -> set[str]:
    """Return the methods that an earlier tuning of the study has trained at least once."""
    try:
        record = read_record(folder)
    except ResultError:  # it is written anew
        record = None
    searches = [] if record is None else searches_of(record)
    return {search.method for search in searches if search.winners}


def check_budget(
    methods: Sequence[Tunable], current: Plan, trained: Collection[str] = frozenset()
) -> None:
    """Refuse a budget of which a method cannot train once.

    Args:
        methods: What is tuned.
        current: The study's plan, which says what training costs.
        trained: Names of methods that have been trained before. They are not checked: their
            search goes on or is at its end.

    Raises:
        TuningError: It is too small; says how much one trial takes.
    """
    for tuned in methods:
        if tuned.name in trained:
            continue
        # an assumed speed refuses only what it would refuse if it were wrong as far as it may be
        sure = 1.0 if current.measured else ASSUMED_FACTOR
        dearest = tuned.dearest_units() * current.seconds_per_unit / sure
        if dearest > tuned.settings.seconds:
            how = "about" if current.measured else "at least"
            basis = "as measured" if current.measured else "by a rough guess before any has run"
            raise TuningError(
                f"`tune.budget` {tuned.settings.budget} is too small: one trial of {tuned.name} "
                f"takes {how} {duration(dearest)} ({basis})."
            )


def _finish(study: Study, folder: Folder, record: TuningRecord | None, url: str) -> TuneOutcome:
    """Write the study file of the winners."""
    assert record is not None, "it has just been written"
    searches = searches_of(record)
    notes = [f"{search.method}: {note}" for search in searches for note in search.notes]
    made = tuned_study(record)
    assert study.tune is not None
    head = (
        f"# The winners of `oat tune`: {study.tune.budget} of training for each method, rule "
        f"'{study.tune.select.rule}'\n# on held-out images; {TUNING_FILE} beside this file has "
        "every trial. `oat run` takes this file as it is.\n"
    )
    text = head + write_yaml(made)
    folder.write(WINNERS_FILE, text.encode())
    return TuneOutcome(searches, folder.sub(WINNERS_FILE).uri, without_credentials(url), notes)
