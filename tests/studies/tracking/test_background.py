import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from studies.errors import TrackingError
from studies.planning.expand import make_plan
from studies.planning.plan import Plan, PlannedTrial
from studies.storage.folder import Folder
from studies.storage.local import LocalFolder
from studies.study_file.loading import load_study
from studies.tracking import background
from studies.tracking.background import BackgroundSync


class Server:
    """Takes what it is brought, unless it is away."""

    def __init__(self) -> None:
        self.away = False
        self.faulty: set[str] = set()
        self.hangs = threading.Event()
        self.hangs.set()
        self.asked: list[str] = []
        self.took: list[str] = []

    def follow(self, plan: Plan, trial: PlannedTrial, folder: Folder) -> None:
        """Stand in for `Tracker.follow`."""
        assert folder.uri.endswith(trial.run_key)
        self.asked.append(trial.run_key)
        self.hangs.wait(20)
        if self.away or trial.run_key in self.faulty:
            raise TrackingError("The server is away.")
        self.took.append(trial.run_key)


@pytest.fixture
def plan(tiny: dict[str, Any], tmp_path: Path) -> Plan:
    return make_plan(load_study(tiny), LocalFolder(tmp_path))


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "RETRY_SECONDS", 0.1)
    monkeypatch.setattr(background, "CLOSE_SECONDS", 1.0)


Follow = Callable[[Server], BackgroundSync]


@pytest.fixture
def follow(plan: Plan, tmp_path: Path) -> Follow:
    def start(server: Server) -> BackgroundSync:
        follower = BackgroundSync(server, plan, LocalFolder(tmp_path))  # type: ignore[arg-type]
        follower.start()
        return follower

    return start


def _until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 1000
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_a_server_missed_is_brought_when_it_is_back_without_a_further_change(
    plan: Plan, follow: Follow, caplog: pytest.LogCaptureFixture
) -> None:
    server, keys = Server(), [trial.run_key for trial in plan.trials]
    server.away = True
    with caplog.at_level(logging.WARNING, "oat.tracking"):
        follower = follow(server)
        for key in keys:
            follower.changed(key)
        _until(lambda: len(server.asked) > 3)
        assert server.took == []
        server.away = False
        _until(lambda: set(server.took) == set(keys))
        follower.close()
    assert follower.error is None
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2  # that it is away, and that it is back; not each time it was asked
    assert "training goes on" in said[0]
    assert "again" in said[1]


def test_who_follows_is_told_of_a_trial_once_the_server_has_taken_it(
    plan: Plan, tmp_path: Path
) -> None:
    server, told = Server(), list[str]()
    (bad, *good) = (trial.run_key for trial in plan.trials)
    server.faulty = {bad}
    follower = BackgroundSync(server, plan, LocalFolder(tmp_path), told.append)  # type: ignore[arg-type]
    follower.start()
    for trial in plan.trials:
        follower.changed(trial.run_key)
    _until(lambda: set(told) == set(good))
    follower.close()
    assert bad not in told


def test_a_server_that_is_away_is_not_asked_at_every_change(plan: Plan, follow: Follow) -> None:
    server = Server()
    server.away = True
    follower = follow(server)
    for _ in range(200):
        follower.changed(plan.trials[0].run_key)
        time.sleep(0.001)
    follower.close()
    assert 1 <= len(server.asked) < 20


def test_one_trial_that_is_refused_keeps_no_other_back(plan: Plan, follow: Follow) -> None:
    server, (bad, *good) = Server(), [trial.run_key for trial in plan.trials]
    server.faulty = {bad}
    follower = follow(server)
    for trial in plan.trials:
        follower.changed(trial.run_key)
    _until(lambda: set(server.took) == set(good))
    follower.close()


def test_nobody_waits_for_a_server_that_hangs(plan: Plan, follow: Follow) -> None:
    server = Server()
    server.hangs.clear()
    follower = follow(server)
    began = time.monotonic()
    for trial in plan.trials:
        follower.changed(trial.run_key)
    assert time.monotonic() - began < 0.5
    server.hangs.set()
    follower.close()
    assert set(server.took) == {trial.run_key for trial in plan.trials}


def test_closing_does_not_wait_for_a_server_that_is_away(plan: Plan, follow: Follow) -> None:
    server = Server()
    server.away = True
    follower = follow(server)
    for trial in plan.trials:
        follower.changed(trial.run_key)
    began = time.monotonic()
    follower.close()
    assert time.monotonic() - began < 3
    assert not follower.is_alive()
    assert follower.error == "The server is away."


def test_a_trial_that_is_named_often_meanwhile_is_brought_once(plan: Plan, follow: Follow) -> None:
    server, key = Server(), plan.trials[0].run_key
    server.hangs.clear()
    follower = follow(server)
    follower.changed(key)
    _until(lambda: server.asked == [key])
    for _ in range(10):
        follower.changed(key)
    server.hangs.set()
    follower.close()
    assert server.took == [key, key]
