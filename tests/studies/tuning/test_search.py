"""One method's search, driven by hand: its budget, its ends, and what a kill may leave.

Optuna's database and the folders of trials are real; a training is a folder that is written.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.storages import InMemoryStorage

from studies.planning.plan import PlannedTrial
from studies.storage.local import LocalFolder
from studies.tuning.ledger import costs
from tests.studies.tuning.searches import Driver, MakeDriver, of_of, planned_of

pytestmark = [
    # TPE's constant liar, which lets trials run side by side
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
]


def _lr(trial: PlannedTrial) -> float:
    return float(trial.job["config"]["train"]["lr"])


# the budget


def test_the_studys_own_settings_come_first_and_are_told_by_the_search(
    one_price: dict[str, Any], driver: MakeDriver
) -> None:
    drive = driver(one_price)
    assert drive.run() == "the budget is spent"
    found = drive.found()
    assert [trial.start for trial in found.trials] == [True, True] + [False] * 8
    assert [trial.entry["lam"] for trial in found.trials[:2]] == [0.4, 0.6]
    assert [trial.entry["train"]["lr"] for trial in found.trials[:2]] == [0.1, 0.1]
    assert len(found.started()) == 2


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("seconds", [7.0, 10.0, 34.0, 51.0, 100.0])
def test_a_budget_is_used_up_to_less_than_one_trial(
    one_price: dict[str, Any], driver: MakeDriver, slots: int, seconds: float
) -> None:
    drive = driver(one_price, slots=slots, seconds=lambda trial: seconds)
    assert drive.run() == "the budget is spent"
    spent = drive.found().device_seconds
    assert spent == len(drive.begun) * seconds
    assert spent <= 100
    assert 100 - spent < seconds


def test_a_trial_that_takes_longer_than_the_budget_is_the_only_one(
    one_price: dict[str, Any], driver: MakeDriver
) -> None:
    drive = driver(one_price, slots=2, seconds=lambda trial: 250.0)
    drive.run()
    assert len(drive.begun) == 1, "until it tells what a trial costs, the first runs alone"


@given(seed=st.integers(0, 10**6), slots=st.integers(1, 4))
@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_methods_spend_alike_whatever_their_trials_cost(
    one_price: dict[str, Any],
    finish_trial: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    slots: int,
) -> None:
    one_price["methods"] = [{"name": "pgd_at", "lam": [0, 0.5, 1]}, {"name": "trades", "beta": 1}]
    spent = {}
    dearest = 0.0
    for method, price in (("pgd_at", 0.01), ("trades", 0.013)):
        draw = np.random.default_rng(seed)
        drive = Driver(
            of_of(one_price, method),
            LocalFolder(tmp_path_factory.mktemp("spent")),
            InMemoryStorage(),
            finish_trial,
            slots=slots,
        )
        units: dict[str, float] = {}

        def seconds(
            trial: PlannedTrial,
            price: float = price,
            draw: Any = draw,
            units: dict[str, float] = units,
        ) -> float:
            units[trial.run_key] = price * trial.units * draw.uniform(0.95, 1.05)
            return units[trial.run_key]

        drive.seconds = seconds
        drive.run()
        spent[method] = drive.found().device_seconds
        dearest = max(dearest, *units.values())
        assert spent[method] == pytest.approx(sum(units.values()))
    # clocks differ by a tenth here, and so may the guess of what is left
    assert abs(spent["pgd_at"] - spent["trades"]) < 1.2 * dearest
    assert max(spent.values()) < 100 + dearest


def test_trials_run_side_by_side_as_far_as_there_is_room_and_money(
    one_price: dict[str, Any], driver: MakeDriver
) -> None:
    one_price["methods"][1]["lam"] = 1
    drive = driver(one_price, slots=3)
    drive.start()
    assert drive.ask() is not None
    assert drive.ask() is None, "the first runs alone"
    drive.end()
    assert [drive.ask() is not None for _ in range(5)] == [True, True, True, False, False]
    for _ in range(3):
        drive.end()
    # 60 s are left: six trials of 10 s
    while drive.running or drive.ask():
        while drive.ask():
            pass
        drive.end()
    assert len(drive.begun) == 10


def test_a_speed_that_is_known_lets_the_first_run_beside_others(
    one_price: dict[str, Any], driver: MakeDriver
) -> None:
    one_price["methods"][1]["lam"] = 1
    units = of_of(one_price).dearest_units()
    drive = driver(one_price, slots=3, speed=40 / units)
    drive.start()
    assert [drive.ask() is not None for _ in range(4)] == [True, True, False, False]


def test_a_running_trial_tells_by_its_epochs_what_it_will_cost(
    one_price: dict[str, Any], driver: MakeDriver
) -> None:
    one_price["methods"][1]["lam"] = 1
    one_price["train"]["epochs"] = 10
    drive = driver(one_price, slots=3)
    drive.start()
    trial = drive.ask()
    assert trial is not None
    report = {"kind": "epoch", "epoch": 2, "epochs": 10, "device_seconds": 8.0}
    drive.search.on_trial_result("trial0", {"kind": "start"})
    assert drive.ask() is None
    drive.search.on_trial_result("trial0", report)  # 40 s in all: one more may run beside it
    assert drive.ask() is not None
    assert drive.ask() is None
    drive.search.on_trial_result("unknown", report)


def test_a_trial_that_was_trained_before_is_taken_as_it_is_and_counts(
    one_price: dict[str, Any], driver: MakeDriver, finish_trial: Callable[..., None]
) -> None:
    drive = driver(one_price)
    drive.start()
    first, second = (
        trial
        for start in drive.tuned.starts()
        for trial in planned_of(drive.tuned.candidate(start), drive.folder)
    )
    finish_trial(drive.folder, first, 0.9, 0.2, seconds=40.0)
    trial = drive.ask()
    assert trial is not None
    assert trial.run_key == second.run_key
    assert costs(drive.study, drive.folder) == {first.run_key: 40.0, second.run_key: 0.0}
    drive.end()
    done = drive.found().done()[0]
    assert (done.run_key, done.sa, done.device_seconds) == (first.run_key, 0.9, 40.0)


def test_a_raised_budget_goes_on_where_the_smaller_has_ended(
    one_price: dict[str, Any], driver: MakeDriver
) -> None:
    first = driver(one_price)
    first.run()
    again = driver(one_price)
    assert again.run() == "the budget is spent"
    assert again.begun == [], "a second time does nothing"
    assert len(again.study.trials) == 10
    one_price["tune"]["budget"] = "145s"
    more = driver(one_price)
    more.run()
    assert len(more.begun) == 4
    assert not set(more.begun) & set(first.begun)


# the ends of a search


def test_a_search_ends_when_every_candidate_has_been_tried(
    one_price: dict[str, Any], driver: MakeDriver
) -> None:
    one_price["tune"]["space"] = {"train": {"lr": {"choices": [0.1, 0.2, 0.4]}}}
    drive = driver(one_price, slots=4)
    assert drive.run() == "every candidate has been tried"
    assert len(drive.begun) == len(set(drive.begun)) == 6
    again = driver(one_price)
    assert again.run() == "every candidate has been tried"
    assert again.begun == []


def test_a_search_ends_when_nothing_but_repeats_is_suggested(
    one_price: dict[str, Any], driver: MakeDriver
) -> None:
    # of four, two do not go together with the checkpoints of the study
    one_price["train"]["ema"] = 0.9
    one_price["evaluate"]["checkpoints"] = ["averaged"]
    one_price["methods"][1]["lam"] = 1
    one_price["tune"]["space"] = {
        "train": {"ema": {"choices": [0.9, None]}, "lr": {"choices": [0.1, 0.2]}}
    }
    drive = driver(one_price)
    assert drive.run() == "every candidate has been tried"
    assert len(drive.begun) == 2
    refused = [trial for trial in drive.found().trials if trial.state == "not run"]
    assert any("needs `train.ema`" in trial.reason for trial in refused)
    assert any(trial.reason.startswith("the same as trial") for trial in refused)
    assert sum(costs(drive.study, drive.folder).values()) == 20
