"""One method's search, driven by hand: its budget, its ends, and what a kill may leave.

Optuna's database and the folders of trials are real; a training is a folder that is written.
"""

import itertools
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.trial import TrialState
from ray.tune.search import Searcher

from studies.planning.expand import make_plan
from studies.planning.plan import PlannedTrial
from studies.storage.local import LocalFolder
from studies.storage.sealed import write_lines, write_sealed
from studies.study_file.loading import load_study
from studies.tuning.candidates import Tunable, tuned_methods
from studies.tuning.database import open_search
from studies.tuning.ledger import Left, costs, read_search, settle, spent_seconds, take_up
from studies.tuning.search import FAILURES_IN_A_ROW, MethodSearch
from studies.tuning.winners import Search

pytestmark = [
    # TPE's constant liar, which lets trials run side by side
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
]

Accuracy = Callable[[PlannedTrial], tuple[float, float]]
Seconds = Callable[[PlannedTrial], float]


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture
def tunable(tunable: dict[str, Any]) -> dict[str, Any]:
    """The tunable study with dedicated models of one price: at λ = 0 and 1 there is less to do."""
    tunable["methods"][1]["lam"] = [0.4, 0.6]
    return tunable


@pytest.fixture(scope="session")
def empty_optuna(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database of Optuna, whose making takes a second."""
    path = tmp_path_factory.mktemp("optuna") / "optuna.db"
    RDBStorage(f"sqlite:///{path}")
    return path


def _of(source: dict[str, Any], method: str = "pgd_at") -> Tunable:
    return {tuned.block.name: tuned for tuned in tuned_methods(load_study(source))}[method]


def _accuracy(trial: PlannedTrial) -> tuple[float, float]:
    """Make up a trade-off that has its best learning rate at 0.1."""
    config = trial.job["config"]
    lam = config["method"].get("lam", 0.5)
    off = abs(np.log10(config["train"]["lr"]) + 1) / 10
    return 0.9 - 0.3 * lam - off, 0.2 + 0.4 * lam - off


class KilledError(BaseException):
    """The driver is killed."""


@dataclass
class Driver:
    """Does what Tune does with a search: asks, runs, and tells what has ended."""

    tuned: Tunable
    folder: LocalFolder
    database: optuna.storages.BaseStorage
    finish: Callable[..., None]
    slots: int = 1
    speed: float | None = None
    seconds: Seconds = lambda trial: 10.0
    accuracy: Accuracy = _accuracy
    begun: list[str] = field(default_factory=list)
    running: dict[str, PlannedTrial] = field(default_factory=dict)
    most: int = 0
    names: Iterator[int] = field(default_factory=itertools.count)

    def start(self) -> None:
        self.study = open_search(self.tuned, self.database, "sqlite://")
        self.left = take_up(self.study, self.tuned)
        self.search = MethodSearch(
            self.tuned,
            self.folder,
            self.database,
            lambda trial: {"planned": trial},
            self.left,
            seconds_per_unit=self.speed,
            slots=self.slots,
            begun=lambda trial: self.begun.append(trial.run_key),
        )

    def ask(self) -> PlannedTrial | None:
        """Ask once; None is to wait, or that there is no more."""
        name = f"trial{next(self.names)}"
        asked = self.search.suggest(name)
        if asked is None or asked == Searcher.FINISHED:
            assert asked is not None or self.running, "nothing runs, and nothing is to run"
            return None
        assert isinstance(asked, dict)
        self.running[name] = asked["trial"]["planned"]
        self.most = max(self.most, len(self.running))
        return self.running[name]

    def end(self, how: Callable[[PlannedTrial], None] | None = None, error: bool = False) -> None:
        """End the trial that began first."""
        name, trial = next(iter(self.running.items()))
        if how is not None:
            how(trial)
        elif not error:
            self.finish(self.folder, trial, *self.accuracy(trial), seconds=self.seconds(trial))
        del self.running[name]
        self.search.on_trial_complete(name, {}, error)

    def run(self) -> str:
        """Go on until the search has ended, and return why."""
        self.start()
        while True:
            while self.ask() is not None:
                pass
            if not self.running:
                return self.search.why_ended
            self.end()

    def found(self) -> Search:
        return read_search(self.tuned, self.study, self.folder, self.search.why_ended)


MakeDriver = Callable[..., Driver]


@pytest.fixture
def driver(tmp_path: Path, empty_optuna: Path, finish_trial: Callable[..., None]) -> MakeDriver:
    """Make a driver of a study's search in one and the same storage."""

    def make(source: dict[str, Any], method: str = "pgd_at", **options: Any) -> Driver:
        path = tmp_path / "optuna.db"
        if not path.exists():
            shutil.copy(empty_optuna, path)
        folder = LocalFolder(tmp_path / "tiny")
        return Driver(
            _of(source, method), folder, RDBStorage(f"sqlite:///{path}"), finish_trial, **options
        )

    return make


def _epochs(folder: LocalFolder, trial: PlannedTrial, seconds: float, epoch: int = 1) -> None:
    """Write what a training has done that goes on."""
    record = {
        "epoch": epoch,
        "train_loss": 1.0,
        "lr": 0.1,
        "sa_val": 0.5,
        "ra_val": 0.3,
        "images_per_second": 100.0,
        "device_seconds": seconds,
    }
    write_lines(folder.sub(f"trials/{trial.run_key}"), "epochs.jsonl", [record])


def _lr(trial: PlannedTrial) -> float:
    return float(trial.job["config"]["train"]["lr"])


# the budget


def test_the_studys_own_settings_come_first_and_are_told_by_the_search(
    tunable: dict[str, Any], driver: MakeDriver
) -> None:
    drive = driver(tunable)
    assert drive.run() == "the budget is spent"
    found = drive.found()
    assert [trial.start for trial in found.trials] == [True, True] + [False] * 8
    assert [trial.entry["lam"] for trial in found.trials[:2]] == [0.4, 0.6]
    assert [trial.entry["train"]["lr"] for trial in found.trials[:2]] == [0.1, 0.1]
    assert len(found.started()) == 2


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("seconds", [7.0, 10.0, 34.0, 51.0, 100.0])
def test_a_budget_is_used_up_to_less_than_one_trial(
    tunable: dict[str, Any], driver: MakeDriver, slots: int, seconds: float
) -> None:
    drive = driver(tunable, slots=slots, seconds=lambda trial: seconds)
    assert drive.run() == "the budget is spent"
    spent = drive.found().device_seconds
    assert spent == len(drive.begun) * seconds
    assert spent <= 100
    assert 100 - spent < seconds


def test_a_trial_that_takes_longer_than_the_budget_is_the_only_one(
    tunable: dict[str, Any], driver: MakeDriver
) -> None:
    drive = driver(tunable, slots=2, seconds=lambda trial: 250.0)
    drive.run()
    assert len(drive.begun) == 1, "until it tells what a trial costs, the first runs alone"


@given(seed=st.integers(0, 10**6), slots=st.integers(1, 4))
@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_methods_spend_alike_whatever_their_trials_cost(
    tunable: dict[str, Any],
    finish_trial: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    slots: int,
) -> None:
    tunable["methods"] = [{"name": "pgd_at", "lam": [0, 0.5, 1]}, {"name": "trades", "beta": 1}]
    spent = {}
    dearest = 0.0
    for method, price in (("pgd_at", 0.01), ("trades", 0.013)):
        draw = np.random.default_rng(seed)
        drive = Driver(
            _of(tunable, method),
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
    tunable: dict[str, Any], driver: MakeDriver
) -> None:
    tunable["methods"][1]["lam"] = 1
    drive = driver(tunable, slots=3)
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
    tunable: dict[str, Any], driver: MakeDriver
) -> None:
    tunable["methods"][1]["lam"] = 1
    units = _of(tunable).dearest_units()
    drive = driver(tunable, slots=3, speed=40 / units)
    drive.start()
    assert [drive.ask() is not None for _ in range(4)] == [True, True, False, False]


def test_a_running_trial_tells_by_its_epochs_what_it_will_cost(
    tunable: dict[str, Any], driver: MakeDriver
) -> None:
    tunable["methods"][1]["lam"] = 1
    tunable["train"]["epochs"] = 10
    drive = driver(tunable, slots=3)
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
    tunable: dict[str, Any], driver: MakeDriver, finish_trial: Callable[..., None]
) -> None:
    drive = driver(tunable)
    drive.start()
    first, second = (
        trial
        for start in drive.tuned.starts()
        for trial in _planned(drive.tuned.candidate(start), drive.folder)
    )
    finish_trial(drive.folder, first, 0.9, 0.2, seconds=40.0)
    trial = drive.ask()
    assert trial is not None
    assert trial.run_key == second.run_key
    assert costs(drive.study, drive.folder) == {first.run_key: 40.0, second.run_key: 0.0}
    drive.end()
    done = drive.found().done()[0]
    assert (done.run_key, done.sa, done.device_seconds) == (first.run_key, 0.9, 40.0)


def _planned(study: Any, folder: LocalFolder) -> tuple[PlannedTrial, ...]:
    return make_plan(study, folder, "val").trials


def test_a_raised_budget_goes_on_where_the_smaller_has_ended(
    tunable: dict[str, Any], driver: MakeDriver
) -> None:
    first = driver(tunable)
    first.run()
    again = driver(tunable)
    assert again.run() == "the budget is spent"
    assert again.begun == [], "a second time does nothing"
    assert len(again.study.trials) == 10
    tunable["tune"]["budget"] = "145s"
    more = driver(tunable)
    more.run()
    assert len(more.begun) == 4
    assert not set(more.begun) & set(first.begun)


# the ends of a search


def test_a_search_ends_when_every_candidate_has_been_tried(
    tunable: dict[str, Any], driver: MakeDriver
) -> None:
    tunable["tune"]["space"] = {"train": {"lr": {"choices": [0.1, 0.2, 0.4]}}}
    drive = driver(tunable, slots=4)
    assert drive.run() == "every candidate has been tried"
    assert len(drive.begun) == len(set(drive.begun)) == 6
    again = driver(tunable)
    assert again.run() == "every candidate has been tried"
    assert again.begun == []


def test_a_search_ends_when_nothing_but_repeats_is_suggested(
    tunable: dict[str, Any], driver: MakeDriver
) -> None:
    # of four, two do not go together with the checkpoints of the study
    tunable["train"]["ema"] = 0.9
    tunable["evaluate"]["checkpoints"] = ["averaged"]
    tunable["methods"][1]["lam"] = 1
    tunable["tune"]["space"] = {
        "train": {"ema": {"choices": [0.9, None]}, "lr": {"choices": [0.1, 0.2]}}
    }
    drive = driver(tunable)
    assert drive.run() == "every candidate has been tried"
    assert len(drive.begun) == 2
    refused = [trial for trial in drive.found().trials if trial.state == "not run"]
    assert any("needs `train.ema`" in trial.reason for trial in refused)
    assert any(trial.reason.startswith("the same as trial") for trial in refused)
    assert sum(costs(drive.study, drive.folder).values()) == 20


def _fail(folder: LocalFolder) -> Callable[[PlannedTrial], None]:
    def fail(trial: PlannedTrial) -> None:
        place = folder.sub(f"trials/{trial.run_key}")
        record = {"status": "failed", "kind": "out_of_memory", "error": "MemoryError: none left"}
        write_sealed(place, "failure.json", {**record, "traceback": ""})

    return fail


def _diverge(folder: LocalFolder, seconds: float = 10.0) -> Callable[[PlannedTrial], None]:
    def diverge(trial: PlannedTrial) -> None:
        place = folder.sub(f"trials/{trial.run_key}")
        record = {"status": "diverged", "epoch": 1, "error": "The training loss is nan in epoch 1."}
        write_sealed(place, "result.json", {**record, "device_seconds": seconds})

    return diverge


def test_a_search_gives_up_after_failures_in_a_row_and_tries_them_again_next_time(
    tunable: dict[str, Any], driver: MakeDriver
) -> None:
    drive = driver(tunable)
    drive.start()
    for _ in range(FAILURES_IN_A_ROW):
        assert drive.ask() is not None
        drive.end(_fail(drive.folder))
    assert drive.ask() is None
    assert drive.search.why_ended == "5 trials failed one after another"
    found = drive.found()
    assert {trial.state for trial in found.trials} == {"failed"}
    assert "none left" in found.trials[0].reason
    assert found.winners == []
    again = driver(tunable)
    again.run()
    assert again.begun[:5] == drive.begun, "their candidates come first"
    assert len(again.begun) == len(set(again.begun)) == 10


def test_a_failure_between_others_ends_nothing(tunable: dict[str, Any], driver: MakeDriver) -> None:
    drive = driver(tunable)
    drive.start()
    for turn in range(8):
        if drive.ask() is None:
            break
        drive.end(_fail(drive.folder) if turn % 2 else None)
    assert drive.search.why_ended == ""


def test_a_worker_that_was_lost_for_good_fails_its_trial(
    tunable: dict[str, Any], driver: MakeDriver
) -> None:
    drive = driver(tunable)
    drive.start()
    drive.ask()
    drive.end(error=True)
    (trial,) = drive.found().trials
    assert (trial.state, trial.reason) == ("failed", "its worker was lost again and again")


def test_a_trial_that_finished_and_was_lost_after_it_is_done(
    tunable: dict[str, Any], driver: MakeDriver, finish_trial: Callable[..., None]
) -> None:
    drive = driver(tunable)
    drive.start()
    drive.ask()
    drive.end(lambda trial: finish_trial(drive.folder, trial, 0.7, 0.3), error=True)
    (trial,) = drive.found().trials
    assert (trial.state, trial.sa, trial.ra) == ("done", 0.7, 0.3)


def test_diverged_trials_are_of_no_use_and_cost_what_they_took(
    tunable: dict[str, Any], driver: MakeDriver
) -> None:
    drive = driver(tunable)
    drive.start()
    while drive.ask() is not None:
        drive.end(_diverge(drive.folder))
    # every training diverges in its first epoch: the search must end all the same
    assert drive.search.why_ended == "the budget is spent"
    assert len(drive.begun) == 10
    assert drive.study.trials[0].values == [0.0, 0.0]
    found = drive.found()
    assert {trial.state for trial in found.trials} == {"diverged"}
    assert found.device_seconds == 100
    assert found.winners == []
    assert "the study's own settings stay" in found.notes[0]
    assert driver(tunable).run() == "the budget is spent"


def test_what_diverged_early_does_not_pass_for_a_cheap_trial(
    tunable: dict[str, Any], driver: MakeDriver
) -> None:
    tunable["methods"][1]["lam"] = 1
    drive = driver(tunable, slots=4, seconds=lambda trial: 60.0)
    drive.start()
    drive.ask()
    drive.end()
    assert drive.ask() is None, "40 s are left, and a trial takes 60"
    tunable["tune"]["budget"] = "130s"
    drive = driver(tunable, slots=4)
    drive.start()
    drive.ask()
    drive.end(_diverge(drive.folder, 2.0))
    drive.ask()
    assert drive.ask() is None


def test_a_trial_that_was_stopped_early_is_pruned_and_not_tried_again(
    tunable: dict[str, Any], driver: MakeDriver
) -> None:
    tunable["tune"]["early_stopping"] = {"slack": 0.0}
    drive = driver(tunable)
    drive.start()
    drive.ask()
    drive.end(lambda trial: _epochs(drive.folder, trial, 4.0))
    (trial,) = drive.study.trials
    assert trial.state == TrialState.PRUNED
    (trial,) = drive.found().trials
    assert (trial.state, trial.device_seconds) == ("stopped early", 4.0)
    again = driver(tunable)
    again.run()
    assert drive.begun[0] not in again.begun
    assert again.found().device_seconds == 94
    (note,) = again.found().notes
    assert "1 of 2 were finished" in note, "what tuning gained is not known without the start"


def test_points_that_do_not_agree_with_their_images_are_a_failure(
    tunable: dict[str, Any], driver: MakeDriver, finish_trial: Callable[..., None]
) -> None:
    drive = driver(tunable)
    drive.start()

    def damaged(trial: PlannedTrial) -> None:
        finish_trial(drive.folder, trial)
        drive.folder.sub(f"trials/{trial.run_key}").write("points.jsonl", b"")

    drive.ask()
    drive.end(damaged)
    (trial,) = drive.found().trials
    assert (trial.state, trial.reason) == ("failed", "its points are damaged")


def test_values_are_the_mean_over_the_points_of_a_once_for_all_network(
    tunable: dict[str, Any], driver: MakeDriver, finish_trial: Callable[..., None]
) -> None:
    drive = driver(tunable, "oat")
    drive.start()
    trial = drive.ask()
    assert trial is not None
    drive.end(lambda trial: finish_trial(drive.folder, trial, 0.85, 0.35))
    (told,) = drive.study.trials
    assert told.values == [0.85, 0.35]
    (found,) = drive.found().trials
    assert [(point["lam"], point["sa"]) for point in found.points] == [(0.0, 0.85), (1.0, 0.85)]


def test_optunas_front_is_that_of_the_points(tunable: dict[str, Any], driver: MakeDriver) -> None:
    drive = driver(tunable)
    drive.run()
    found = drive.found()
    best = {trial.number for trial in drive.study.best_trials}
    assert {trial.number for trial in found.won()} == best
    assert len(found.winners) == len(set(found.winners))


def test_methods_with_unequal_resources_have_no_equal_budget_and_it_is_said(
    tunable: dict[str, Any], driver: MakeDriver
) -> None:
    drive = driver(tunable)
    drive.run()
    assert drive.found().notes == []
    tunable["methods"][0]["resources"] = {"cpu": 4}
    for method, cpus in (("oat", 4), ("trades", 1)):
        drive = driver(tunable, method)
        drive.run()
        (note,) = drive.found().notes
        assert note.startswith(f"a second of its training is one of {cpus} CPU and 0 GPU;")


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
        drive = Driver(_of(source), folder, database, finish, slots=2)
        drivers.append(drive)
        try:
            drive.run()
            break
        except KilledError:
            for trial in drive.running.values():  # its workers died with it, half-way
                if not folder.sub(f"trials/{trial.run_key}").size("result.json"):
                    _epochs(folder, trial, 5.0)
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
    Driver(_of(source), LocalFolder(tmp_path / "whole"), database, finish, slots=2).run()
    return 10**6 - int(database.left)


@pytest.mark.slow
def test_a_kill_between_any_two_writes_loses_and_doubles_nothing(
    tunable: dict[str, Any], tmp_path: Path, finish_trial: Callable[..., None]
) -> None:
    tunable["tune"]["budget"] = "40s"
    whole = _writes_of_a_search(tunable, tmp_path, finish_trial)
    for kill in range(whole):
        folder = LocalFolder(tmp_path / f"killed-{kill}")
        drivers = _after_kills(tunable, folder, MortalStorage(), finish_trial, [kill])
        assert len(drivers) == 2
        _nothing_lost_or_doubled(drivers)


@pytest.mark.slow
@given(kills=st.lists(st.integers(0, 60), min_size=1, max_size=6))
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_row_of_kills_loses_and_doubles_nothing_in_a_real_database(
    tunable: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
    empty_optuna: Path,
    finish_trial: Callable[..., None],
    kills: list[int],
) -> None:
    tunable["tune"]["budget"] = "40s"
    folder = tmp_path_factory.mktemp("killed")
    database = MortalDatabase(f"sqlite:///{shutil.copy(empty_optuna, folder / 'optuna.db')}")
    drivers = _after_kills(tunable, LocalFolder(folder / "tiny"), database, finish_trial, kills)
    _nothing_lost_or_doubled(drivers)


def test_dead_trials_are_failed_and_go_on_first(
    tunable: dict[str, Any], driver: MakeDriver
) -> None:
    tunable["methods"][1]["lam"] = 1
    first = driver(tunable, slots=3)
    first.start()
    first.ask()
    first.end()
    dead = [first.ask() for _ in range(3)]
    again = driver(tunable, slots=3)
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
    tunable: dict[str, Any], driver: MakeDriver
) -> None:
    # two trials fit, and there are five settings of the study's own
    tunable["methods"][1]["lam"] = [0.3, 0.4, 0.5, 0.6, 0.7]
    first = driver(tunable, seconds=lambda trial: 45.0)
    first.start()
    first.ask()
    first.end()
    dead = first.ask()
    assert dead is not None
    _epochs(first.folder, dead, 43.0)
    again = driver(tunable, seconds=lambda trial: 45.0)
    assert again.run() == "the budget is spent"
    assert again.begun == [dead.run_key], "it was let in, and no other has room"
    assert again.found().device_seconds == 90


def test_a_candidate_whose_driver_died_before_it_began_is_not_forgotten(
    tunable: dict[str, Any], driver: MakeDriver
) -> None:
    first = driver(tunable)
    first.start()
    first.study.ask(first.tuned.distributions())  # and no more
    first.study.enqueue_trial(first.tuned.starts()[1])
    again = driver(tunable)
    again.start()
    params = first.study.trials[0].params
    assert again.left == Left([params, *again.tuned.starts()], begun=0, died=1)
    again.run()
    states = Counter(trial.state for trial in again.found().trials)
    assert states == {"died": 1, "not run": 1, "done": 10}


@pytest.mark.parametrize("samplers", [("tpe", "nsga2"), ("nsga2", "tpe")])
def test_a_search_goes_on_with_another_sampler(
    tunable: dict[str, Any], driver: MakeDriver, samplers: tuple[str, str]
) -> None:
    for sampler, budget in zip(samplers, ("50s", "100s"), strict=True):
        tunable["tune"] |= {"sampler": sampler, "budget": budget}
        drive = driver(tunable)
        drive.run()
        assert len(drive.begun) == 5
    assert len(drive.found().done()) == 10


def test_a_search_that_goes_on_does_not_draw_what_it_has_drawn(
    tunable: dict[str, Any], driver: MakeDriver
) -> None:
    # a sampler of one and the same seed would suggest the first candidates again
    seen: set[str] = set()
    for seconds in range(30, 130, 10):
        tunable["tune"]["budget"] = f"{seconds}s"
        drive = driver(tunable)
        drive.run()
        seen |= set(drive.begun)
    assert len(seen) == 12
    assert [t.state for t in drive.found().trials] == ["done"] * 12


def test_the_second_tell_of_a_trial_changes_nothing_else(
    tunable: dict[str, Any], driver: MakeDriver, finish_trial: Callable[..., None]
) -> None:
    drive = driver(tunable)
    drive.start()
    trial = drive.ask()
    assert trial is not None
    finish_trial(drive.folder, trial, 0.6, 0.2, seconds=3.0)
    assert settle(drive.study, 0, trial, drive.folder, None) == TrialState.COMPLETE
    attrs = drive.study.trials[0].user_attrs
    assert attrs["device_seconds"] == 3.0
    assert json.loads(attrs["entry"])["lam"] == 0.4


def test_what_a_folder_tells_of_its_time(
    tmp_path: Path, tunable: dict[str, Any], finish_trial: Callable[..., None]
) -> None:
    folder = LocalFolder(tmp_path)
    tuned = _of(tunable)
    (trial,) = _planned(tuned.candidate(tuned.starts()[0]), folder)
    place = folder.sub(f"trials/{trial.run_key}")
    assert spent_seconds(place) == 0
    _epochs(folder, trial, 4.5)
    assert spent_seconds(place) == 4.5
    _diverge(folder, 7.0)(trial)
    assert spent_seconds(place) == 7.0
    # a record of an earlier version does not say
    write_sealed(place, "result.json", {"status": "diverged", "epoch": 2, "error": "nan"})
    assert spent_seconds(place) == 4.5
    finish_trial(folder, trial, seconds=9.0)
    assert spent_seconds(place) == 9.0
