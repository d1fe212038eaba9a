import http.server
import json
import shutil
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow.entities import Run, ViewType
from mlflow.tracking import MlflowClient

import studies
from studies.errors import TrackingError, TuningError
from studies.planning.expand import make_plan
from studies.planning.plan import Plan
from studies.results.masking import CHECK_COLUMNS
from studies.results.points import COLUMNS, with_attack_columns
from studies.results.reading import study_points
from studies.storage.local import LocalFolder
from studies.storage.sealed import seal, write_sealed
from studies.study_file.loading import load_study
from studies.study_file.study import Study
from studies.tracking.background import BackgroundSync
from studies.tracking.reaching import check_server
from studies.tracking.tracker import Tracker
from studies.tracking.trial_runs import EPOCH_METRICS
from studies.trial.run import run_trial
from studies.tuning.candidates import tuned_methods
from studies.tuning.record import TUNING_FILE, WINNERS_FILE, keep, read_record, tuning_plan
from studies.tuning.winners import Search, SearchTrial

# MLflow 3.17's own tables, under SQLAlchemy 2.1
NOLOAD = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"
)
pytestmark = [pytest.mark.mlflow, NOLOAD]

Snapshot = dict[str, tuple[Any, ...]]


def _folder(storage: Path) -> LocalFolder:
    return LocalFolder(storage / "tiny")


def _plan(source: dict[str, Any], storage: Path, *overrides: str) -> Plan:
    return make_plan(load_study(deepcopy(source), overrides), _folder(storage))


def _uri(storage: Path) -> str:
    return f"sqlite:///{storage / 'mlflow.db'}"


def _finish(plan: Plan, storage: Path) -> Tracker:
    """Do what the end of a run and `oat sync` do, as a new process would."""
    tracker = Tracker(_uri(storage), "tiny", (storage / "artifacts").as_uri())
    tracker.sync(plan, _folder(storage))
    tracker.close(plan, _folder(storage), study_points(plan, _folder(storage)))
    return tracker


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that MLflow has set up, which takes it seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def fresh(storage: Path, empty_database: Path) -> Path:
    """The finished tiny study beside a database that knows nothing of it."""
    shutil.copy(empty_database, storage / "mlflow.db")
    return storage


@pytest.fixture
def synced(fresh: Path, tiny: dict[str, Any]) -> Path:
    """The finished tiny study beside a database that has all of it."""
    _finish(_plan(tiny, fresh), fresh)
    return fresh


def _runs(storage: Path, kind: str | None = None) -> list[Run]:
    client = MlflowClient(tracking_uri=_uri(storage))
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    where = f"tags.`oat.kind` = '{kind}'" if kind else ""
    return list(client.search_runs([experiment.experiment_id], where, ViewType.ACTIVE_ONLY, 1000))


def _snapshot(storage: Path) -> Snapshot:
    """Return all that MLflow says of each run, with every value that a metric ever had."""
    client = MlflowClient(tracking_uri=_uri(storage))
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
        for run in _runs(storage)
    }


def _is_whole(storage: Path, plan: Plan) -> None:
    """Check that there is one finished run for each key, each under its parent."""
    (study,) = _runs(storage, "study")
    trials = {run.data.tags["oat.run_key"]: run for run in _runs(storage, "trial")}
    assert len(trials) == len(_runs(storage, "trial"))
    assert trials.keys() == {trial.run_key for trial in plan.trials}
    points = Counter(run.data.tags["oat.point_key"] for run in _runs(storage, "point"))
    assert points == Counter(p["point_key"] for t in plan.trials for p in t.job["points"])
    assert {run.info.status for run in _runs(storage)} == {"FINISHED"}
    for trial in trials.values():
        assert trial.data.tags["mlflow.parentRunId"] == study.info.run_id
    for point in _runs(storage, "point"):
        parent = trials[point.data.tags["oat.run_key"]]
        assert point.data.tags["mlflow.parentRunId"] == parent.info.run_id


def _equals_storage(storage: Path, plan: Plan) -> None:
    """Check that MLflow gives back the very points that storage has."""
    expected = study_points(plan, _folder(storage)).drop(columns="folder")
    found = Tracker(_uri(storage), "tiny").points()
    pd.testing.assert_frame_equal(found, with_attack_columns(expected), check_exact=True)


def test_a_finished_study_has_one_run_for_each_key(tiny: dict[str, Any], synced: Path) -> None:
    plan = _plan(tiny, synced)
    _is_whole(synced, plan)
    assert len(_runs(synced)) == 1 + 4 + 5


def test_points_come_back_exactly_as_storage_has_them(tiny: dict[str, Any], synced: Path) -> None:
    _equals_storage(synced, _plan(tiny, synced))


def test_syncing_again_changes_nothing(tiny: dict[str, Any], synced: Path) -> None:
    before = _snapshot(synced)
    _finish(_plan(tiny, synced), synced)
    tracker = _finish(_plan(tiny, synced), synced)
    tracker.sync(_plan(tiny, synced), _folder(synced))
    table = study_points(_plan(tiny, synced), _folder(synced))
    tracker.close(_plan(tiny, synced), _folder(synced), table)
    assert _snapshot(synced) == before


def test_a_deleted_database_is_rebuilt_with_the_same_points(
    tiny: dict[str, Any], synced: Path, empty_database: Path
) -> None:
    before = Tracker(_uri(synced), "tiny").points()
    rebuilt = synced / "rebuilt"
    shutil.copytree(synced / "tiny", rebuilt / "tiny")
    shutil.copy(empty_database, rebuilt / "mlflow.db")
    tracker = _finish(_plan(tiny, rebuilt), rebuilt)
    pd.testing.assert_frame_equal(tracker.points(), before, check_exact=True)
    _is_whole(rebuilt, _plan(tiny, rebuilt))


def test_an_experiment_that_was_deleted_is_taken_up_again(
    tiny: dict[str, Any], synced: Path
) -> None:
    client = MlflowClient(tracking_uri=_uri(synced))
    client.delete_experiment(client.get_experiment_by_name("tiny").experiment_id)
    _finish(_plan(tiny, synced), synced)
    _is_whole(synced, _plan(tiny, synced))


@pytest.mark.parametrize("kind", ["study", "trial", "point"])
def test_a_run_that_a_crash_left_without_its_contents_is_made_whole(
    kind: str, tiny: dict[str, Any], synced: Path
) -> None:
    """A driver dies between opening a run and writing what it holds."""
    before = {run.data.tags["oat.key"]: run for run in _runs(synced, kind)}
    client = MlflowClient(tracking_uri=_uri(synced))
    whole = _runs(synced, kind)[0]
    for run in _runs(synced):
        if run.data.tags.get("mlflow.parentRunId") == whole.info.run_id and kind == "trial":
            client.delete_run(run.info.run_id)
    client.delete_run(whole.info.run_id)
    names = ("oat.kind", "oat.key", "oat.study", "oat.run_key", "oat.point_key")
    tags = {name: whole.data.tags[name] for name in names if name in whole.data.tags}
    if "mlflow.parentRunId" in whole.data.tags:
        tags["mlflow.parentRunId"] = whole.data.tags["mlflow.parentRunId"]
    client.create_run(whole.info.experiment_id, tags=tags, run_name=whole.info.run_name)

    plan = _plan(tiny, synced)
    _finish(plan, synced)
    _is_whole(synced, plan)
    _equals_storage(synced, plan)
    after = {run.data.tags["oat.key"]: run for run in _runs(synced, kind)}
    assert {key: run.data.params for key, run in after.items()} == {
        key: run.data.params for key, run in before.items()
    }
    assert {key: run.data.metrics for key, run in after.items()} == {
        key: run.data.metrics for key, run in before.items()
    }


@pytest.mark.parametrize("kind", ["study", "trial", "point"])
def test_a_run_that_someone_deleted_is_brought_back_in_its_place(
    kind: str, tiny: dict[str, Any], synced: Path
) -> None:
    client = MlflowClient(tracking_uri=_uri(synced))
    client.delete_run(_runs(synced, kind)[0].info.run_id)
    plan = _plan(tiny, synced)
    _finish(plan, synced)
    _is_whole(synced, plan)
    _equals_storage(synced, plan)


@pytest.mark.parametrize("kind", ["study", "trial", "point"])
def test_of_several_runs_with_one_key_one_stays(
    kind: str, tiny: dict[str, Any], synced: Path
) -> None:
    client = MlflowClient(tracking_uri=_uri(synced))
    for run in _runs(synced, kind):
        again = client.create_run(run.info.experiment_id, tags=run.data.tags)
        client.set_terminated(again.info.run_id, "FINISHED")
    plan = _plan(tiny, synced)
    _finish(plan, synced)
    _is_whole(synced, plan)
    _equals_storage(synced, plan)


def test_runs_that_were_left_open_are_closed(tiny: dict[str, Any], synced: Path) -> None:
    client = MlflowClient(tracking_uri=_uri(synced))
    experiment = client.get_experiment_by_name("tiny").experiment_id
    lost = [
        client.create_run(experiment, tags=tags).info.run_id
        for tags in ({}, {"oat.kind": "trial", "oat.key": "0123456789ab"})
    ]
    _finish(_plan(tiny, synced), synced)
    assert [client.get_run(run_id).info.status for run_id in lost] == ["KILLED", "KILLED"]
    assert not [run for run in _runs(synced) if run.info.status == "RUNNING"]
    _equals_storage(synced, _plan(tiny, synced))


def test_a_changed_study_takes_its_trials_along(tiny: dict[str, Any], synced: Path) -> None:
    trials = {run.info.run_id for run in _runs(synced, "trial")}
    (old,) = _runs(synced, "study")
    plan = _plan(tiny, synced, "methods.1.lam=[0, 0.5, 1]")
    _finish(plan, synced)
    studies = _runs(synced, "study")
    assert len(studies) == 2
    (new,) = [run for run in studies if run.info.run_id != old.info.run_id]
    assert new.info.status == "FAILED"  # one of its trials is missing
    assert {run.info.run_id for run in _runs(synced, "trial")} == trials
    assert {run.data.tags["mlflow.parentRunId"] for run in _runs(synced, "trial")} == {
        new.info.run_id
    }
    assert (new.data.metrics["trials"], new.data.metrics["trials_done"]) == (5, 4)


def test_each_kind_of_run_holds_what_the_architecture_lists(
    tiny: dict[str, Any], synced: Path
) -> None:
    plan = _plan(tiny, synced)
    (study,) = _runs(synced, "study")
    assert study.data.params["train.epochs"] == "1"
    assert study.data.params["data.name"] == "digits"
    assert study.data.metrics["trials"] == 4
    assert study.data.metrics["points"] == 5
    assert study.data.metrics["device_hours"] > 0

    configs = {trial.run_key: trial.job["config"] for trial in plan.trials}
    for run in _runs(synced, "trial"):
        config = configs[run.data.tags["oat.run_key"]]
        assert run.data.params["method.name"] == config["method"]["name"]
        assert float(run.data.params["attack.eps"]) == 0.1
        assert run.data.metrics.keys() >= {*EPOCH_METRICS, "device_seconds", "parameters"}
        assert "time" not in run.data.metrics

    storage = study_points(plan, _folder(synced)).set_index("point_key")
    for run in _runs(synced, "point"):
        row = storage.loc[run.data.tags["oat.point_key"]]
        missing = set(CHECK_COLUMNS)  # none were made
        missing |= {name for name in ("lam", "beta") if pd.isna(row[name])}
        numbers = {name for name, kind in COLUMNS.items() if kind != "str"}
        assert run.data.metrics.keys() == (numbers - missing) | {"ra_pgd1"}
        assert run.data.metrics["ra_pgd1"] == row["ra"]
        assert run.data.tags["oat.masking"] == row["masking"] == "not checked"
        assert not missing & run.data.params.keys()
        assert ("beta" in run.data.metrics) == (row["method"] == "trades")
        assert run.data.params["method"] == row["method"]
        for name, value in run.data.metrics.items():
            assert name == "ra_pgd1" or value == row[name]
            assert value < 1e300


def test_the_frontier_is_one_query(tiny: dict[str, Any], synced: Path) -> None:
    client = MlflowClient(tracking_uri=_uri(synced))
    experiment = client.get_experiment_by_name("tiny").experiment_id
    points = study_points(_plan(tiny, synced), _folder(synced))
    level = float(points["ra"].median())
    found = client.search_runs(
        [experiment], f"tags.\"oat.kind\" = 'point' and metrics.ra > {level}"
    )
    assert len(found) == (points["ra"] > level).sum()


def test_an_experiment_without_points_gives_an_empty_frame(fresh: Path) -> None:
    table = Tracker(_uri(fresh), "other").points()
    assert len(table) == 0
    assert {name: str(kind) for name, kind in table.dtypes.items()} == COLUMNS


def test_a_diverged_and_a_failed_trial_are_closed_as_failed(
    tiny: dict[str, Any], fresh: Path
) -> None:
    plan = _plan(tiny, fresh, "seeds=[0, 1]")
    diverged, failed, untouched = plan.trials[4:7]
    _folder(fresh).write(
        f"trials/{diverged.run_key}/result.json",
        json.dumps(seal({"status": "diverged", "epoch": 3, "error": "The loss is nan."})).encode(),
    )
    _folder(fresh).write(
        f"trials/{failed.run_key}/failure.json", json.dumps(seal({"error": "gone"})).encode()
    )
    _finish(_plan(tiny, fresh, "seeds=[0, 1]"), fresh)
    runs = {run.data.tags["oat.run_key"]: run for run in _runs(fresh, "trial")}
    assert runs[diverged.run_key].info.status == "FAILED"
    assert runs[diverged.run_key].data.tags["oat.diverged_epoch"] == "3"
    assert runs[failed.run_key].info.status == "FAILED"
    assert untouched.run_key not in runs
    assert Counter(run.info.status for run in _runs(fresh, "trial")) == {"FINISHED": 4, "FAILED": 2}


def test_a_trial_that_was_trained_anew_replaces_its_runs(
    tiny: dict[str, Any], synced: Path, train_all: Callable[[Study, Path], None]
) -> None:
    trial = _plan(tiny, synced).trials[0]
    old = {run.info.run_id for run in _runs(synced) if trial.run_key in run.data.tags.values()}
    others = {run.info.run_id for run in _runs(synced)} - old
    _folder(synced).write(f"trials/{trial.run_key}/result.json", b"damaged")
    train_all(load_study(tiny), synced)
    plan = _plan(tiny, synced)
    _finish(plan, synced)
    _is_whole(synced, plan)
    _equals_storage(synced, plan)
    now = {run.info.run_id for run in _runs(synced)}
    # the points' tag of the run key names the trial's runs too
    assert others - old <= now
    assert not any(r.data.tags.get("oat.kind") == "trial" and r.info.run_id in old
                   for r in _runs(synced))  # fmt: skip


def _steps(storage: Path, name: str) -> dict[str, list[int]]:
    client = MlflowClient(tracking_uri=_uri(storage))
    return {
        run.data.tags["oat.run_key"]: [
            m.step for m in client.get_metric_history(run.info.run_id, name)
        ]
        for run in _runs(storage, "trial")
    }


def test_epochs_are_logged_once_each_while_a_trial_runs_and_after(
    tiny: dict[str, Any], tmp_path: Path, empty_database: Path
) -> None:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    tiny["methods"] = [{"name": "pgd_at", "lam": 1}]
    plan = _plan(tiny, tmp_path, "train.epochs=6", "train.val_every=3")
    (trial,) = plan.trials
    folder = _folder(tmp_path).sub(f"trials/{trial.run_key}")
    told = 0

    for stop in (2, 4, 0):  # killed twice, each time with a new process to follow
        tracker = Tracker(_uri(tmp_path), "tiny")
        tracker.load()
        follower = BackgroundSync(tracker, plan, _folder(tmp_path))
        follower.start()

        def report(record: dict[str, Any], at: int = stop, to: BackgroundSync = follower) -> None:
            nonlocal told
            told += 1
            to.changed(trial.run_key)
            if record.get("epoch") == at:
                raise KeyboardInterrupt

        if stop:
            with pytest.raises(KeyboardInterrupt):
                run_trial(trial.job, folder, report)
        else:
            run_trial(trial.job, folder, report)
        follower.close()
        assert follower.error is None
        (steps,) = _steps(tmp_path, "train_loss").values()
        assert steps == list(range(1, (stop or 6) + 1))
    assert told == 7

    plan = _plan(tiny, tmp_path, "train.epochs=6", "train.val_every=3")
    _finish(plan, tmp_path)
    _is_whole(tmp_path, plan)
    _equals_storage(tmp_path, plan)
    assert list(_steps(tmp_path, "train_loss").values()) == [[1, 2, 3, 4, 5, 6]]
    assert list(_steps(tmp_path, "sa_val").values()) == [[3, 6]]


def test_a_trial_that_is_named_often_is_followed_once(tiny: dict[str, Any], fresh: Path) -> None:
    plan = _plan(tiny, fresh)
    tracker = Tracker(_uri(fresh), "tiny")
    tracker.load()
    follower = BackgroundSync(tracker, plan, _folder(fresh))
    follower.start()
    for trial in plan.trials:
        for _ in range(3):
            follower.changed(trial.run_key)
    follower.close()
    assert not follower.is_alive()
    _finish(plan, fresh)
    _is_whole(fresh, plan)


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def refusing() -> Iterator[str]:
    """A server that answers 403 to everything, as MLflow does to an unknown host name."""

    class Refuse(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(403, "Invalid Host header")

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuse) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_server_that_never_answers_is_given_up_within_seconds(silent: str) -> None:
    began = time.monotonic()
    with pytest.raises(TrackingError, match="does not answer") as caught:
        check_server(silent)
    assert time.monotonic() - began < 8
    assert silent in str(caught.value)
    assert "`--tracking-uri`" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("uri", ["http://127.0.0.1:1", "http://no-such-host.invalid", "http://"])
def test_a_server_that_is_not_there_is_refused_at_once(uri: str) -> None:
    began = time.monotonic()
    with pytest.raises(TrackingError, match="does not answer"):
        check_server(uri)
    assert time.monotonic() - began < 8


def test_a_database_needs_no_answer(tmp_path: Path) -> None:
    check_server(f"sqlite:///{tmp_path / 'not-yet.db'}")


@pytest.mark.parametrize("login", ["user:sEcReT", "sEcReT", "user:sE/cReT"])
def test_credentials_in_the_address_of_a_server_are_refused(login: str) -> None:
    with pytest.raises(TrackingError, match="must not hold credentials") as caught:
        check_server(f"http://{login}@127.0.0.1:9/mlflow")
    assert "sE" not in str(caught.value)
    assert "'http://127.0.0.1:9/mlflow'" in str(caught.value)
    assert "MLFLOW_TRACKING_PASSWORD" in str(caught.value)


def _open(uri: str) -> Tracker:
    check_server(uri)
    return Tracker(uri, "tiny")


@pytest.mark.parametrize("kind", ["postgresql+psycopg2", "postgresql+nodriver", "nodatabase"])
def test_a_database_that_is_not_there_is_one_sentence_without_its_password(kind: str) -> None:
    uri = f"{kind}://me:sEcReT@127.0.0.1:1/runs?sslpassword=sEcReT"
    began = time.monotonic()
    with pytest.raises(TrackingError) as caught:
        _open(uri)
    assert time.monotonic() - began < 8
    assert "sEcReT" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)


def test_a_server_that_refuses_says_so(refusing: str) -> None:
    check_server(refusing)
    with pytest.raises(TrackingError, match="403"):
        Tracker(refusing, "tiny")


@pytest.mark.parametrize("uri", ["gopher://host", "file:///tmp/mlruns-of-old", "./mlruns-of-old"])
def test_a_kind_of_store_that_mlflow_does_not_take_is_refused(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TrackingError):
        Tracker(uri, "tiny")


def test_results_that_mlflow_does_not_take_are_named_as_safe(
    tiny: dict[str, Any], synced: Path, refusing: str
) -> None:
    plan = _plan(tiny, synced)
    tracker = Tracker(_uri(synced), "tiny")
    tracker.uri, tracker.client = refusing, MlflowClient(tracking_uri=refusing)
    before = _snapshot(synced)
    with pytest.raises(TrackingError, match=r"safe in .*`oat sync tiny`"):
        tracker.sync(plan, _folder(synced))
    assert _snapshot(synced) == before


@pytest.mark.slow
def test_a_server_that_hangs_while_a_study_runs_costs_seconds_a_call(
    tiny: dict[str, Any], synced: Path, silent: str
) -> None:
    plan, folder = _plan(tiny, synced), _folder(synced)
    tracker = Tracker(_uri(synced), "tiny")
    tracker.load()
    tracker.uri, tracker.client = silent, MlflowClient(tracking_uri=silent)
    table = study_points(plan, folder)
    for call in (
        lambda: tracker.follow(plan, plan.trials[0], folder),
        lambda: tracker.sync(plan, folder),
        lambda: tracker.close(plan, folder, table),
    ):
        began = time.monotonic()
        with pytest.raises(TrackingError, match="does not answer") as caught:
            call()
        assert time.monotonic() - began < 8
        assert "\n" not in str(caught.value)


def test_an_epoch_whose_request_was_taken_but_not_answered_is_logged_once(
    tiny: dict[str, Any], fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = _plan(tiny, fresh)
    trial, folder = plan.trials[0], _folder(fresh).sub(f"trials/{plan.trials[0].run_key}")
    tracker = Tracker(_uri(fresh), "tiny")
    tracker.load()
    write = tracker.client.log_batch

    def cut_off(run_id: str, **batch: Any) -> None:
        write(run_id, **batch)
        if "metrics" in batch:
            monkeypatch.undo()
            raise ConnectionError("cut off")

    monkeypatch.setattr(tracker.client, "log_batch", cut_off)
    with pytest.raises(TrackingError, match="cut off"):
        tracker.follow(plan, trial, folder)
    tracker.follow(plan, trial, folder)
    assert list(_steps(fresh, "train_loss").values()) == [[1]]


def test_the_folder_says_which_run_each_trial_and_point_has(
    tiny: dict[str, Any], synced: Path
) -> None:
    index = json.loads(_folder(synced).read("mlflow.json"))
    for kind, name in (("trial", "trials"), ("point", "runs")):
        runs = {run.data.tags["oat.key"]: run.info.run_id for run in _runs(synced, kind)}
        assert index[name] == runs
    (study,) = _runs(synced, "study")
    assert index["study"] == study.info.run_id
    assert index["experiment"] == study.info.experiment_id
    assert index["uri"] == _uri(synced)


def test_a_changed_study_is_indexed_by_its_own_run(tiny: dict[str, Any], synced: Path) -> None:
    before = json.loads(_folder(synced).read("mlflow.json"))
    _finish(_plan(tiny, synced, "evaluate.images=40"), synced)
    after = json.loads(_folder(synced).read("mlflow.json"))
    assert after["study"] != before["study"]
    assert after["trials"] == before["trials"]


def test_a_refused_sync_leaves_no_index(tiny: dict[str, Any], fresh: Path, refusing: str) -> None:
    tracker = Tracker(_uri(fresh), "tiny")
    tracker.uri, tracker.client = refusing, MlflowClient(tracking_uri=refusing)
    with pytest.raises(TrackingError):
        tracker.sync(_plan(tiny, fresh), _folder(fresh))
    assert _folder(fresh).size("mlflow.json") is None


def test_a_plan_without_results_opens_no_trial(tiny: dict[str, Any], fresh: Path) -> None:
    plan = _plan(tiny, fresh, "train.epochs=9")
    assert {trial.state for trial in plan.trials} == {"missing"}
    _finish(replace(plan, foreign=()), fresh)
    assert _runs(fresh, "trial") == _runs(fresh, "point") == []
    assert [run.info.status for run in _runs(fresh, "study")] == ["FAILED"]


@pytest.fixture
def searched(tunable: dict[str, Any], fresh: Path) -> Path:
    """The finished tiny study, whose own settings were also judged on held-out images."""
    study, folder = load_study(tunable), _folder(fresh)
    for tuned in tuned_methods(study):
        trials = []
        for number, start in enumerate(tuned.starts()):
            (planned,) = make_plan(tuned.candidate(start), folder, "val").trials
            run_trial(planned.job, folder.sub(f"trials/{planned.run_key}"), lambda _: None)
            entry = tuned.entry(start)
            trials.append(SearchTrial(number, "done", planned.run_key, entry, True))
        ended = "the budget is spent"
        keep(study, folder, Search(tuned.name, False, 1, 9.0, 9.0, ended, trials, [], []))
    folder.write(WINNERS_FILE, b"name: tiny")
    return fresh


def test_points_of_tuning_are_runs_of_a_kind_of_their_own(
    tunable: dict[str, Any], searched: Path
) -> None:
    folder, plan = _folder(searched), _plan(tunable, searched)
    tuning = tuning_plan(plan, folder)
    tracker = _finish(plan, searched)
    before = tracker.points()
    tracker.keep_tuning(folder, tuning)
    pd.testing.assert_frame_equal(tracker.points()[[*COLUMNS]], before[[*COLUMNS]])
    held = tracker.points(kind="validation")
    assert set(held["images"]) == {20}
    assert not set(held["point_key"]) & set(before["point_key"])
    assert Counter(run.data.tags["oat.kind"] for run in _runs(searched)) == {
        "study": 1,
        "trial": 4,
        "point": 5,
        "validation": 5,
    }
    (study_run,) = _runs(searched, "study")
    client = MlflowClient(tracking_uri=_uri(searched))
    kept = [file.path for file in client.list_artifacts(study_run.info.run_id, "tuning")]
    assert sorted(kept) == ["tuning/tuned.yaml", "tuning/tuning.json"]
    index = json.loads((searched / "tiny" / "mlflow.json").read_text())
    assert set(index["runs"]) == set(before["point_key"]), "the report links to test points"


def test_points_of_tuning_are_rebuilt_with_the_others_and_only_once(
    tunable: dict[str, Any], searched: Path, empty_database: Path
) -> None:
    for _ in range(2):
        assert studies.sync(tunable, storage=searched) == 5
        kinds = Counter(run.data.tags["oat.kind"] for run in _runs(searched))
        assert kinds == {"study": 1, "trial": 4, "point": 5, "validation": 5}
    (study_run,) = _runs(searched, "study")
    assert study_run.info.status == "FINISHED"
    known = Tracker(_uri(searched), "tiny").points(kind="validation")
    shutil.copy(empty_database, searched / "mlflow.db")
    assert studies.sync(tunable, storage=searched) == 5
    again = Tracker(_uri(searched), "tiny").points(kind="validation")
    pd.testing.assert_frame_equal(again, known, check_exact=True)
    assert len(studies.runs(tunable, storage=searched)) == 5


def test_a_damaged_record_of_tuning_keeps_no_point_of_the_study_from_mlflow(
    tunable: dict[str, Any], searched: Path
) -> None:
    _folder(searched).write(TUNING_FILE, b"{}")
    with pytest.raises(TuningError, match="`oat tune` writes it anew"):
        studies.sync(tunable, storage=searched)
    assert len(_runs(searched, "point")) == 5


def test_a_trial_of_tuning_that_cannot_be_planned_is_told_and_keeps_no_point_from_mlflow(
    tunable: dict[str, Any], searched: Path
) -> None:
    record = read_record(_folder(searched))
    assert record is not None
    record["searches"][0]["trials"][0]["entry"]["train"] = {"lr": -1}
    write_sealed(_folder(searched), TUNING_FILE, record)
    with pytest.raises(
        TuningError, match=r"tuning\.json' has a trial .*`lr` must be.*`oat tune` writes it anew"
    ):
        studies.sync(tunable, storage=searched)
    assert len(_runs(searched, "point")) == 5


def test_a_kill_before_the_study_of_the_winners_is_written_keeps_nothing_from_mlflow(
    tunable: dict[str, Any], searched: Path
) -> None:
    _folder(searched).remove(WINNERS_FILE)
    assert studies.sync(tunable, storage=searched) == 5
    assert len(_runs(searched, "validation")) == 5


def test_a_trial_that_was_trained_anew_replaces_its_points_of_tuning_too(
    tunable: dict[str, Any], searched: Path
) -> None:
    studies.sync(tunable, storage=searched)
    folder, plan = _folder(searched), _plan(tunable, searched)
    trial = tuning_plan(plan, folder).trials[0]
    place = folder.sub(f"trials/{trial.run_key}")
    for name in place.names():
        place.remove(name)
    run_trial(trial.job, place, lambda _: None)
    studies.sync(tunable, storage=searched)
    held = Tracker(_uri(searched), "tiny").points(kind="validation")
    trained = json.loads(place.read("result.json"))["trained"]["training_id"]
    assert set(held[held["run_key"] == trial.run_key]["training_id"]) == {trained}
    assert len(held) == 5
