"""One study's experiment in MLflow: asked, written in batches; the only import of mlflow.

Whatever goes wrong with a server or a database is a `TrackingError` of one sentence.
"""

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

import pandas as pd
from mlflow.entities import Metric, Param, ViewType
from mlflow.entities import Run as Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy import create_engine, inspect
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from studies.errors import UserError
from studies.known_methods import RESULTS_VERSION
from studies.results.points import COLUMNS, TAGS, attack_column, frame
from studies.storage.sqlite import is_missing_file
from studies.tracking.reaching import DATABASES, check_server, refusal_of, words_of

log = logging.getLogger("oat.tracking")

# it prints tracebacks of what reaches the user as one sentence
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)

ATTACKS = "oat.attacks"
"""Tag of the experiment: JSON list of the attacks that any point was judged by."""
PAGE = 5000
METRICS_A_REQUEST = 900
"""The server takes 1,000."""
PARAMS_A_REQUEST = 100
TEXT_LIMIT = 6000

FAULTS = (MlflowException, SQLAlchemyError, OSError, ImportError)
"""What MLflow and what lies below it raise; errors of HTTP are among those of the system."""


def find_experiment(uri: str, study: str) -> str:
    """Return the id of a study's experiment where it is kept; makes nothing.

    Raises:
        TrackingError: There is none, or its store does not answer.
    """
    if (found := experiment_id(uri, study)) is not None:
        return found
    raise refusal_of(
        f"There are no results of study '{study}' in '{uri}' yet; `oat run` makes them, `oat sync` "
        "brings those that are in storage, or name another place by `--storage` or "
        "`--tracking-uri`."
    )


def tags_of(uri: str, experiment: str) -> dict[str, str]:
    """Return the tags of an experiment.

    Raises:
        TrackingError: Its store does not answer.
    """
    with refusals(uri):
        return dict(MlflowClient(tracking_uri=uri).get_experiment(experiment).tags)


def experiment_id(uri: str, study: str) -> str | None:
    """Return the id of a study's experiment; None where there is none. Makes nothing.

    Raises:
        TrackingError: Its store does not answer.
    """
    if is_missing_file(uri):
        return None
    check_server(uri)
    with refusals(uri):
        if _is_there(uri):
            found = MlflowClient(tracking_uri=uri).get_experiment_by_name(study)
            if found is not None and found.lifecycle_stage != "deleted":
                return str(found.experiment_id)
    return None


def _is_there(uri: str) -> bool:
    """Whether there is a store of MLflow's; one of a database is not made by asking."""
    if uri.partition("://")[0].partition("+")[0] not in {"sqlite", *DATABASES}:
        return True
    engine = create_engine(uri, poolclass=NullPool)
    return bool(inspect(engine).has_table("experiments"))


@contextmanager
def refusals(uri: str) -> Iterator[None]:
    """Turn what MLflow does not take into one sentence.

    Raises:
        TrackingError: It was not taken.
    """
    try:
        yield
    except UserError:
        raise
    except FAULTS as error:
        raise refusal_of(_sentence(uri, str(error), words_of(error))) from error


def _sentence(uri: str, whole: str, said: str) -> str:
    if "error code 401" in whole:
        return (
            f"The tracking server '{uri}' asks for a user and a password, or for others (401); "
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
        )
    if "Invalid Host header" in whole:
        host = urlsplit(uri).hostname
        return (
            f"The tracking server '{uri}' does not answer to the name '{host}' (403); start it "
            f"with `--allowed-hosts {host},{host}:*`."
        )
    if "out-of-date database schema" in whole:
        return (
            f"The MLflow database '{uri}' was made by another version of MLflow; move it away, and "
            "`oat sync STUDY` rebuilds it from storage, for each study that it had."
        )
    if "database is locked" in whole:
        return (
            f"The MLflow database '{uri}' is held by another process; wait for that or end it, and "
            "give the same command again."
        )
    return f"The tracking server '{uri}' refuses ({said})."


def as_param(value: object) -> str:
    """Return a value as MLflow keeps a param: text of limited length."""
    return str(value)[:TEXT_LIMIT]


class Experiment:
    """One study's experiment in MLflow.

    Args:
        uri: Tracking URI.
        study: Name of the study, which is that of the experiment.
        artifacts: Where a new experiment keeps its artifacts; None leaves it to the server.

    Raises:
        TrackingError: The server refuses.
    """

    def __init__(self, uri: str, study: str, artifacts: str | None = None) -> None:
        # a dead server must cost seconds here, not MLflow's own minutes; the user's word counts
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        self.uri = uri
        self.study = study
        with refusals(uri):
            self.client = MlflowClient(tracking_uri=uri)
            self.experiment_id = self._experiment(artifacts)

    def _experiment(self, artifacts: str | None) -> str:
        found = self.client.get_experiment_by_name(self.study)
        if found is None:
            return str(self.client.create_experiment(self.study, artifacts))
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def columns(self) -> dict[str, str]:
        """Return the columns of `points` and their types: `COLUMNS`, and one for each attack.

        Raises:
            TrackingError: The server does not answer, or refuses.
        """
        with refusals(self.uri):
            attacks = self.attacks()
        return {**COLUMNS, **dict.fromkeys(map(attack_column, attacks), "float64")}

    def points(self, filters: Sequence[str] = (), kind: str = "point") -> pd.DataFrame:
        """Return points of the experiment as `studies.results.points.with_attack_columns` has them.

        Those of an earlier `RESULTS_VERSION` are left out: they cannot be compared.

        Args:
            filters: Clauses of MLflow's filter that all must hold; none is all points.
            kind: ``point`` for those on test images, ``validation`` for those of tuning.

        Raises:
            TrackingError: The server does not answer, or refuses.
        """
        where = f"tags.`oat.kind` = '{kind}' and attributes.status = 'FINISHED'"
        where = " and ".join([f"{where} and metrics.results_version = {RESULTS_VERSION}", *filters])
        log.debug("asked MLflow for runs with %s", where)
        columns = self.columns()
        with refusals(self.uri):
            found = self.search(where)
        rows = []
        for run in found:
            tags = {name: run.data.tags.get(tag) for name, tag in TAGS.items()}
            values = {**run.data.params, **run.data.metrics, **tags}
            rows.append({name: values.get(name) for name in columns})
        return frame(rows, also=[name for name in columns if name not in COLUMNS])

    def attacks(self) -> list[str]:
        """Return the attacks that any point of the experiment was judged by."""
        tags = self.client.get_experiment(self.experiment_id).tags
        return sorted(json.loads(tags.get(ATTACKS, "[]")))

    def search(self, where: str) -> list[Run]:
        """Return the runs of the experiment that a filter of MLflow's lets through."""
        runs: list[Run] = []
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment_id],
                where,
                ViewType.ACTIVE_ONLY,
                PAGE,
                ["attributes.start_time ASC"],
                token,
            )
            runs.extend(page)
            token = page.token
            if not token:
                return runs

    def trial_runs(self, run_key: str) -> list[str]:
        """Return the ids of the runs of a trial; one, but after a crash.

        Raises:
            TrackingError: The server does not answer, or refuses.
        """
        with refusals(self.uri):
            found = self.search(f"tags.`oat.kind` = 'trial' and tags.`oat.key` = '{run_key}'")
        return [run.info.run_id for run in found]

    def log_params(self, run: Run, params: Mapping[str, object]) -> None:
        """Write the params that a run lacks: all of a new one, the rest after a crash."""
        lacking = [
            Param(key, as_param(value))
            for key, value in params.items()
            if value is not None and key not in run.data.params
        ]
        for i in range(0, len(lacking), PARAMS_A_REQUEST):
            self.client.log_batch(run.info.run_id, params=lacking[i : i + PARAMS_A_REQUEST])
            run.data.params.update({p.key: p.value for p in lacking[i : i + PARAMS_A_REQUEST]})

    def log(self, run_id: str, values: Mapping[str, float], step: int = 0) -> None:
        """Write metrics of one step."""
        self.log_metrics(run_id, [(name, value, step) for name, value in values.items()])

    def log_metrics(self, run_id: str, metrics: Sequence[tuple[str, float, int]]) -> None:
        """Write metrics: name, value, step."""
        now = int(time.time() * 1000)
        entities = [Metric(name, float(value), now, step) for name, value, step in metrics]
        for i in range(0, len(entities), METRICS_A_REQUEST):
            batch = entities[i : i + METRICS_A_REQUEST]
            self.client.log_batch(run_id, metrics=batch)
