"""What is tried again, and how: on a real Ray, with trials that die as trials do."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray import tune
from ray.tune import FailureConfig, RunConfig, TuneConfig

from studies.cluster import stalls
from studies.cluster.capacity import node_sizes
from studies.cluster.retries import GaveUp, Retries, TrialOutOfMemory, how_lost
from studies.cluster.worker import MARK, _check_storage
from studies.storage.local import LocalFolder
from tests.ray_paths import needs_plain_path
from tests.studies.cluster.lives import tell

RETRIES = 2
"""Fewer than a study has: each costs a process."""


def test_a_node_proves_that_it_sees_the_storage_of_its_driver(tmp_path: Path) -> None:
    LocalFolder(tmp_path / "shared").write(MARK, b"mine")
    _check_storage(str(tmp_path / "shared"), "mine")
    for place, mark in (("own", "mine"), ("shared", "of another driver")):
        with pytest.raises(OSError, match="a folder of its own"):
            _check_storage(str(tmp_path / place), mark)


@pytest.fixture(scope="module")
def many_cpus() -> Iterator[None]:
    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def _run(place: Path, live: Callable[[dict[str, Any]], None]) -> dict[str, str]:
    """Run one trial as a launch does; return why it was given up, if it was."""
    gave_up = GaveUp()
    sizes = node_sizes(ray.nodes())
    config = {
        "place": str(place),
        "job": {"run_key": "key", "resources": {"cpu": 1, "gpu": 0}},
        "request": {"CPU": 1.0, "GPU": 0.0},
        "can_grow": True,
    }

    def resources(config: dict[str, Any]) -> dict[str, float]:
        return {"cpu": config["trial"]["request"]["CPU"]}

    tuner = tune.Tuner(
        tune.with_resources(live, resources),
        param_space={"trial": tune.grid_search([config])},
        tune_config=TuneConfig(scheduler=Retries(sizes), reuse_actors=True),
        run_config=RunConfig(
            storage_path=str(place / "tune"),
            verbose=0,
            callbacks=[gave_up, stalls.StartWatch()],
            failure_config=FailureConfig(max_failures=RETRIES),
        ),
    )
    tuner.fit()
    return gave_up.reasons


def under_ray(test: Callable[..., None]) -> Callable[..., None]:
    for mark in (pytest.mark.ray, pytest.mark.slow, needs_plain_path):
        test = mark(test)
    return test


@under_ray
def test_a_trial_without_memory_has_twice_the_room_until_a_node_has_no_more(
    many_cpus: None, tmp_path: Path
) -> None:
    def live(config: dict[str, Any]) -> None:
        trial = config["trial"]
        (held,) = [r for r in ray.get_runtime_context().get_assigned_resources().items()][:1]
        tell(Path(trial["place"]), f"{trial['request']['CPU']:g} {trial['can_grow']} {held[1]:g}")
        tune.report({"kind": "epoch"})
        if trial["can_grow"]:
            raise TrialOutOfMemory("out of memory")

    assert _run(tmp_path, live) == {}
    lives = (tmp_path / "lives").read_text().splitlines()
    assert lives == [f"{n} {n < 8} {n}" for n in (1, 2, 4, 8)]


@under_ray
def test_a_worker_may_be_killed_any_number_of_times_as_long_as_its_trial_gets_on(
    many_cpus: None, tmp_path: Path
) -> None:
    deaths = RETRIES + 2

    def live(config: dict[str, Any]) -> None:
        count = tell(Path(config["trial"]["place"]), f"{config['trial']['request']['CPU']:g}")
        tune.report({"kind": "epoch"})
        tune.report({"kind": "epoch"})  # the one before has surely arrived
        if count <= deaths:
            os.kill(os.getpid(), signal.SIGKILL)

    assert _run(tmp_path, live) == {}
    assert (tmp_path / "lives").read_text().splitlines() == ["1"] * (deaths + 1)


@under_ray
def test_epochs_that_no_checkpoint_holds_are_no_progress(many_cpus: None, tmp_path: Path) -> None:
    def live(config: dict[str, Any]) -> None:
        tell(Path(config["trial"]["place"]), "lives")
        tune.report({"kind": "epoch", "saved": False})
        tune.report({"kind": "epoch", "saved": False})
        os.kill(os.getpid(), signal.SIGKILL)

    assert list(_run(tmp_path, live)) == ["key"]
    assert len((tmp_path / "lives").read_text().splitlines()) == RETRIES + 1


@under_ray
def test_a_worker_that_does_not_begin_is_ended_and_its_trial_goes_on(
    many_cpus: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stalls, "START_SECONDS", 8.0)

    def live(config: dict[str, Any]) -> None:
        if tell(Path(config["trial"]["place"]), "began") == 1:
            time.sleep(3600)
        tune.report({"kind": "start"})
        time.sleep(12)  # whoever has begun may take any time

    assert _run(tmp_path, live) == {}
    assert (tmp_path / "lives").read_text().splitlines()[:2] == ["began", "began"]


class _Hangs:
    """Hangs the first worker that unpickles it."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, tuple[Path, int]]:
        return _hang_once, (self.place, os.getpid())


def _hang_once(place: Path, driver: int) -> _Hangs:
    if os.getpid() != driver and tell(place, "made") == 1:
        os.kill(os.getpid(), signal.SIGSTOP)  # deaf to all but SIGKILL
    return _Hangs(place)


@under_ray
def test_a_worker_that_hangs_while_it_is_made_is_ended_and_its_trial_goes_on(
    many_cpus: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stalls, "MAKE_SECONDS", 30.0)
    hangs = _Hangs(tmp_path)

    def live(config: dict[str, Any]) -> None:
        assert hangs.place == tmp_path
        tune.report({"kind": "start"})

    assert _run(tmp_path, live) == {}
    assert (tmp_path / "lives").read_text().splitlines()[:2] == ["made", "made"]


@pytest.mark.slow
def test_a_process_that_computes_nothing_ends_itself_and_one_that_does_lives() -> None:
    code = (
        "import sys, time\nfrom studies.cluster.stalls import watch_this_process\n"
        "watch_this_process()\n"
        "end = time.monotonic() + 3\n"
        "while time.monotonic() < end:\n    time.sleep(0.05) if sys.argv[1] == 'idle' else None"
    )
    codes = {
        how: subprocess.run(
            [sys.executable, "-c", code, how], env=os.environ | {"OAT_STALL_SECONDS": "1"},
            check=False,
        ).returncode
        for how in ("idle", "busy")
    }  # fmt: skip
    assert codes == {"idle": 70, "busy": 0}


def test_a_worker_that_was_lost_without_an_error_did_not_start() -> None:
    assert how_lost(SimpleNamespace(pickled_error_file=None)) == "its worker did not start"


@under_ray
def test_a_worker_that_dies_at_the_same_place_again_and_again_is_given_up_with_more_room_tried(
    many_cpus: None, tmp_path: Path
) -> None:
    def live(config: dict[str, Any]) -> None:
        tell(Path(config["trial"]["place"]), f"{config['trial']['request']['CPU']:g}")
        os.kill(os.getpid(), signal.SIGKILL)

    assert _run(tmp_path, live) == {"key": "its worker died"}
    # 1 + RETRIES lives; the kernel's killer looks like this, so there is more room,
    # up to the last life: a node has more than it may still ask for
    assert (tmp_path / "lives").read_text().splitlines() == ["1", "1", "2"]


@under_ray
def test_an_error_that_is_no_lack_of_memory_gives_no_more_room(
    many_cpus: None, tmp_path: Path
) -> None:
    def live(config: dict[str, Any]) -> None:
        tell(Path(config["trial"]["place"]), f"{config['trial']['request']['CPU']:g}")
        raise OSError("Storage is away.")

    assert _run(tmp_path, live) == {"key": "OSError: Storage is away."}
    assert (tmp_path / "lives").read_text().splitlines() == ["1"] * (1 + RETRIES)
