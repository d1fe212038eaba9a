"""A study in a real tracking server: PostgreSQL behind it, a password and host names before it."""

import itertools
import logging
import shutil
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from mlflow.entities import Run, ViewType
from mlflow.tracking import MlflowClient

import studies
from benchmarks.servers import Mlflow, Postgres, mlflow_server, postgres_programs, postgres_server
from studies.cli import app as cli
from studies.errors import TrackingError
from studies.planning.expand import make_plan
from studies.planning.plan import Plan
from studies.results.points import with_attack_columns
from studies.results.reading import study_points
from studies.storage.local import LocalFolder
from studies.study_file.loading import load_study
from studies.study_file.study import Study
from studies.tracking.experiment import Experiment
from studies.tracking.reaching import check_server
from studies.tracking.tracker import Tracker
from tests.studies.marks import NOLOAD

pytestmark = [pytest.mark.mlflow, pytest.mark.slow, NOLOAD]

NAME = "tracking.test"
"""A host name that the server answers to; there is another that it does not."""

TOLD_ONCE = ("train_loss", "sa_val", "device_seconds", "ra", "ra_pgd1")
"""Metrics whose every value is looked at, as each costs a request."""

_NAMES = itertools.count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """PostgreSQL on loopback."""
    if postgres_programs() is None:
        pytest.skip("PostgreSQL is not installed (Debian: postgresql)")
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="module")
def started(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mlflow]:
    """A server that asks for a password, on PostgreSQL where that is installed."""
    store = None
    if postgres_programs() is not None:
        store = request.getfixturevalue("postgres").make("behind_a_server")
    folder = tmp_path_factory.mktemp("mlflow-server")
    with mlflow_server(folder, store, password=True, hosts=(NAME, "127.0.0.1")) as server:
        yield server


@pytest.fixture
def server(started: Mlflow, monkeypatch: pytest.MonkeyPatch) -> Mlflow:
    """The same, with its address and its credentials in the environment."""
    for name, value in started.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    return started


@pytest.fixture
def study(tiny: dict[str, Any], request: pytest.FixtureRequest) -> Study:
    """The tiny study under a name of its own, as all tests share the server."""
    return load_study({**tiny, "name": f"tiny-{next(_NAMES)}"})


@pytest.fixture
def storage(study: Study, storage: Path) -> Path:
    """A storage folder in which it is finished."""
    (storage / "tiny").rename(storage / study.name)
    return storage


@dataclass(frozen=True)
class Kept:
    """A finished study that the server has; not to be changed."""

    study: Study
    storage: Path


@pytest.fixture(scope="module")
def kept(
    started: Mlflow, finished: Path, tiny_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Kept:
    """The tiny study, synced once for all who look at it."""
    study = load_study(tiny_file)
    storage = Path(shutil.copytree(finished, tmp_path_factory.mktemp("kept") / "storage"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in started.environment.items():
            patch.setenv(name, value)
        assert studies.sync(study, storage=storage) == 5
    return Kept(study, storage)


def _plan(study: Study, storage: Path) -> tuple[Plan, LocalFolder]:
    folder = LocalFolder(storage / study.name)
    return make_plan(study, folder), folder


def _runs(uri: str, study: Study, kind: str | None = None) -> list[Run]:
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(study.name)
    where = f"tags.`oat.kind` = '{kind}'" if kind else ""
    return list(client.search_runs([experiment.experiment_id], where, ViewType.ACTIVE_ONLY, 1000))


def _content(uri: str, study: Study) -> dict[tuple[str, str], tuple[Any, ...]]:
    """Return what each run holds, by kind and key; there is one for each."""
    names = {run.info.run_id: run.data.tags["oat.key"] for run in _runs(uri, study)}
    client, found = MlflowClient(tracking_uri=uri), {}
    for run in _runs(uri, study):
        tags = dict(run.data.tags)
        parent = names.get(tags.pop("mlflow.parentRunId", ""))
        history = {
            name: sorted(
                (m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)
            )
            for name in run.data.metrics
            if name in TOLD_ONCE
        }
        key = (tags["oat.kind"], tags["oat.key"])
        assert key not in found
        found[key] = (
            run.info.status,
            run.info.run_name,
            parent,
            tags,
            run.data.params,
            run.data.metrics,
            history,
        )
    return found


def _is_whole(uri: str, study: Study, storage: Path) -> None:
    """Check that there is one finished run for each key, and that points are those of storage."""
    plan, folder = _plan(study, storage)
    content = _content(uri, study)
    assert {state for state, *_ in content.values()} == {"FINISHED"}
    count = Counter(kind for kind, _ in content)
    assert count == {"study": 1, "trial": 4, "point": 5, "validation": 5}
    expected = with_attack_columns(study_points(plan, folder).drop(columns="folder"))
    pd.testing.assert_frame_equal(Experiment(uri, study.name).points(), expected, check_exact=True)


def _oat(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["oat", *map(str, arguments)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def test_a_study_is_kept_whole_and_twice_is_once(server: Mlflow, kept: Kept) -> None:
    _is_whole(server.url, kept.study, kept.storage)
    before = _content(server.url, kept.study)
    for _ in range(2):
        assert studies.sync(kept.study, storage=kept.storage) == 5
    assert _content(server.url, kept.study) == before


@pytest.mark.parametrize(
    "where",
    [
        "method == 'oat'",
        "method != 'oat' and ra_pgd1 >= 0",
        "lam in (0, 0.5) and sa > 0 or beta == 1",
        "not (lam <= 0.5) and images == 50",
    ],
)
def test_a_condition_finds_what_pandas_finds(where: str, server: Mlflow, kept: Kept) -> None:
    expected = studies.points(kept.study, storage=kept.storage).drop(columns="folder")
    expected = with_attack_columns(expected).query(where).reset_index(drop=True)
    assert 0 < len(expected) < 5
    found = studies.runs(kept.study, where=where, storage=kept.storage)
    pd.testing.assert_frame_equal(found, expected)


@pytest.mark.postgres
def test_an_empty_database_is_rebuilt_byte_for_byte(
    server: Mlflow,
    postgres: Postgres,
    study: Study,
    storage: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Once through the server, then straight into a new database."""
    studies.sync(study, storage=storage)
    monkeypatch.chdir(storage)  # MLflow keeps artifacts here if nobody says where
    printed, content = [], []
    file = storage / study.name / "study.yaml"
    file.write_text(yaml.safe_dump(study.dump()))
    direct = postgres.make("rebuilt")
    for uri in (server.url, direct):
        check_server(uri)
        place = ("--storage", storage, "--tracking-uri", uri)
        code, out, err = _oat(monkeypatch, capsys, "sync", file, *place)
        assert (code, out, err) == (0, "MLflow has 5 points of this study.\n", "")
        code, out, err = _oat(monkeypatch, capsys, "runs", file, *place, "--format", "csv")
        assert (code, err) == (0, "")
        printed.append(out)
        content.append(_content(uri, study))
    assert printed[0] == printed[1]
    assert printed[0].count("\n") == 6
    assert content[0] == content[1]
    for path in (storage / study.name).rglob("*"):
        assert path.is_dir() or postgres.password.encode() not in path.read_bytes(), path


def test_runs_that_nobody_works_on_are_closed(server: Mlflow, study: Study, storage: Path) -> None:
    tracker = Tracker(server.url, study.name)
    lost = tracker.client.create_run(tracker.experiment_id, tags={"oat.kind": "trial"})
    half = tracker.client.create_run(
        tracker.experiment_id,
        tags={"oat.kind": "point", "oat.key": _plan(study, storage)[0].trials[0].run_key},
    )
    studies.sync(study, storage=storage)
    for run in (lost, half):
        assert tracker.client.get_run(run.info.run_id).info.status == "KILLED"
        tracker.client.delete_run(run.info.run_id)
    _is_whole(server.url, study, storage)


@pytest.mark.parametrize("password", ["wrong", None])
def test_without_the_password_there_is_one_sentence(
    password: str | None,
    server: Mlflow,
    kept: Kept,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if password is None:
        monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
        monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    else:
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    for call in (studies.sync, studies.runs):
        with pytest.raises(TrackingError) as caught:
            call(kept.study, storage=kept.storage)
        assert str(caught.value) == (
            f"The tracking server '{server.url}' asks for a user and a password, or for others "
            "(401); set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
        )


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that lead to this machine, as in a cluster's own network."""
    ask = socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        here = host in {NAME, "unknown.test"}
        return ask("127.0.0.1" if here else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.usefixtures("names")
def test_a_server_is_reached_by_the_names_that_it_allows(server: Mlflow, kept: Kept) -> None:
    uri = f"http://{NAME}:{server.port}"
    assert studies.sync(kept.study, storage=kept.storage, tracking_uri=uri) == 5
    _is_whole(uri, kept.study, kept.storage)
    uri = f"http://unknown.test:{server.port}"
    with pytest.raises(TrackingError) as caught:
        studies.sync(kept.study, storage=kept.storage, tracking_uri=uri)
    assert str(caught.value) == (
        f"The tracking server '{uri}' does not answer to the name 'unknown.test' (403); start it "
        "with `--allowed-hosts unknown.test,unknown.test:*`."
    )


def test_no_file_holds_a_password(
    server: Mlflow,
    started: Mlflow,
    study: Study,
    storage: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    secrets = {server.environment["MLFLOW_TRACKING_PASSWORD"]}
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "an-aws-secret-of-ours")
    secrets.add("an-aws-secret-of-ours")
    file = storage / "study.yaml"
    file.write_text(yaml.safe_dump(study.dump()))
    caplog.set_level(logging.DEBUG, "oat")
    # nothing is left to train, so this starts no Ray: it syncs, compares and keeps the report
    code, out, err = _oat(monkeypatch, capsys, "run", file, "--storage", storage)
    assert code == 0, err
    login = f"admin:{server.environment['MLFLOW_TRACKING_PASSWORD']}@"
    told = server.url.replace("://", f"://{login}")
    refused = _oat(monkeypatch, capsys, "run", file, "--storage", storage, "--tracking-uri", told)
    assert refused[0] == 2
    assert "must not hold credentials" in refused[2]
    texts = [out, err, *refused[1:], caplog.text]
    (run,) = _runs(server.url, study, "study")
    kept = MlflowClient().list_artifacts(run.info.run_id, "report")
    assert {artifact.path for artifact in kept} >= {"report/index.html"}
    texts.append(repr(_content(server.url, study)))
    for secret in secrets:
        assert not [text for text in texts if secret in text]
        # the server's own files beside them: artifacts, log, database
        for path in (*storage.rglob("*"), *started.folder.rglob("*")):
            if path.is_file():
                assert secret.encode() not in path.read_bytes(), path


def test_an_outage_costs_a_delay_and_no_run(
    server: Mlflow, study: Study, tmp_path: Path, train_all: Callable[[Study, Path], None]
) -> None:
    """The server dies after the first of four trials and comes back before the last."""
    train_all(study, tmp_path)
    plan, folder = _plan(study, tmp_path)
    tracker = Tracker(server.url, study.name)
    tracker.load()
    places = [folder.sub(f"trials/{trial.run_key}") for trial in plan.trials]
    tracker.follow(plan, plan.trials[0], places[0])
    with ExitStack() as stack:
        stack.callback(server.start)
        server.kill()
        for i in (1, 2):
            began = time.monotonic()
            with pytest.raises(TrackingError, match="does not answer"):
                tracker.follow(plan, plan.trials[i], places[i])
            assert time.monotonic() - began < 10
        with pytest.raises(TrackingError, match=rf"safe in .*`oat sync {study.name}`"):
            tracker.sync(plan, folder)
        with pytest.raises(TrackingError, match="refuses"):
            tracker.points()
    tracker.follow(plan, plan.trials[3], places[3])
    tracker.sync(plan, folder)
    tracker.close(plan, folder, study_points(plan, folder))
    _is_whole(server.url, study, tmp_path)


@pytest.mark.postgres
def test_a_database_that_dies_behind_a_living_server_is_one_sentence(
    server: Mlflow, postgres: Postgres, study: Study, storage: Path
) -> None:
    plan, folder = _plan(study, storage)
    trackers = [Tracker(server.url, study.name), Tracker(server.store, study.name)]
    for tracker in trackers:
        tracker.load()
    with ExitStack() as stack:
        stack.callback(postgres.start)
        postgres.stop()
        for tracker in trackers:
            for call in (
                tracker.points,
                lambda tracker=tracker: tracker.sync(plan, folder),
                lambda tracker=tracker: tracker.follow(plan, plan.trials[0], folder),
            ):
                began = time.monotonic()
                with pytest.raises(TrackingError) as caught:
                    call()
                assert time.monotonic() - began < 30
                assert "\n" not in str(caught.value)
                assert postgres.password not in str(caught.value)
                assert "SQL" not in str(caught.value)
    assert studies.sync(study, storage=storage) == 5
    _is_whole(server.url, study, storage)
    # the other kind of client goes on where it was, too
    trackers[1].sync(plan, folder)
    trackers[1].close(plan, folder, study_points(plan, folder))
    _is_whole(server.url, study, storage)
