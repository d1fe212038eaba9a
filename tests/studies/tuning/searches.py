"""What the tests of search share."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
from ray.tune.search import Searcher

from studies.planning.expand import make_plan
from studies.planning.plan import PlannedTrial
from studies.storage.local import LocalFolder
from studies.storage.sealed import write_lines, write_sealed
from studies.study_file.loading import load_study
from studies.tuning.candidates import Tunable, tuned_methods
from studies.tuning.database import open_search
from studies.tuning.ledger import read_search, take_up
from studies.tuning.search import MethodSearch
from studies.tuning.winners import Search

Accuracy = Callable[[PlannedTrial], tuple[float, float]]

Seconds = Callable[[PlannedTrial], float]


def of_of(source: dict[str, Any], method: str = "pgd_at") -> Tunable:
    return {tuned.block.name: tuned for tuned in tuned_methods(load_study(source))}[method]


def accuracy_of(trial: PlannedTrial) -> tuple[float, float]:
    """Make up a trade-off that has its best learning rate at 0.1."""
    config = trial.job["config"]
    lam = config["method"].get("lam", 0.5)
    off = abs(np.log10(config["train"]["lr"]) + 1) / 10
    return 0.9 - 0.3 * lam - off, 0.2 + 0.4 * lam - off


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
    accuracy: Accuracy = accuracy_of
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


def epochs_of(folder: LocalFolder, trial: PlannedTrial, seconds: float, epoch: int = 1) -> None:
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


def planned_of(study: Any, folder: LocalFolder) -> tuple[PlannedTrial, ...]:
    return make_plan(study, folder, "val").trials


def diverge_of(folder: LocalFolder, seconds: float = 10.0) -> Callable[[PlannedTrial], None]:
    def diverge(trial: PlannedTrial) -> None:
        place = folder.sub(f"trials/{trial.run_key}")
        record = {"status": "diverged", "epoch": 1, "error": "The training loss is nan in epoch 1."}
        write_sealed(place, "result.json", {**record, "device_seconds": seconds})

    return diverge
