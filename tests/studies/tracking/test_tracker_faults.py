import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from studies.errors import TrackingError
from studies.results.reading import study_points
from studies.tracking.reaching import check_server
from studies.tracking.tracker import Tracker
from tests.studies.marks import NOLOAD
from tests.studies.tracking.tracked import (
    finish,
    folder_of,
    plan_of,
    runs_of,
    snapshot_of,
    steps_of,
    uri_of,
)

pytestmark = [pytest.mark.mlflow, NOLOAD]


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
    plan = plan_of(tiny, synced)
    tracker = Tracker(uri_of(synced), "tiny")
    tracker.uri, tracker.client = refusing, MlflowClient(tracking_uri=refusing)
    before = snapshot_of(synced)
    with pytest.raises(TrackingError, match=r"safe in .*`oat sync tiny`"):
        tracker.sync(plan, folder_of(synced))
    assert snapshot_of(synced) == before


@pytest.mark.slow
def test_a_server_that_hangs_while_a_study_runs_costs_seconds_a_call(
    tiny: dict[str, Any], synced: Path, silent: str
) -> None:
    plan, folder = plan_of(tiny, synced), folder_of(synced)
    tracker = Tracker(uri_of(synced), "tiny")
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
    plan = plan_of(tiny, fresh)
    trial, folder = plan.trials[0], folder_of(fresh).sub(f"trials/{plan.trials[0].run_key}")
    tracker = Tracker(uri_of(fresh), "tiny")
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
    assert list(steps_of(fresh, "train_loss").values()) == [[1]]


def test_the_folder_says_which_run_each_trial_and_point_has(
    tiny: dict[str, Any], synced: Path
) -> None:
    index = json.loads(folder_of(synced).read("mlflow.json"))
    for kind, name in (("trial", "trials"), ("point", "runs")):
        runs = {run.data.tags["oat.key"]: run.info.run_id for run in runs_of(synced, kind)}
        assert index[name] == runs
    (study,) = runs_of(synced, "study")
    assert index["study"] == study.info.run_id
    assert index["experiment"] == study.info.experiment_id
    assert index["uri"] == uri_of(synced)


def test_a_changed_study_is_indexed_by_its_own_run(tiny: dict[str, Any], synced: Path) -> None:
    before = json.loads(folder_of(synced).read("mlflow.json"))
    finish(plan_of(tiny, synced, "evaluate.images=40"), synced)
    after = json.loads(folder_of(synced).read("mlflow.json"))
    assert after["study"] != before["study"]
    assert after["trials"] == before["trials"]


def test_a_refused_sync_leaves_no_index(tiny: dict[str, Any], fresh: Path, refusing: str) -> None:
    tracker = Tracker(uri_of(fresh), "tiny")
    tracker.uri, tracker.client = refusing, MlflowClient(tracking_uri=refusing)
    with pytest.raises(TrackingError):
        tracker.sync(plan_of(tiny, fresh), folder_of(fresh))
    assert folder_of(fresh).size("mlflow.json") is None
