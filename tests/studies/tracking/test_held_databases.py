"""SQLite files that another process holds, or that another version has made."""

import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest

from studies.errors import TrackingError
from studies.results.reading import study_points
from studies.tracking import background
from studies.tracking.background import BackgroundSync
from studies.tracking.tracker import Tracker
from studies.tuning.database import open_database
from tests.studies.marks import NOLOAD
from tests.studies.tracking.tracked import folder_of, plan_of, runs_of, uri_of

OAT = Path(sys.executable).with_name("oat")

pytestmark = [pytest.mark.mlflow, NOLOAD]


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Hold a SQLite file, so that nobody else may read or write it."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


def _until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 1000
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(1100)
def test_training_goes_on_while_mlflow_is_held_and_nothing_is_lost(
    tiny: dict[str, Any], fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "RETRY_SECONDS", 0.1)
    plan, folder = plan_of(tiny, fresh), folder_of(fresh)
    tracker = Tracker(uri_of(fresh), "tiny")
    tracker.load()
    follower = BackgroundSync(tracker, plan, folder)
    follower.start()
    with _held(fresh / "mlflow.db"):
        began = time.monotonic()
        for trial in plan.trials:
            follower.changed(trial.run_key)
        assert time.monotonic() - began < 4  # SQLite itself waits for 5 s
        _until(lambda: follower.error is not None)
        assert "is held by another process" in str(follower.error)
        with pytest.raises(TrackingError, match=r"safe in .*`oat sync tiny`"):
            tracker.sync(plan, folder)
    points = study_points(plan, folder)
    _until(lambda: len(runs_of(fresh, "point")) == len(points) and follower.error is None)
    follower.close()
    keys = sorted(run.data.tags["oat.key"] for run in runs_of(fresh, "point"))
    assert keys == sorted(points["point_key"])


@pytest.mark.slow
@pytest.mark.timeout(1100)
def test_a_search_waits_for_its_database_longer_than_sqlite_does(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path / 'optuna.db'}")
    search = optuna.create_study(storage=database, directions=["maximize", "maximize"])
    asked = search.ask({"lr": optuna.distributions.FloatDistribution(0.01, 1)})
    said = threading.Thread(target=lambda: search.tell(asked, [0.8, 0.4]))
    with _held(tmp_path / "optuna.db"):
        said.start()
        said.join(8)  # 5 s is all that SQLite waits by itself
        assert said.is_alive()
    said.join()
    (told,) = search.get_trials()
    assert (told.values, told.params) == ([0.8, 0.4], asked.params)


def _made_by(version: str, database: Path, storage: Path) -> Path:
    """Put a database there that says of itself that another version of MLflow has made it."""
    path = Path(shutil.copy(database, storage / "mlflow.db"))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (version,))
    connection.close()
    return path


@pytest.mark.parametrize("version", ["ffffffffffff", "451aebb31d03"], ids=["newer", "older"])
def test_a_database_of_another_version_is_named_with_a_cure(
    version: str, empty_database: Path, tmp_path: Path
) -> None:
    _made_by(version, empty_database, tmp_path)
    with pytest.raises(TrackingError, match="another version of MLflow") as refused:
        Tracker(uri_of(tmp_path), "tiny")
    assert "move it away, and `oat sync STUDY` rebuilds it from storage" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_and_the_cure_cures(storage: Path, tiny_file: Path, empty_database: Path) -> None:
    """In processes of their own, as MLflow keeps what it has opened."""
    path = _made_by("ffffffffffff", empty_database, storage)

    def oat(*words: object) -> subprocess.CompletedProcess[str]:
        command = [str(OAT), *map(str, words), "--storage", str(storage)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    refused = oat("sync", tiny_file)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "another version of MLflow" in refused.stderr
    looked = oat("preflight", tiny_file)
    assert looked.returncode == 2
    text = " ".join(looked.stdout.replace("│", " ").split())
    assert "was made by another version of MLflow" in text
    path.rename(storage / "old.db")
    synced = oat("sync", tiny_file)
    assert (synced.returncode, synced.stdout) == (0, "MLflow has 5 points of this study.\n")
