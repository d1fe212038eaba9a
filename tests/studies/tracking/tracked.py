"""What the tests of tracker share."""

from copy import deepcopy
from pathlib import Path
from typing import Any

from mlflow.entities import Run, ViewType
from mlflow.tracking import MlflowClient

from studies.planning.expand import make_plan
from studies.planning.plan import Plan
from studies.results.reading import study_points
from studies.storage.local import LocalFolder
from studies.study_file.loading import load_study
from studies.tracking.tracker import Tracker

Snapshot = dict[str, tuple[Any, ...]]


def folder_of(storage: Path) -> LocalFolder:
    return LocalFolder(storage / "tiny")


def plan_of(source: dict[str, Any], storage: Path, *overrides: str) -> Plan:
    return make_plan(load_study(deepcopy(source), overrides), folder_of(storage))


def uri_of(storage: Path) -> str:
    return f"sqlite:///{storage / 'mlflow.db'}"


def finish(plan: Plan, storage: Path) -> Tracker:
    """Do what the end of a run and `oat sync` do, as a new process would."""
    tracker = Tracker(uri_of(storage), "tiny", (storage / "artifacts").as_uri())
    tracker.sync(plan, folder_of(storage))
    tracker.close(plan, folder_of(storage), study_points(plan, folder_of(storage)))
    return tracker


def runs_of(storage: Path, kind: str | None = None) -> list[Run]:
    client = MlflowClient(tracking_uri=uri_of(storage))
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    where = f"tags.`oat.kind` = '{kind}'" if kind else ""
    return list(client.search_runs([experiment.experiment_id], where, ViewType.ACTIVE_ONLY, 1000))


def snapshot_of(storage: Path) -> Snapshot:
    """Return all that MLflow says of each run, with every value that a metric ever had."""
    client = MlflowClient(tracking_uri=uri_of(storage))
    return {
        run.info.run_id: (
            run.info.status,
            run.info.run_name,
            dict(run.data.params),
            dict(run.data.tags),
            {
                name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
                for name in run.data.metrics
            },
        )
        for run in runs_of(storage)
    }


def steps_of(storage: Path, name: str) -> dict[str, list[int]]:
    client = MlflowClient(tracking_uri=uri_of(storage))
    return {
        run.data.tags["oat.run_key"]: [
            m.step for m in client.get_metric_history(run.info.run_id, name)
        ]
        for run in runs_of(storage, "trial")
    }
