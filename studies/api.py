"""The functions behind the `oat` command; each returns data and prints nothing of its own.

MLflow and Ray take seconds to import, so a function that needs them imports them.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console

from oat.names import unknown
from studies.comparison import compare
from studies.errors import StudyError, TuningError
from studies.loading import load_study
from studies.planning import Plan, make_plan
from studies.preconditions import preflight
from studies.results import read_epochs, study_points
from studies.session import (
    STORAGE,
    Source,
    only_driver,
    run,
    study_folder,
    tracking_place,
)
from studies.where import parse_condition

if TYPE_CHECKING:
    from studies.jobs import Job, Log
    from studies.server import MlflowPage
    from studies.tuning import TuneOutcome

__all__ = [
    "compare",
    "job",
    "load_study",
    "logs",
    "plan",
    "points",
    "preflight",
    "run",
    "runs",
    "schema",
    "status",
    "submit",
    "sync",
    "template",
    "tune",
    "ui",
]


def template(study: Source = "quickstart") -> str:
    """Return a study as a commented file, with every key that there is: what `oat init` writes.

    Args:
        study: A preset's name, a YAML file, a mapping, or a study.

    Raises:
        StudyError: The preset is unknown, or the study is faulty.
    """
    from studies.commented import commented

    return commented(load_study(study))


def schema() -> dict[str, Any]:
    """Return the JSON Schema of the study file; see `studies.json_schema.study_schema`."""
    from studies.json_schema import study_schema

    return study_schema()


def plan(
    study: Source,
    *,
    storage: str | Path = STORAGE,
    overrides: Sequence[str] = (),
    probe: bool = False,
    address: str | None = None,
    console: Console | None = None,
) -> Plan:
    """Expand a study into its trials, look up what is done, and estimate what each takes.

    Starts nothing, and writes nothing unless it probes: then it writes ``probe.json`` into the
    study's folder, from which later plans estimate as well.

    Args:
        study: A preset's name, a YAML file, a mapping, or a study.
        storage: Folder or URI of all studies' results.
        overrides: ``path.to.key=value`` each.
        probe: Whether to time some steps, a validation and judging of each kind of trial that is
            to run, on the device that it asks for.
        address: Ray cluster to probe on; None is this machine.
        console: Where the progress of a probe goes; None is standard error.

    Raises:
        StudyError: The study is faulty, or cannot be probed here.
        StorageError: The storage cannot be opened.
    """
    resolved = load_study(study, overrides)
    folder = study_folder(resolved, storage)
    current = make_plan(resolved, folder)
    if not probe:
        if address is not None:
            raise StudyError("`--address` says where to probe; add `--probe`, or leave it out.")
        return current
    from studies.probing import probe as probe_kinds

    return probe_kinds(current, folder, address, console or Console(stderr=True))


def status(
    study: Source, *, storage: str | Path = STORAGE, overrides: Sequence[str] = ()
) -> pd.DataFrame:
    """Return a row for each trial: label, seed, state, epoch, validation SA and RA, run key.

    Read from storage alone, so it can be called from anywhere while a study runs.
    """
    resolved = load_study(study, overrides)
    folder = study_folder(resolved, storage)
    rows = []
    for trial in make_plan(resolved, folder).trials:
        epochs = read_epochs(folder.sub(f"trials/{trial.run_key}"))
        judged = [e for e in epochs if e["sa_val"] is not None]
        rows.append(
            {
                "trial": trial.label,
                "seed": trial.seed,
                "state": trial.state,
                "epoch": epochs[-1]["epoch"] if epochs else 0,
                "epochs": resolved.train.epochs,
                "sa_val": judged[-1]["sa_val"] if judged else float("nan"),
                "ra_val": judged[-1]["ra_val"] if judged else float("nan"),
                "device_seconds": epochs[-1]["device_seconds"] if epochs else 0.0,
                "reason": trial.reason,
                "run_key": trial.run_key,
            }
        )
    return pd.DataFrame(rows)


def points(
    study: Source, *, storage: str | Path = STORAGE, overrides: Sequence[str] = ()
) -> pd.DataFrame:
    """Return the points of a study from storage; see `studies.results.COLUMNS`."""
    resolved = load_study(study, overrides)
    folder = study_folder(resolved, storage)
    return study_points(make_plan(resolved, folder), folder)


def runs(
    study: Source,
    *,
    where: str | None = None,
    columns: Sequence[str] | None = None,
    storage: str | Path = STORAGE,
    tracking_uri: str | None = None,
    tuning: bool = False,
) -> pd.DataFrame:
    """Query the points of a study in MLflow.

    Beside `studies.results.COLUMNS` there is one for each attack, such as ``ra_pgd20``: RA of the
    row's own operating point under that attack.

    Args:
        study: The study.
        where: A condition over the columns, such as ``method == 'oat' and ra_pgd20 > 0.4 and
            lam <= 0.3``; `studies.where.parse_condition` says what it may hold. MLflow filters
            by what it can of it, pandas by the whole.
        columns: Columns to return, in order; None is all.
        storage: Where the default database lies.
        tracking_uri: MLflow; see `tracking_place`.
        tuning: Whether to return the points of tuning, on held-out images, instead.

    Raises:
        StudyError: The condition or a column is faulty.
        TrackingError: MLflow does not answer.
    """
    from studies.tracking import Tracker, check_server

    uri, artifacts = tracking_place(storage, tracking_uri)
    check_server(uri)
    tracker = Tracker(uri, load_study(study).name, artifacts)
    known = tracker.columns()
    for column in columns or ():
        if column not in known:
            raise StudyError(unknown("column", column, known))
    kind = "validation" if tuning else "point"
    if where is None:
        table = tracker.points(kind=kind)
    else:
        condition = parse_condition(where, known)
        table = condition.apply(tracker.points(condition.clauses, kind))
    return table[list(columns)] if columns else table


def sync(
    study: Source,
    *,
    storage: str | Path = STORAGE,
    tracking_uri: str | None = None,
    overrides: Sequence[str] = (),
) -> int:
    """Rebuild or repair the study's experiment in MLflow from storage.

    Returns:
        The number of points that MLflow has now.

    Raises:
        TrackingError: MLflow does not answer.
        TuningError: All is there but the trials of tuning, whose record is damaged.
        LeaseError: The study runs at the moment, and does so itself.
    """
    from studies.records import ResultError
    from studies.tracking import Tracker, check_server
    from studies.tuned import tuning_plan

    resolved = load_study(study, overrides)
    folder = study_folder(resolved, storage)
    uri, artifacts = tracking_place(storage, tracking_uri)
    check_server(uri)
    with only_driver(resolved, folder, Console(stderr=True)):
        current = make_plan(resolved, folder)
        tracker = Tracker(uri, resolved.name, artifacts)
        damaged: ResultError | None = None
        try:
            searched = tuning_plan(current, folder)
            if searched.trials:
                tracker.keep_tuning(folder, searched)
        except ResultError as error:
            damaged = error
        # last, as the study's own trials say whether it is finished
        tracker.finish(current, folder, study_points(current, folder))
        if damaged is not None:
            raise TuningError(str(damaged)) from damaged
        return len(tracker.points())


def tune(
    study: Source,
    *,
    storage: str | Path = STORAGE,
    address: str | None = None,
    tracking_uri: str | None = None,
    optuna_storage: str | None = None,
    overrides: Sequence[str] = (),
    console: Console | None = None,
) -> "TuneOutcome":
    """Tune every method of a study on one budget; see `studies.tuning.tune`."""
    from studies import tuning

    return tuning.tune(
        study,
        storage=storage,
        address=address,
        tracking_uri=tracking_uri,
        optuna_storage=optuna_storage,
        overrides=overrides,
        console=console,
    )


@contextmanager
def ui(
    study: Source,
    *,
    storage: str | Path = STORAGE,
    tracking_uri: str | None = None,
    host: str = "127.0.0.1",
    port: int = 5000,
    stop: threading.Event | None = None,
    console: Console | None = None,
) -> Iterator["MlflowPage"]:
    """Serve MLflow's own page on the study's store for as long as the block lasts.

    A store that is a server has the page already: its address is given and nothing is started.

    Args:
        study: The study.
        storage: Where the default database lies.
        tracking_uri: MLflow; see `tracking_place`.
        host: Name or address to listen on.
        port: 0 for any that is free.
        stop: Set it from elsewhere to give up a start that is still under way.
        console: Where it is said that a page is started; None is standard error.

    Raises:
        StudyError: The study is faulty.
        TrackingError: There is no such experiment, the port is taken, or MLflow does not start.
    """
    from studies.experiment import find_experiment
    from studies.server import mlflow_page

    uri, _ = tracking_place(storage, tracking_uri, make=False)
    experiment = find_experiment(uri, load_study(study).name)
    with mlflow_page(
        uri,
        experiment,
        host=host,
        port=port,
        stop=stop or threading.Event(),
        console=console or Console(stderr=True),
    ) as page:
        yield page


def submit(
    study: Source,
    *,
    address: str,
    storage: str,
    tracking_uri: str | None = None,
    overrides: Sequence[str] = (),
) -> "Job":
    """Submit a study to a cluster as a job and return at once: `run`, detached.

    The study is checked here; the resolved one is sent, and the job has the environment of the
    cluster, credentials included.

    Args:
        study: The study. Its ``data.root`` is a folder of the cluster's nodes.
        address: The cluster's job server, such as ``http://HEAD:8265``.
        storage: Absolute path or URI that every node of the cluster reaches.
        tracking_uri: MLflow as the cluster reaches it, without credentials; None leaves it to
            ``MLFLOW_TRACKING_URI`` there.
        overrides: ``path.to.key=value`` each.

    Raises:
        StudyError: The study is faulty; nothing was submitted.
        JobError: It cannot travel, a job of it has not ended, or the server does not take it.
    """
    from studies.jobs import JobServer, check_travels

    resolved = load_study(study, overrides)
    check_travels(resolved, storage, tracking_uri)
    return JobServer(address).submit(resolved, storage, tracking_uri)


def job(
    study: Source,
    *,
    address: str,
    storage: str | Path | None = None,
    overrides: Sequence[str] = (),
) -> "Job | None":
    """Return the newest job of a study on a cluster; None if the server knows none.

    Args:
        study: The study.
        address: The cluster's job server.
        storage: Only jobs with this storage; None is any.
        overrides: ``path.to.key=value`` each.

    Raises:
        JobError: The server does not answer, or refuses the token.
    """
    from studies.jobs import JobServer

    name = load_study(study, overrides).name
    return JobServer(address).newest(name, None if storage is None else str(storage))


def logs(
    study: Source,
    *,
    address: str,
    storage: str | Path | None = None,
    follow: bool = False,
    overrides: Sequence[str] = (),
) -> "Log":
    """Find the newest job of a study on a cluster to read what its driver says.

    Args:
        study: The study.
        address: The cluster's job server.
        storage: Only jobs with this storage; None is any.
        follow: Whether the log ends with the job, not with what there is now.
        overrides: ``path.to.key=value`` each.

    Returns:
        The log, to be iterated over; its ``job`` says how the job stands, at last how it ended.

    Raises:
        JobError: The server does not answer, refuses the token, or knows no job of the study.
    """
    from studies.jobs import JobServer

    name = load_study(study, overrides).name
    server = JobServer(address)
    return server.log(name, None if storage is None else str(storage), follow=follow)
