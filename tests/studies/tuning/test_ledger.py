import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.trial import TrialState

from studies.storage.local import LocalFolder
from studies.storage.sealed import write_sealed
from studies.tuning.ledger import Left, settle, spent_seconds
from tests.studies.tuning.searches import (
    Driver,
    MakeDriver,
    diverge_of,
    epochs_of,
    of_of,
    planned_of,
)

pytestmark = [
    # TPE's constant liar, which lets trials run side by side
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
]


class KilledError(BaseException):
    """The driver is killed."""


# kills


class MortalStorage(InMemoryStorage):
    """Optuna's storage, whose process dies before a write that was named."""

    left: float = float("inf")

    def _write(self) -> None:
        if self.left == 0:
            raise KilledError
        self.left -= 1


class MortalDatabase(RDBStorage):
    """The same in a real database."""

    left: float = float("inf")
    _write = MortalStorage._write


WRITES = (
    "create_new_study",
    "create_new_trial",
    "set_study_user_attr",
    "set_study_system_attr",
    "set_trial_param",
    "set_trial_state_values",
    "set_trial_user_attr",
    "set_trial_system_attr",
)


def _mortal(kind: Any) -> None:
    for name in WRITES:

        def write(self: Any, *args: Any, name: str = name, **options: Any) -> Any:
            self._write()
            return getattr(super(kind, self), name)(*args, **options)

        setattr(kind, name, write)


_mortal(MortalStorage)

_mortal(MortalDatabase)


def _after_kills(
    source: dict[str, Any], folder: LocalFolder, database: Any, finish: Any, kills: list[int]
) -> list[Driver]:
    """Run a search whose drivers die after so many writes each; the last one does not."""
    drivers = []
    for left in [*kills, float("inf")]:
        database.left = left
        drive = Driver(of_of(source), folder, database, finish, slots=2)
        drivers.append(drive)
        try:
            drive.run()
            break
        except KilledError:
            for trial in drive.running.values():  # its workers died with it, half-way
                if not folder.sub(f"trials/{trial.run_key}").size("result.json"):
                    epochs_of(folder, trial, 5.0)
    return drivers


def _nothing_lost_or_doubled(drivers: list[Driver]) -> None:
    last = drivers[-1]
    trials = last.study.get_trials()
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.FAIL}
    done = [t.user_attrs["run_key"] for t in trials if t.state == TrialState.COMPLETE]
    assert len(done) == len(set(done)), "doubled"
    begun = {key for driver in drivers for key in driver.begun}
    assert set(done) == begun, "lost, or done without having been begun"
    for trial in trials:
        if trial.state == TrialState.FAIL:
            assert trial.user_attrs["ended"] in {"died", "not run"}
    found = last.found()
    assert len(found.started()) == 2
    assert found.device_seconds == 40
    # no kill makes a budget smaller, and one that is spent is spent
    assert len(done) == 4
    assert set(last.folder.sub("trials").names()) == set(done)


def _writes_of_a_search(source: dict[str, Any], tmp_path: Path, finish: Any) -> int:
    database = MortalStorage()
    database.left = 10**6
    Driver(of_of(source), LocalFolder(tmp_path / "whole"), database, finish, slots=2).run()
    return 10**6 - int(database.left)


@pytest.mark.slow
def test_a_kill_between_any_two_writes_loses_and_doubles_nothing(
    one_price: dict[str, Any], tmp_path: Path, finish_trial: Callable[..., None]
) -> None:
    one_price["tune"]["budget"] = "40s"
    whole = _writes_of_a_search(one_price, tmp_path, finish_trial)
    for kill in range(whole):
        folder = LocalFolder(tmp_path / f"killed-{kill}")
        drivers = _after_kills(one_price, folder, MortalStorage(), finish_trial, [kill])
        assert len(drivers) == 2
        _nothing_lost_or_doubled(drivers)


@pytest.mark.slow
@given(kills=st.lists(st.integers(0, 60), min_size=1, max_size=6))
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_row_of_kills_loses_and_doubles_nothing_in_a_real_database(
    one_price: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
    empty_optuna: Path,
    finish_trial: Callable[..., None],
    kills: list[int],
) -> None:
    one_price["tune"]["budget"] = "40s"
    folder = tmp_path_factory.mktemp("killed")
    database = MortalDatabase(f"sqlite:///{shutil.copy(empty_optuna, folder / 'optuna.db')}")
    drivers = _after_kills(one_price, LocalFolder(folder / "tiny"), database, finish_trial, kills)
    _nothing_lost_or_doubled(drivers)


def test_dead_trials_are_failed_and_go_on_first(
    one_price: dict[str, Any], driver: MakeDriver
) -> None:
    one_price["methods"][1]["lam"] = 1
    first = driver(one_price, slots=3)
    first.start()
    first.ask()
    first.end()
    dead = [first.ask() for _ in range(3)]
    again = driver(one_price, slots=3)
    again.start()
    assert again.left.died == 3
    states = Counter(trial.state for trial in again.study.trials)
    assert states == {TrialState.COMPLETE: 1, TrialState.FAIL: 3}
    assert [trial.state for trial in again.found().trials] == ["done", "died", "died", "died"]
    taken = [again.ask() for _ in range(3)]
    assert [t.run_key for t in taken if t] == [t.run_key for t in dead if t]
    assert [trial.number for trial in again.study.trials if trial.state == TrialState.RUNNING] == [
        4,
        5,
        6,
    ]


def test_a_trial_that_died_goes_on_though_its_budget_is_nearly_spent(
    one_price: dict[str, Any], driver: MakeDriver
) -> None:
    # two trials fit, and there are five settings of the study's own
    one_price["methods"][1]["lam"] = [0.3, 0.4, 0.5, 0.6, 0.7]
    first = driver(one_price, seconds=lambda trial: 45.0)
    first.start()
    first.ask()
    first.end()
    dead = first.ask()
    assert dead is not None
    epochs_of(first.folder, dead, 43.0)
    again = driver(one_price, seconds=lambda trial: 45.0)
    assert again.run() == "the budget is spent"
    assert again.begun == [dead.run_key], "it was let in, and no other has room"
    assert again.found().device_seconds == 90


def test_a_candidate_whose_driver_died_before_it_began_is_not_forgotten(
    one_price: dict[str, Any], driver: MakeDriver
) -> None:
    first = driver(one_price)
    first.start()
    first.study.ask(first.tuned.distributions())  # and no more
    first.study.enqueue_trial(first.tuned.starts()[1])
    again = driver(one_price)
    again.start()
    params = first.study.trials[0].params
    assert again.left == Left([params, *again.tuned.starts()], begun=0, died=1)
    again.run()
    states = Counter(trial.state for trial in again.found().trials)
    assert states == {"died": 1, "not run": 1, "done": 10}


@pytest.mark.parametrize("samplers", [("tpe", "nsga2"), ("nsga2", "tpe")])
def test_a_search_goes_on_with_another_sampler(
    one_price: dict[str, Any], driver: MakeDriver, samplers: tuple[str, str]
) -> None:
    for sampler, budget in zip(samplers, ("50s", "100s"), strict=True):
        one_price["tune"] |= {"sampler": sampler, "budget": budget}
        drive = driver(one_price)
        drive.run()
        assert len(drive.begun) == 5
    assert len(drive.found().done()) == 10


def test_a_search_that_goes_on_does_not_draw_what_it_has_drawn(
    one_price: dict[str, Any], driver: MakeDriver
) -> None:
    # a sampler of one and the same seed would suggest the first candidates again
    seen: set[str] = set()
    for seconds in range(30, 130, 10):
        one_price["tune"]["budget"] = f"{seconds}s"
        drive = driver(one_price)
        drive.run()
        seen |= set(drive.begun)
    assert len(seen) == 12
    assert [t.state for t in drive.found().trials] == ["done"] * 12


def test_the_second_tell_of_a_trial_changes_nothing_else(
    one_price: dict[str, Any], driver: MakeDriver, finish_trial: Callable[..., None]
) -> None:
    drive = driver(one_price)
    drive.start()
    trial = drive.ask()
    assert trial is not None
    finish_trial(drive.folder, trial, 0.6, 0.2, seconds=3.0)
    assert settle(drive.study, 0, trial, drive.folder, None) == TrialState.COMPLETE
    attrs = drive.study.trials[0].user_attrs
    assert attrs["device_seconds"] == 3.0
    assert json.loads(attrs["entry"])["lam"] == 0.4


def test_what_a_folder_tells_of_its_time(
    tmp_path: Path, one_price: dict[str, Any], finish_trial: Callable[..., None]
) -> None:
    folder = LocalFolder(tmp_path)
    tuned = of_of(one_price)
    (trial,) = planned_of(tuned.candidate(tuned.starts()[0]), folder)
    place = folder.sub(f"trials/{trial.run_key}")
    assert spent_seconds(place) == 0
    epochs_of(folder, trial, 4.5)
    assert spent_seconds(place) == 4.5
    diverge_of(folder, 7.0)(trial)
    assert spent_seconds(place) == 7.0
    # a record of an earlier version does not say
    write_sealed(place, "result.json", {"status": "diverged", "epoch": 2, "error": "nan"})
    assert spent_seconds(place) == 4.5
    finish_trial(folder, trial, seconds=9.0)
    assert spent_seconds(place) == 9.0
