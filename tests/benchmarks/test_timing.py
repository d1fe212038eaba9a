import json
import platform
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import timing
from benchmarks.timing import Side, SideError
from benchmarks.worker import Worker, check_pass

CASE = {
    "kind": "training",
    "network": "resnet8",
    "width": 2,
    "method": "oat",
    "batch": 12,
    "steps": 2,
    "precision": "float32",
    "threads": 1,
}


def test_sides_are_measured_in_turns_and_backwards_in_every_other_round() -> None:
    order: list[str] = []

    def side(name: str, *seconds: float) -> Callable[[], list[float]]:
        left = iter(seconds)
        return lambda: order.append(name) or [next(left)]  # type: ignore[func-returns-value]

    times, failed = timing.interleave({"a": side("a", 1, 2, 3), "b": side("b", 4, 5, 6)}, 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert times == {"a": [1, 2, 3], "b": [4, 5, 6]}
    assert failed == {}


def test_a_side_that_fails_is_left_out_and_the_others_go_on() -> None:
    def broken() -> list[float]:
        raise SideError("b: no more memory")

    times, failed = timing.interleave({"a": lambda: [3.0, 1.0, 2.0], "b": broken}, 2)
    assert times == {"a": [2.0, 2.0]}
    assert failed == {"b": "b: no more memory"}


def test_a_summary_has_the_median_the_fastest_and_the_interquartile_range() -> None:
    found = timing.summary([0.004, 0.001, 0.002, 0.003, 0.005])
    assert (found["median_ms"], found["min_ms"], found["spread_ms"]) == (3, 1, 2)
    assert found["ms"] == [4, 1, 2, 3, 5]
    assert timing.summary([0.25])["spread_ms"] == 0


def test_a_speedup_is_of_times_within_one_round() -> None:
    # a slow third round of the machine slows both
    found = timing.speedup([2.0, 4.0, 40.0], [1.0, 1.0, 10.0])
    assert found == {"median": 4.0, "min": 2.0, "max": 4.0}


def test_speedups_are_over_the_sides_named_that_were_measured() -> None:
    times = {"plain": [4.0], "earlier": [2.0], "ours": [1.0]}
    found = timing.speedups(times, ["plain", "earlier", "absent"])
    assert {name: value["median"] for name, value in found.items()} == {
        "earlier over plain": 2,
        "ours over plain": 4,
        "ours over earlier": 2,
    }


def test_the_machine_is_described_without_its_name() -> None:
    found = timing.machine(3)
    assert found["threads"] == 3
    assert found["processor"]
    assert platform.node() not in found.values()
    json.dumps(found)


def test_a_checkout_is_told_by_its_source_where_git_knows_nothing_of_it(tmp_path: Path) -> None:
    for package in ("oat", "baselines"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "code.py").write_text("x = 1\n")
    before = timing.checkout(tmp_path)
    assert before["revision"] is None
    (tmp_path / "oat" / "code.py").write_text("x = 2\n")
    assert timing.checkout(tmp_path)["source"] != before["source"]
    assert len(before["source"]) == 12


def test_a_worker_gives_seconds_for_each_step() -> None:
    worker = Worker()
    opened = worker.answer({"open": CASE})
    assert opened["parts"] == ["step"]
    assert opened["facts"]["bfloat16"] is False
    assert "float32" in opened["facts"]["execution"]
    seconds = worker.answer({"run": 3, "part": "step"})["seconds"]
    assert len(seconds) == 3
    assert all(value > 0 for value in seconds)


def test_a_worker_refuses_a_request_that_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="Unknown request"):
        Worker().answer({"sing": True})


def test_a_pass_that_broke_off_is_no_time() -> None:
    check_pass(1.5, 24, 24)
    for loss, seen in ((float("nan"), 24), (float("inf"), 24), (1.5, 12)):
        with pytest.raises(ValueError, match="of 24 images"):
            check_pass(loss, seen, 24)


@pytest.mark.slow
def test_a_side_that_was_refused_something_starts_anew_for_the_next_case() -> None:
    side = Side("ours")
    with timing.ending([side]):
        with pytest.raises(SideError, match="ours: KeyError: 'song'"):
            side.open({"kind": "song"})
        with pytest.raises(SideError, match="its process has ended"):
            side.run("step")
        side.open(CASE)
        assert side.parts == ["step"]
        assert side.facts["first_pass_seconds"] > 0
        assert side.run("step", 2)[1] > 0
        assert side._process is not None
        side._process.kill()
        with pytest.raises(SideError, match="ours: ended with -9"):
            side.run("step")


@pytest.mark.slow
def test_a_side_whose_folder_has_other_packages_is_refused(tmp_path: Path) -> None:
    side = Side("earlier code", tmp_path)  # without packages: those installed would be measured
    with timing.ending([side]), pytest.raises(SideError, match="earlier code: "):
        side.open(CASE)
