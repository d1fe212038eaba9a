"""A study in MLflow: `studies.runs`, `studies.sync` and `studies.ui`."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from rich.console import Console

from studies.driver.lease import only_driver
from studies.driver.places import study_folder, tracking_place
from studies.errors import TuningError
from studies.planning.expand import make_plan
from studies.results.points import check_columns
from studies.results.reading import study_points
from studies.storage.addresses import DEFAULT_STORAGE
from studies.study_file.loading import Source, load_study
from studies.tracking.conditions import parse_condition

if TYPE_CHECKING:
    from studies.tracking.mlflow_page import MlflowPage


def runs(
    study: Source,
    *,
    where: str | None = None,
    columns: Sequence[str] | None = None,
    storage: str | Path = DEFAULT_STORAGE,
    tracking_uri: str | None = None,
    held_out: bool = False,
    overrides: Sequence[str] = (),
) -> pd.DataFrame:
    """Query the points of a study in MLflow.

    Beside `studies.results.points.COLUMNS` there is one for each attack, such as
    ``ra_pgd20``: RA of the row's own operating point under that attack.

    Args:
        study: The study.
        where: A condition over the columns, such as ``method == 'oat' and ra_pgd20 > 0.4 and
            lam <= 0.3``; `studies.tracking.conditions.parse_condition` says what it may hold.
            MLflow filters by what it can of it, pandas by the whole.
        columns: Columns to return, in order; None is all.
        storage: Where the default database lies.
        tracking_uri: MLflow; see `tracking_place`.
        held_out: Whether to return the points on held-out images instead, by which tuning and
            comparisons choose.
        overrides: ``path.to.key=value`` each.

    Raises:
        QueryError: The condition or a column is faulty.
        TrackingError: MLflow does not answer.
    """
    from studies.tracking.reaching import check_server
    from studies.tracking.tracker import Tracker

    uri, artifacts = tracking_place(storage, tracking_uri)
    check_server(uri)
    tracker = Tracker(uri, load_study(study, overrides).name, artifacts)
    known = tracker.columns()
    check_columns(columns or (), known)
    kind = "validation" if held_out else "point"
    if where is None:
        table = tracker.points(kind=kind)
    else:
        condition = parse_condition(where, known)
        table = condition.apply(tracker.points(condition.clauses, kind))
    return table[list(columns)] if columns else table


def sync(
    study: Source,
    *,
    storage: str | Path = DEFAULT_STORAGE,
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
    from studies.storage.sealed import ResultError
    from studies.tracking.reaching import check_server
    from studies.tracking.tracker import Tracker
    from studies.tuning.record import tuning_plan

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
        tracker.sync(current, folder)
        tracker.close(current, folder, study_points(current, folder))
        if damaged is not None:
            raise TuningError(str(damaged)) from damaged
        return len(tracker.points())


@contextmanager
def ui(
    study: Source,
    *,
    storage: str | Path = DEFAULT_STORAGE,
    tracking_uri: str | None = None,
    host: str = "127.0.0.1",
    port: int = 5000,
    overrides: Sequence[str] = (),
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
        overrides: ``path.to.key=value`` each.
        stop: Set it from elsewhere to give up a start that is still under way.
        console: Where it is said that a page is started; None is standard error.

    Raises:
        StudyError: The study is faulty.
        TrackingError: There is no such experiment, the port is taken, or MLflow does not start.
    """
    from studies.tracking.experiment import find_experiment
    from studies.tracking.mlflow_page import mlflow_page

    uri, _ = tracking_place(storage, tracking_uri, make=False)
    experiment = find_experiment(uri, load_study(study, overrides).name)
    with mlflow_page(
        uri,
        experiment,
        host=host,
        port=port,
        stop=stop or threading.Event(),
        console=console or Console(stderr=True),
    ) as page:
        yield page
