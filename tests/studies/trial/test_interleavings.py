"""Any interleaving of crashes, restarts and faults ends with each key exactly once.

The plan, the trial, its checkpoints, records, claims and storage are the real ones. Workers are
threads of which one at a time runs, from one operation on storage to the next, so that hypothesis
decides their order and where each dies. A training and an attack are arithmetic on a few numbers,
which tell every epoch and every judgement apart.
"""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count
from pathlib import Path, PosixPath
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from torch import Tensor, nn

from oat.checkpoint import CheckpointError, loads
from oat.data import DataError, Split
from oat.evaluation import Correctness, Judged
from oat.masking import Checks
from oat.models import Cost
from oat.training import DivergenceError, EpochRecord, Kept
from studies.methods import describe
from studies.planning import expand as planning
from studies.planning.expand import make_plan
from studies.planning.plan import Plan
from studies.results.reading import read_trial
from studies.storage.local import LocalFolder
from studies.storage.sealed import ResultError, digest
from studies.study_file.loading import load_study
from studies.study_file.study import Study
from studies.trial import choosing, claims, judging
from studies.trial import run as trial
from studies.trial.checkpoints import SLOTS
from studies.trial.claims import CLAIM, ClaimedFolder, SupersededError
from studies.trial.records import (
    read_checks,
    read_epochs,
    read_points,
    read_result,
    read_weights,
    weights_file,
)
from studies.trial.run import run_trial

EPOCHS = 2
IMAGES = 8
"""Few, so that different networks often have the same accuracy on different images."""

ONCE = "oat lambda_choices=(0.0,0.5,1.0)"
DIVERGES = "trades β=2"
SOURCE: dict[str, Any] = {
    "name": "tiny",
    "data": {"name": "digits", "train_images": 16},
    "model": {"name": "resnet8", "width": 4},
    "train": {"epochs": EPOCHS, "batch_size": 16},
    "attack": {"eps": 0.1, "steps": 1},
    "methods": [
        {"name": "oat", "lambda_choices": [0, 0.5, 1]},
        {"name": "trades", "beta": [1, 2]},
    ],
    "evaluate": {
        "attacks": [{"name": "pgd", "steps": 1}],
        "checkpoints": ["last", "chosen"],
        "lams": [0, 1],
        "images": IMAGES,
        "masking_images": 4,
    },
}

WIDER = {
    "attack": "evaluate.attacks=[{name: pgd, steps: 1}, {name: pgd, steps: 2}]",
    "lam": "evaluate.lams=[0, 0.5, 1]",
    "trial": "methods=[{name: oat, lambda_choices: [0, 0.5, 1]}, {name: trades, beta: [1, 2]}, "
    "{name: pgd_at, lam: 1}]",
}
"""What may be added to the study, and left out again."""

AT_LAST = "evaluate.attacks=[{name: pgd, steps: 1}, {name: pgd, steps: 3}]"
"""One more attack, so that the weights of every trial are read."""

DATA = SimpleNamespace(
    train=Split(torch.zeros(16, 1, 8, 8), torch.zeros(16)),
    test=SimpleNamespace(head=lambda images: None),
    image_shape=(1, 8, 8),
    num_classes=10,
    fingerprint="none",
    to=lambda device: DATA,
)

Bits = np.ndarray[Any, Any]


@lru_cache
def _study(wider: frozenset[str], seeds: tuple[int, ...], at_last: bool = False) -> Study:
    overrides = [WIDER[name] for name in sorted(wider)] + [f"seeds={list(seeds)}"]
    return load_study(deepcopy(SOURCE), overrides + [AT_LAST] * at_last)


# Workers, one operation at a time


class Killed(BaseException):
    """Ends a worker where it stands; nothing in the project catches it."""


class Worker(threading.Thread):
    """Runs a call from one operation on storage to the next, whenever it is told to."""

    def __init__(self, run_key: str, call: Callable[[], dict[str, Any]]) -> None:
        super().__init__(daemon=True)
        self.run_key, self.call = run_key, call
        self.outcome: dict[str, Any] | None = None
        self.error: BaseException | None = None
        self.ended = self.dead = self.zombie = self.disturbed = False
        self.superseded: int | None = None
        """Operations begun since another worker has claimed the trial."""
        self.refusal: Exception | None = None
        self.at = ""
        """File that the operation it waits with is about to change."""
        self._go, self._parked = threading.Semaphore(0), threading.Semaphore(0)
        self.start()

    def run(self) -> None:
        self._go.acquire()
        try:
            if not self.dead:
                self.outcome = self.call()
        except BaseException as error:
            self.error = error
        self.ended = True
        self._parked.release()

    def step(self) -> None:
        """Run until the next operation, or the end."""
        self._go.release()
        self._parked.acquire()

    def pause(self) -> None:
        """Wait for one's turn, on the worker's own thread."""
        if not self.dead:
            self._parked.release()
            self._go.acquire()
        if self.dead:
            raise Killed
        if self.refusal is not None:
            error, self.refusal = self.refusal, None
            raise error

    def kill(self) -> None:
        """End it as ``kill -9`` would: what it has begun stays as it is."""
        self.dead = True
        if not self.ended:
            self.step()
        self.join()


def _turn(changes: str = "") -> Worker | None:
    """Let others go first; return whose turn it is, None for the test itself."""
    worker = threading.current_thread()
    if not isinstance(worker, Worker):
        return None
    worker.at = changes
    worker.pause()
    return worker


class Place(PosixPath):
    """A path at which a worker can die in the middle of a write."""

    def open(self, mode: str = "r", *args: Any, **named: Any) -> Any:  # type: ignore[override]
        file = super().open(mode, *args, **named)
        return Half(file) if "w" in mode else file

    def replace(self, target: Any) -> Any:
        """See `Path.replace`."""
        _turn()
        return super().replace(target)

    def unlink(self, missing_ok: bool = False) -> None:
        """See `Path.unlink`; the dead tidy up nothing."""
        worker = threading.current_thread()
        if not (isinstance(worker, Worker) and worker.dead):
            super().unlink(missing_ok)


class Half:
    """A file that is written in two halves."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, data: bytes) -> int:
        half = len(data) // 2
        self._file.write(data[:half])
        self._file.flush()
        _turn()
        self._file.write(data[half:])
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "Half":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class Disk(LocalFolder):
    """The real folder; a worker waits before each operation, and storage may refuse it."""

    def __init__(self, path: Path, world: "World") -> None:
        super().__init__(path)
        self.path, self.world = Place(path), world

    def sub(self, name: str) -> "Disk":
        return Disk(self.path / name, self.world)

    def _begin(self, changes: str = "") -> Worker | None:
        current = threading.current_thread()
        if isinstance(current, Worker) and current.superseded is not None:
            current.superseded += 1
        worker = _turn(changes)
        if self.world.away:
            raise OSError(5, "Input/output error")
        return worker

    def read(self, name: str) -> bytes:
        self._begin()
        return super().read(name)

    def size(self, name: str) -> int | None:
        self._begin()
        return super().size(name)

    def names(self) -> list[str]:
        self._begin()
        return super().names()

    def write(self, name: str, data: bytes) -> None:
        worker = self._begin(name)
        if self.world.full:
            raise OSError(28, "No space left on device")
        super().write(name, data)
        self.world.changed(worker, self.path.name, name)

    def remove(self, name: str) -> None:
        worker = self._begin(name)
        there = super().size(name) is not None
        super().remove(name)
        if there:
            self.world.changed(worker, self.path.name, name)


# What is computed, as arithmetic


class ModelTraining:
    """Stands in for `oat.training.Training`: its weights are the list of what made them.

    Two trainings of one config have different weights, as on a GPU.
    """

    world: "World"

    def __init__(
        self,
        method: Any,
        model: Any,
        dataset: Any,
        data: Any,
        train: Any,
        attack: Any,
        *,
        seed: int,
        execution: Any,
    ) -> None:
        self.name = describe(method)
        self.config, self.attack = train, attack
        self.device, self.model = torch.device("cpu"), nn.Linear(1, 1)
        self.epoch, self.device_seconds = 0, 0.0
        self.weights = [int(digest([self.name, seed]), 16), next(self.world.numbers)]

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "weights": self.weights, "seconds": self.device_seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._agrees_with_the_newest_checkpoint(state["epoch"])
        self.epoch, self.weights = state["epoch"], state["weights"]
        self.device_seconds = state["seconds"]

    def _agrees_with_the_newest_checkpoint(self, epoch: int) -> None:
        worker = threading.current_thread()
        assert isinstance(worker, Worker)
        if worker.superseded is None and not worker.disturbed:
            newest = _epochs_kept(self.world.folder(worker.run_key))[-1]
            assert epoch == newest, "an epoch is trained again, or the last is not kept"

    def epochs(self) -> Iterator[EpochRecord]:
        while self.epoch < self.config.epochs:
            self._agrees_with_the_newest_checkpoint(self.epoch)
            self.epoch += 1
            self.device_seconds += 1.0
            if self.name == DIVERGES and self.epoch == 2:
                raise DivergenceError(self.epoch, float("inf"), 0.0)
            self.weights = [*self.weights, self.epoch]
            yield EpochRecord(self.epoch, 1.0, 0.1, None, None, 1.0, self.device_seconds)

    def kept(self) -> dict[str, Kept]:
        chosen = self.weights if self.weights[1] % 2 else self.weights[:3]
        return {
            "last": Kept(self.epoch, {"weights": torch.tensor(self.weights)}),
            "chosen": Kept(len(chosen) - 2, {"weights": torch.tensor(chosen)}),
        }


def _bits(*what: Any) -> Bits:
    octets = hashlib.sha256(json.dumps(what).encode()).digest()
    return np.unpackbits(np.frombuffer(octets, np.uint8), count=IMAGES).astype(bool)


def _stage(weights: list[int], lam: float | None, steps: int, stage: int) -> str:
    return digest([weights, lam, steps, stage])


def _verdict(weights: list[int], lam: float | None, steps: int) -> tuple[Bits, Bits]:
    """Return which images are right, clean and under the attack."""
    clean = _bits(weights, lam)
    return clean, clean & _bits([_stage(weights, lam, steps, stage) for stage in (0, 1)])


def _evaluate_at(
    model: Tensor, point: Any, split: Any, attack: Any, *, progress: Any, **_: Any
) -> Judged:
    """Judge in two stages, and keep the first."""
    weights = model.tolist()
    stages = list(progress.read().get("stages", []))
    while len(stages) < 2:
        stages.append(_stage(weights, point.lam, attack.steps, len(stages)))
        progress.write({"stages": stages})
    clean = _bits(weights, point.lam)
    correct = Correctness(torch.tensor(clean), torch.tensor(clean & _bits(stages)))
    return Judged(point, attack, correct, 1, 1)


def _check_masking(model: tuple[Tensor, float | None], split: Any, eps: float, **_: Any) -> Checks:
    weights, lam = model
    accuracy = float(_bits(weights.tolist(), lam).mean())
    return Checks(IMAGES, accuracy, *[0.0] * (len(Checks.__dataclass_fields__) - 2))


def _rebuild(config: Any, method: Any, dataset: Any, weights: bytes) -> Tensor:
    from safetensors.torch import load as load_tensors

    return load_tensors(weights)["weights"]


# The model


@dataclass
class Known:
    """What a trial's folder has been seen to hold, and must hold from then on."""

    result: dict[str, Any] | None = None
    points: dict[str, tuple[float, float]] = field(default_factory=dict)
    epoch: int = 0
    spoiled: set[str] = field(default_factory=set)
    """Checkpoints that were damaged, and not written since."""
    doomed: bool = False
    """Whether a training must be made anew."""
    unsealed: set[str] = field(default_factory=set)
    """Damaged files without a digest, not written since."""

    def spoil(self, name: str) -> None:
        """Expect no more than what is left without a file."""
        if name in SLOTS:
            self.spoiled.add(name)
            self.epoch = 0 if len(self.spoiled) == len(SLOTS) else max(0, self.epoch - 1)
        elif name in {"points.jsonl", "correct.npz"}:
            self.points = {}
        elif name == "result.json" or name.endswith(".safetensors"):
            self.result, self.points, self.doomed = None, {}, True
        elif name == "trained.json" and self.result is None:
            self.doomed = True
        elif name in {"epochs.jsonl", "provenance.json"}:
            self.unsealed.add(name)


class World:
    """The storage of a study, the workers in it, and what is known of both."""

    def __init__(self, path: Path) -> None:
        self.full = self.away = self.no_data = False
        self.numbers = count()
        self.plain = LocalFolder(path / "tiny")
        self.disk = Disk(path / "tiny", self)
        self.workers: list[Worker] = []
        self.known: dict[str, Known] = {}
        self.stale: set[str] = set()
        """Run keys whose folder has changed since it was looked at."""

    @property
    def well(self) -> bool:
        return not (self.full or self.away or self.no_data)

    def heal(self) -> None:
        self.full = self.away = self.no_data = False

    def folder(self, run_key: str) -> LocalFolder:
        return self.plain.sub(f"trials/{run_key}")

    def changed(self, worker: Worker | None, run_key: str, name: str) -> None:
        """Note what a worker has done to a file."""
        known = self.known.setdefault(run_key, Known())
        self.stale.add(run_key)
        known.spoiled.discard(name)
        known.unsealed.discard(name)
        if worker is None:
            return
        if name == CLAIM:
            worker.superseded = None
            for other in self.workers:
                if other is not worker and other.run_key == run_key and other.superseded is None:
                    other.superseded = 0
        elif worker.superseded is not None:
            assert worker.superseded == 0, f"a superseded worker has changed '{name}'"
            worker.superseded = 1
            known.spoil(name)
            self.disturb(run_key)

    def disturb(self, run_key: str) -> None:
        for worker in self.workers:
            worker.disturbed |= worker.run_key == run_key

    def start(self, job: Any) -> Worker:
        """Start a worker on a trial, as `studies.cluster.worker.trainable` does."""
        place = self.disk.sub(f"trials/{job['run_key']}")

        def call() -> dict[str, Any]:
            return run_trial(job, ClaimedFolder(place), lambda record: None)

        worker = Worker(job["run_key"], call)
        self.workers.append(worker)
        return worker

    def advance(self, worker: Worker, steps: int) -> None:
        """Let a worker do some operations; what it says at its end must have a cause."""
        for _ in range(steps):
            if not worker.ended:
                worker.step()
        if not worker.ended:
            return
        self.workers.remove(worker)
        worker.join()
        if not isinstance(worker.error, None | OSError | SupersededError | Killed):
            raise worker.error
        if worker.outcome is not None and worker.outcome["status"] == "failed":
            causes = {"storage", "data"} | ({"error"} if worker.disturbed else set())
            assert worker.outcome["kind"] in causes, worker.outcome

    def look(self) -> None:
        """Check every folder that has changed."""
        for run_key in sorted(self.stale):
            self._look_at(run_key)
        self.stale.clear()

    def _look_at(self, run_key: str) -> None:
        folder, known = self.folder(run_key), self.known.setdefault(run_key, Known())
        try:
            result = read_result(folder)
            whole = result is not None and _weights_are_whole(folder, result)
        except ResultError:
            result, whole = None, False
        if known.result is not None:
            assert whole, "a finished result is lost"
            assert result == known.result, "a finished result is another one"
        if result is not None and whole:
            known.result = result
        kept = _epochs_kept(folder)
        epoch = kept[-1]
        known.doomed &= known.result is None and epoch > 0
        if known.result is None and not known.doomed:
            assert epoch >= known.epoch, "more than the epoch under way is lost"
            assert known.spoiled or epoch < 2 or kept[-2] == epoch - 1, "the one before is gone"
        known.epoch = 0 if known.doomed else epoch
        if result is None or result["status"] != "done":
            assert not known.points
            return
        rows = _sound_points(folder, result) if whole else {}
        for key, numbers in known.points.items():
            assert rows.get(key) == numbers, "a point is lost, or another one"
        known.points = rows


def _weights_are_whole(folder: LocalFolder, result: dict[str, Any]) -> bool:
    if result["status"] == "done":
        for kind in result["trained"]["weights"]:
            read_weights(folder, result["trained"], kind)
    return True


def _epochs_kept(folder: LocalFolder) -> list[int]:
    """Return the epochs of the sound checkpoints, the newest last; 0 stands for none."""
    epochs = [0]
    for slot in SLOTS:
        try:
            epochs.append(int(loads(folder.read(slot))["epoch"]))
        except (FileNotFoundError, CheckpointError):
            continue
    return sorted(epochs)


def _weights(folder: LocalFolder, kind: str) -> list[int]:
    weights: list[int] = _rebuild(None, None, None, folder.read(weights_file(kind))).tolist()
    return weights


def _sound_points(folder: LocalFolder, result: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Return the points that are counted, each of which must be what its weights give."""
    trained = result["trained"]
    for kind, made in trained["weights"].items():
        weights = _weights(folder, kind)
        assert weights[2:] == list(range(1, made["epoch"] + 1)), "an epoch counts twice, or never"
    rows, correct = read_points(folder, trained["training_id"])
    found = {}
    for row in rows:
        assert row["point_key"] not in found, "a point counts twice"
        steps = int(row["attack"].removeprefix("pgd"))
        lam = row["lam"] if row["method"] == "oat" else None
        clean, robust = _verdict(_weights(folder, row["checkpoint_rule"]), lam, steps)
        for name, bits in (("clean", clean), ("robust", robust)):
            stored = correct[f"{row['point_key']}.{name}"]
            assert (stored == bits).all(), "a point is of other weights"
        assert (row["sa"], row["ra"]) == (clean.mean(), robust.mean())
        found[row["point_key"]] = row["sa"], row["ra"]
    for check in read_checks(folder, trained["training_id"]):
        once = _weights(folder, "last")[0] in (int(digest([ONCE, i]), 16) for i in range(40))
        lam = check["lam"] if once else None
        assert check["sa"] == _bits(_weights(folder, check["checkpoint_rule"]), lam).mean()
    return found


def _check_plan(plan: Plan, world: World) -> None:
    """Check that no state of a plan claims more, or less, than the files prove."""
    for planned in plan.trials:
        folder = world.folder(planned.run_key)
        try:
            result = read_result(folder)
        except ResultError:
            assert planned.state == "damaged"
            continue
        wanted = {point["point_key"] for point in planned.job["points"]}
        checks = {check["check_key"] for check in planned.job["checks"]}
        if planned.state == "diverged":
            assert result is not None
            assert (result["status"], planned.label) == ("diverged", DIVERGES)
        elif planned.state == "done":
            assert result is not None
            training_id = result["trained"]["training_id"]
            have = [row["point_key"] for row in read_points(folder, training_id)[0]]
            assert wanted <= set(have)
            assert checks <= {check["check_key"] for check in read_checks(folder, training_id)}
        elif planned.state == "evaluate":
            assert result is not None
            assert result["status"] == "done"
        elif planned.state == "failed":
            assert folder.size("failure.json") is not None
        else:
            assert result is None
            there = any(folder.size(slot) for slot in SLOTS)
            assert there == (planned.state == "unfinished")
        assert planned.to_run == (planned.state not in {"done", "diverged"})


STEPS = st.sampled_from([0, 1, 2, 3, 5, 10, 30, 100])
FEW = st.integers(0, 6)
CLAIMS = 4
"""Steps after which a worker has claimed its trial."""
THEN = st.sampled_from(["killed", "lost", "refused", "refused again and again", "waits"])
INDEX = st.integers(0, 11)
FILES = (  # or how their names begin
    "config.json",
    *SLOTS,
    "epochs.jsonl",
    "model.safetensors",
    "provenance.json",
    "trained.json",
    "correct.npz",
    "points.jsonl",
    "checks.jsonl",
    "judging-",
    "result.json",
)


class Interleavings(RuleBasedStateMachine):
    """A driver, its workers, those given up on, and all that happens to them."""

    make_world: Callable[[], World]

    def __init__(self) -> None:
        super().__init__()
        self.world = type(self).make_world()
        self.wider: frozenset[str] = frozenset()
        self.plan: Plan | None = None
        self.queue: list[Any] = []
        self.seed = 0
        self.keys: set[str] = set()

    # the driver

    def _start_driver(self) -> None:
        """Start one if there is none; where nothing is left to do, on another seed."""
        if self.plan is not None:
            return
        if not self._planned().to_run():
            self.seed += 1
        self.plan = self._planned()
        self.queue = [planned.job for planned in self.plan.to_run()]

    def _planned(self, at_last: bool = False) -> Plan:
        seeds = tuple(range(self.seed + 1)) if at_last else (self.seed,)
        plan = make_plan(_study(self.wider, seeds, at_last), self.world.disk)
        _check_plan(plan, self.world)
        self.keys |= {planned.run_key for planned in plan.trials}
        return plan

    @precondition(lambda self: self.plan is not None)
    @rule(spared=st.booleans())
    def kill_driver(self, spared: bool) -> None:
        """Its workers die with it, or live on."""
        self.plan, self.queue = None, []
        for worker in list(self.world.workers):
            if spared:
                worker.zombie = True
            elif not worker.zombie:
                self._kill(worker)

    @rule(name=st.sampled_from(sorted(WIDER)))
    def change_study(self, name: str) -> None:
        """The next driver finds more to do, or less; whoever asks sees it at once."""
        self.wider ^= {name}
        if not self.world.away:
            self._planned()

    # workers

    @precondition(lambda self: self.plan is not None or not self.world.away)
    @rule(i=INDEX, to=st.sampled_from([*FILES, *[None] * 3]), steps=STEPS, then=THEN)
    def work(self, i: int, to: str | None, steps: int, then: str) -> None:
        """Let a worker, or one more, go on: at first until it is about to change a file."""
        self._start_driver()
        workers = self.world.workers
        if i % (len(workers) + len(self.queue)) < len(workers):
            worker = workers[i % len(workers)]
        else:
            worker = self.world.start(self.queue.pop(i % len(self.queue)))
        while to is not None and not worker.at.startswith(to) and not worker.ended:
            self._advance(worker, 1)
        if not worker.ended:
            self._advance(worker, steps)
        if worker.ended:
            return
        if then == "killed":
            self._die(worker)
        elif then == "refused":
            worker.refusal = OSError(110, "Connection timed out")
        elif then == "refused again and again":
            for _ in range(5):
                if not worker.ended:
                    worker.refusal = OSError(110, "Connection timed out")
                    self._advance(worker, 1)
        elif then == "lost" and not worker.zombie:
            self._lose(worker)

    @precondition(lambda self: self.plan is not None or not self.world.away)
    @rule(i=INDEX, to=st.sampled_from(FILES), steps=FEW, then=THEN)
    def work_to_a_file(self, i: int, to: str, steps: int, then: str) -> None:
        """As `work`; more often."""
        self.work(i, to, steps, then)

    def _lose(self, worker: Worker) -> None:
        """Let the driver start its trial again while it lives on."""
        worker.zombie = True
        self._again(worker)

    def _die(self, worker: Worker) -> None:
        self._kill(worker)
        if not worker.zombie:
            self._again(worker)

    def _kill(self, worker: Worker) -> None:
        worker.kill()
        self.world.workers.remove(worker)

    def _again(self, worker: Worker) -> None:
        """Put a lost worker's trial back, as Tune does."""
        assert self.plan is not None
        jobs = {planned.run_key: planned.job for planned in self.plan.trials}
        self.queue.append(jobs[worker.run_key])

    def _advance(self, worker: Worker, steps: int) -> None:
        self.world.advance(worker, steps)
        if worker.ended and not worker.zombie:
            if isinstance(worker.error, OSError):
                self._again(worker)
            elif worker.outcome is not None and worker.outcome["status"] == "done":
                self.world.look()
        if self.plan is not None and not self.queue and all(w.zombie for w in self.world.workers):
            self.plan = None

    # what happens to them

    @rule(kind=st.sampled_from(["full", "away", "no_data"]))
    def trouble(self, kind: str) -> None:
        """A disk fills, storage or the data go; the next time, all is well again."""
        if self.world.well:
            setattr(self.world, kind, True)
        else:
            self.world.heal()

    @rule(i=INDEX, j=st.integers(0, 30), at=st.integers(0, 10**6), flip=st.integers(1, 255))
    def damage(self, i: int, j: int, at: int, flip: int) -> None:
        """Change a byte of a file."""
        keys = self.world.plain.sub("trials").names()
        names = self.world.folder(keys[i % len(keys)]).names() if keys else []
        if not names:
            return
        run_key, name = keys[i % len(keys)], names[j % len(names)]
        path = self.world.folder(run_key).path / name
        data = bytearray(path.read_bytes())
        data[at % len(data)] ^= flip
        path.write_bytes(data)
        self.world.changed(None, run_key, name)
        self.world.known[run_key].spoil(name)
        self.world.disturb(run_key)

    @invariant()
    def nothing_is_lost_and_nothing_is_wrong(self) -> None:
        self.world.look()

    def teardown(self) -> None:
        """Let all go on undisturbed; one driver more, and every trial is whole."""
        try:
            self._come_to_an_end()
        finally:
            for worker in self.world.workers:
                worker.kill()

    def _come_to_an_end(self) -> None:
        world = self.world
        world.heal()
        for job in self.queue:
            world.advance(world.start(job), CLAIMS)
        while world.workers:
            for worker in list(world.workers):
                world.advance(worker, 1)
            world.look()
        for planned in self._planned(at_last=True).to_run():
            worker = world.start(planned.job)
            world.advance(worker, 10**4)
            assert worker.outcome is not None, worker.error
            world.look()
        self._is_whole(self._planned(at_last=True))
        assert set(world.plain.sub("trials").names()) <= self.keys

    def _is_whole(self, plan: Plan) -> None:
        for planned in plan.trials:
            folder, known = self.world.folder(planned.run_key), self.world.known[planned.run_key]
            expected = "diverged" if planned.label == DIVERGES else "done"
            assert planned.state == expected, (planned.label, planned.reason)
            assert known.result is not None
            if expected == "diverged":
                continue
            assert [_weights(folder, kind)[:1] for kind in ("last", "chosen")] == [
                [int(digest([planned.label, planned.seed]), 16)]
            ] * 2
            keys = [point["point_key"] for point in planned.job["points"]]
            rows, _ = read_trial(folder, keys)
            assert sorted(row["point_key"] for row in rows) == sorted(keys)
            assert json.loads(folder.read("config.json")) == planned.job["config"]
            if "epochs.jsonl" not in known.unsealed:
                epochs = [epoch["epoch"] for epoch in read_epochs(folder)]
                assert epochs == list(range(1, EPOCHS + 1)), "the epochs are not all there"
            if "provenance.json" not in known.unsealed:
                assert json.loads(folder.read("provenance.json"))["versions"]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[type[Interleavings]]:
    """The machine, with the arithmetic in place of trainings and attacks."""
    numbers = count()
    world: World

    def make_world() -> World:
        nonlocal world
        world = ModelTraining.world = World(tmp_path / f"{next(numbers)}")
        return world

    def load_once(data: Any) -> Any:
        if world.no_data:
            raise DataError("The data are away.")
        return DATA

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claims, "PATIENCE", (0.0, 0.0, 0.0))
        patch.setattr(choosing, "Training", ModelTraining)
        patch.setattr(trial, "load_once", load_once)
        patch.setattr(planning, "assumed_seconds_per_unit", lambda *_: 1.0)
        patch.setattr(judging, "evaluate_at", _evaluate_at)
        patch.setattr(judging, "check_masking", _check_masking)
        patch.setattr(judging, "rebuild", _rebuild)
        patch.setattr(judging, "fold", lambda model, lam, width: (model, lam))
        patch.setattr(judging, "in_situ_cost", lambda *_: Cost(1, 1))
        patch.setattr(os, "fsync", lambda _: None)  # processes die here, not machines
        patch.setattr(Interleavings, "make_world", staticmethod(make_world), raising=False)
        yield Interleavings


@pytest.mark.slow
def test_any_interleaving_ends_with_each_key_exactly_once(machine: type[Interleavings]) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


REAL = (
    "methods=[{name: pgd_at, lam: 1}]",
    "train.val_images=4",
    "evaluate.attacks=[{name: pgd, steps: 1}, {name: pgd, steps: 2}]",
)


def _real(path: Path, kills: Sequence[int]) -> tuple[dict[str, bytes], list[Any], list[bytes]]:
    """Train and judge for real; die after so many operations each; return what came of it."""
    world = World(path)
    study = load_study(deepcopy(SOURCE), REAL)

    def job() -> Any:
        (planned,) = make_plan(study, world.disk).trials
        return planned.job if planned.to_run else None

    for operations in (*kills, 10**4):
        wanted = job()
        if wanted is None:
            break
        worker = world.start(wanted)
        world.advance(worker, operations)
        if not worker.ended:
            worker.kill()
            world.workers.remove(worker)
    assert job() is None
    (run_key,) = world.plain.sub("trials").names()
    folder = world.folder(run_key)
    assert len(read_epochs(folder)) == EPOCHS
    result = read_result(folder)
    assert result is not None
    rows, correct = read_points(folder, result["trained"]["training_id"])
    weights = {kind: folder.read(weights_file(kind)) for kind in result["trained"]["weights"]}
    untimed = [
        {k: v for k, v in row.items() if k not in {"training_id", "train_device_seconds"}}
        for row in rows
    ]
    return weights, untimed, [correct[key].tobytes() for key in sorted(correct)]


@pytest.mark.slow
def test_a_real_training_that_is_killed_anywhere_ends_as_if_it_had_not_been(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    undisturbed = _real(tmp_path_factory.mktemp("undisturbed"), [])

    @settings(max_examples=8)
    @given(kills=st.lists(st.integers(1, 90), min_size=1, max_size=4))
    def check(kills: list[int]) -> None:
        assert _real(tmp_path_factory.mktemp("killed"), kills) == undisturbed

    check()
