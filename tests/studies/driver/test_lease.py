import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from studies.driver import lease as module
from studies.driver.lease import LEASE, Lease, LeaseError
from studies.errors import StorageError
from studies.storage.local import LocalFolder


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.6)
    monkeypatch.setattr(module, "SETTLE_SECONDS", (0.02, 0.02))


def _lease(
    path: Path, lost: Callable[[], None] = lambda: None, said: list[str] | None = None
) -> Lease:
    told = [] if said is None else said
    return Lease(LocalFolder(path), "tiny", lost=lost, waiting=told.append)


def _record(path: Path) -> dict[str, Any]:
    return dict(json.loads((path / LEASE).read_text()))


def _elsewhere(path: Path, **changed: Any) -> dict[str, Any]:
    """Leave the lease of a driver on another machine."""
    record = {
        "owner": "other",
        "beat": 3,
        "host": "far",
        "pid": 1,
        "place": "far boot pid",
        **changed,
    }
    path.mkdir(exist_ok=True)
    (path / LEASE).write_text(json.dumps(record))
    return record


def test_a_lease_lies_in_the_folder_while_it_is_held_and_beats(tmp_path: Path) -> None:
    with _lease(tmp_path):
        first = _record(tmp_path)
        time.sleep(0.3)
        assert _record(tmp_path)["beat"] > first["beat"]
        assert _record(tmp_path)["owner"] == first["owner"]
    assert not (tmp_path / LEASE).exists()


def test_a_second_driver_of_the_same_machine_is_refused_at_once_with_one_sentence(
    tmp_path: Path,
) -> None:
    said: list[str] = []
    with _lease(tmp_path):
        with pytest.raises(LeaseError) as caught, _lease(tmp_path, said=said):
            pytest.fail("it must not run")
        assert "\n" not in str(caught.value)
        for word in ("'tiny'", str(os.getpid()), socket.gethostname(), "`oat status`"):
            assert word in str(caught.value)
        assert said == []
    with _lease(tmp_path):
        pass


def test_the_lease_of_a_process_that_was_killed_is_taken_at_once(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom studies.driver.lease import Lease\n"
        "from studies.storage.local import LocalFolder\n"
        "Lease(LocalFolder(sys.argv[1]), 'tiny', lost=print, waiting=print).__enter__()\n"
        "os.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert ended.returncode == -9
    dead = _record(tmp_path)
    said: list[str] = []
    with _lease(tmp_path, said=said):
        assert _record(tmp_path)["owner"] != dead["owner"]
    assert said == []


def test_a_process_that_was_given_the_number_of_a_dead_one_is_not_taken_for_it(
    tmp_path: Path,
) -> None:
    with _lease(tmp_path):
        own = _record(tmp_path)
    (tmp_path / LEASE).write_text(json.dumps({**own, "owner": "dead", "started": "1"}))
    with _lease(tmp_path):
        assert _record(tmp_path)["owner"] not in {"dead", own["owner"]}


def test_a_lease_of_another_machine_that_beats_is_respected(tmp_path: Path) -> None:
    other, end = _elsewhere(tmp_path), threading.Event()

    def beat() -> None:
        while not end.wait(0.05):
            other["beat"] += 1
            LocalFolder(tmp_path).write(LEASE, json.dumps(other).encode())

    thread = threading.Thread(target=beat)
    thread.start()
    said: list[str] = []
    try:
        with pytest.raises(LeaseError, match="on far"), _lease(tmp_path, said=said):
            pytest.fail("it must not run")
    finally:
        end.set()
        thread.join()
    assert len(said) == 1
    assert "far" in said[0]


@pytest.mark.parametrize("clock", [-3600, 0, 3600])
def test_a_lease_of_another_machine_that_does_not_beat_is_taken_whatever_the_clock_says(
    clock: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _elsewhere(tmp_path)
    true_time = time.time
    monkeypatch.setattr(time, "time", lambda: true_time() + clock)
    os.utime(tmp_path / LEASE, (true_time() + clock, true_time() + clock))
    with _lease(tmp_path):
        assert _record(tmp_path)["owner"] != "other"


def test_a_lease_that_goes_away_while_one_watches_leaves_the_way_free(tmp_path: Path) -> None:
    _elsewhere(tmp_path)
    threading.Timer(0.2, (tmp_path / LEASE).unlink).start()
    began = time.monotonic()
    with _lease(tmp_path):
        pass
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_a_lease_that_cannot_be_read_is_no_lease(text: str, tmp_path: Path) -> None:
    (tmp_path / LEASE).write_text(text)
    with _lease(tmp_path):
        assert "owner" in _record(tmp_path)


def test_whoever_was_taken_for_dead_learns_of_it_and_leaves_the_others_lease(
    tmp_path: Path,
) -> None:
    lost = threading.Event()
    with _lease(tmp_path, lost.set):
        other = _elsewhere(tmp_path)
        assert lost.wait(1000)
        time.sleep(0.2)
        assert _record(tmp_path) == other
    assert _record(tmp_path) == other


def test_a_lease_that_was_removed_is_written_again(tmp_path: Path) -> None:
    lost = threading.Event()
    with _lease(tmp_path, lost.set):
        own = _record(tmp_path)["owner"]
        (tmp_path / LEASE).unlink()
        time.sleep(0.3)
        assert _record(tmp_path)["owner"] == own
    assert not lost.is_set()
    assert not (tmp_path / LEASE).exists()


def test_a_stop_that_was_swallowed_is_said_again(tmp_path: Path) -> None:
    told: list[int] = []
    with _lease(tmp_path, lambda: told.append(1)):
        _elsewhere(tmp_path)
        time.sleep(0.4)
    assert len(told) > 1


def test_ctrl_c_while_a_lease_is_taken_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt), _lease(tmp_path):
        pytest.fail("it must not run")
    monkeypatch.undo()
    assert not (tmp_path / LEASE).exists()


def test_storage_that_is_away_at_the_end_hides_no_outcome(tmp_path: Path) -> None:
    class Gone(LocalFolder):
        gone = False

        def read(self, name: str) -> bytes:
            if self.gone:
                raise StorageError("it is away.")
            return super().read(name)

    folder = Gone(tmp_path)
    with Lease(folder, "tiny", lost=lambda: None, waiting=print):
        folder.gone = True


def test_a_process_that_cannot_be_looked_at_counts_as_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _lease(tmp_path):
        monkeypatch.setattr(module, "_started", lambda _: None)  # as under hidepid
        with pytest.raises(LeaseError), _lease(tmp_path):
            pytest.fail("it must not run")


def test_storage_that_is_away_for_a_while_costs_no_lease_and_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Flaky(LocalFolder):
        away = False

        def read(self, name: str) -> bytes:
            if self.away:
                raise StorageError("it is away.")
            return super().read(name)

        def write(self, name: str, data: bytes) -> None:
            if self.away:
                raise OSError("No space left on device")
            super().write(name, data)

    folder, lost = Flaky(tmp_path), threading.Event()
    with Lease(folder, "tiny", lost=lost.set, waiting=print):
        folder.away = True
        time.sleep(0.3)
        folder.away = False
        beat = _record(tmp_path)["beat"]
        time.sleep(0.3)
        assert _record(tmp_path)["beat"] > beat
    assert not lost.is_set()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "trials wait" in said[0]
    assert "again" in said[1]


def test_of_many_drivers_that_start_at_once_no_two_go_on(tmp_path: Path) -> None:
    start, holding = threading.Barrier(8), []
    lock = threading.Lock()

    def drive() -> None:
        lost = threading.Event()
        start.wait()
        try:
            with _lease(tmp_path, lost.set):
                time.sleep(0.4)  # more than a beat: who shares the lease has learned of it
                with lock:
                    if not lost.is_set():
                        holding.append(threading.get_ident())
                time.sleep(0.4)
        except LeaseError:
            pass

    threads = [threading.Thread(target=drive) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(holding) == 1


def test_a_lease_that_could_not_be_removed_does_not_shut_out_its_own_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = LocalFolder(tmp_path)

    def refuse(*_: object) -> None:
        raise StorageError("storage is away")

    def lease() -> Lease:
        return Lease(folder, "tiny", lost=lambda: None, waiting=lambda _: None)

    with lease(), monkeypatch.context() as away:
        away.setattr(LocalFolder, "remove", refuse)
        held = lease()
        with pytest.raises(LeaseError):
            held.__enter__()
    monkeypatch.setattr(LocalFolder, "remove", refuse)
    with lease():
        pass
    assert folder.size("lease.json")
    monkeypatch.undo()
    with lease():
        pass
    assert folder.size("lease.json") is None
