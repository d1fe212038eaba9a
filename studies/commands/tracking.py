"""A study in MLflow: `studies.runs`, `studies.sync` and `studies.ui`."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from rich.console import Console

from studies.console import plain_console, say
from studies.driver.lease import LEASE, only_driver
from studies.driver.places import study_folder, tracking_place
from studies.errors import QueryError, TuningError
from studies.planning.expand import make_plan, point_keys
from studies.planning.plan import Split
from studies.results.points import check_columns
from studies.results.reading import study_points
from studies.results.shown import Points
from studies.storage.addresses import DEFAULT_STORAGE
from studies.study_file.loading import Source, load_study
from studies.study_file.study import Study
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
    ``ra_pgd20``: RA of the row's own operating point under that attack. Points under the same name
    that the file does not ask for, those of another file, of earlier settings or under an earlier
    attack, are left out; the frame's attribute `OTHERS` tells how many.

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
        QueryError: The condition or a column is faulty, or there are no points yet.
        TrackingError: MLflow does not answer, or does not know the study.
    """
    from studies.tracking.experiment import find_experiment
    from studies.tracking.tracker import Tracker

    resolved = load_study(study, overrides)
    uri, artifacts = tracking_place(storage, tracking_uri, make=False)
    find_experiment(uri, resolved.name)
    tracker = Tracker(uri, resolved.name, artifacts)
    known = tracker.columns()
    check_columns(columns or (), known)
    kind = "validation" if held_out else "point"

    def own(found: pd.DataFrame) -> pd.DataFrame:
        # candidates of tuning are of no plan, and their points on held-out images alone
        if held_out and resolved.tune is not None:
            return found
        return _asked(found, resolved, "val" if held_out else "test")

    if where is None:
        found = tracker.points(kind=kind)
    else:
        condition = parse_condition(where, known)
        found = condition.apply(tracker.points(condition.clauses, kind))
    table = Points.of(own(found))
    if table.empty and (where is None or own(tracker.points(kind=kind)).empty):
        others = f"; it has {len(found)} of other settings under this name" if len(found) else ""
        raise QueryError(
            f"MLflow has no {'points on held-out images' if held_out else 'points'} of study "
            f"'{resolved.name}' yet{others}; `oat run` makes them, and `oat sync` brings those in "
            "storage."
        )
    table.attrs[OTHERS] = len(found) - len(table)
    return table[list(columns)] if columns else table


OTHERS = "others"
"""In the ``attrs`` of a frame of `runs`: how many points of other settings were left out."""


def _asked(found: pd.DataFrame, study: Study, split: Split) -> pd.DataFrame:
    """Return the points that a study asks for."""
    return found[found["point_key"].isin(point_keys(study, split))].reset_index(drop=True)


def sync(
    study: Source,
    *,
    storage: str | Path = DEFAULT_STORAGE,
    tracking_uri: str | None = None,
    overrides: Sequence[str] = (),
    console: Console | None = None,
) -> int:
    """Rebuild or repair the study's experiment in MLflow from storage.

    With ``tracking.log_models`` the trained models that it lacks are logged as well.

    Args:
        study: The study.
        storage: Folder or URI of all studies' results.
        tracking_uri: MLflow; see `tracking_place`.
        overrides: ``path.to.key=value`` each.
        console: Where it is said which models are logged, or cannot be; None is standard error.

    Returns:
        The number of points of the study that MLflow has now.

    Raises:
        QueryError: There is nothing of the study, neither in storage nor in MLflow.
        TrackingError: MLflow does not answer.
        TuningError: All is there but the trials of tuning, whose record is damaged.
        LeaseError: The study runs at the moment, and does so itself.
    """
    from studies.storage.sealed import ResultError
    from studies.tracking.experiment import experiment_id
    from studies.tracking.reaching import check_server
    from studies.tracking.tracker import Tracker
    from studies.tuning.record import tuning_plan

    resolved = load_study(study, overrides)
    folder = study_folder(resolved, storage)
    uri, _ = tracking_place(storage, tracking_uri, make=False)
    has_begun = folder.sub("trials").names() or folder.size(LEASE) is not None
    if not has_begun and experiment_id(uri, resolved.name) is None:
        raise QueryError(
            f"There are no results of study '{resolved.name}' in '{storage}' yet; `oat run` makes "
            "them, or name another place by `--storage`."
        )
    uri, artifacts = tracking_place(storage, tracking_uri)
    check_server(uri)
    console = console or plain_console(stderr=True)
    with only_driver(resolved, folder, console):
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
        if resolved.tracking.log_models:
            from studies.deploying.logged import log_models

            for said in log_models(current, folder, tracker, console):
                say(console, said)
        if damaged is not None:
            raise TuningError(str(damaged)) from damaged
        return len(_asked(tracker.points(), resolved, "test"))


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
    from studies.tracking.experiment import find_experiment, tags_of
    from studies.tracking.mlflow_page import mlflow_page

    uri, _ = tracking_place(storage, tracking_uri, make=False)
    experiment = find_experiment(uri, load_study(study, overrides).name)
    with mlflow_page(
        uri,
        experiment,
        tags_of(uri, experiment),
        host=host,
        port=port,
        stop=stop or threading.Event(),
        console=console or plain_console(stderr=True),
    ) as page:
        yield page
