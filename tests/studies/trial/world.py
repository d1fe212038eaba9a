"""What the tests of interleavings share."""

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from oat.checkpoint import CheckpointError, loads
from oat.epoch import EpochRecord
from oat.evaluation import Correctness, Judged
from oat.masking import Checks
from oat.training import DivergenceError, Kept
from studies.known_methods import describe
from studies.planning.plan import Plan
from studies.storage.local import LocalFolder
from studies.storage.sealed import ResultError, digest
from studies.trial.checkpoints import SLOTS
from studies.trial.claims import CLAIM, ClaimedFolder, SupersededError
from studies.trial.records import read_checks, read_points, read_result
from studies.trial.run import run_trial
from studies.trial.weights import read_weights, weights_file
from tests.studies.trial.interrupted_disk import DIVERGES, IMAGES, ONCE, Bits, Disk, Killed, Worker

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
            newest = epochs_kept(self.world.folder(worker.run_key))[-1]
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


def bits_of(*what: Any) -> Bits:
    octets = hashlib.sha256(json.dumps(what).encode()).digest()
    return np.unpackbits(np.frombuffer(octets, np.uint8), count=IMAGES).astype(bool)


def stage_of(weights: list[int], lam: float | None, steps: int, stage: int) -> str:
    return digest([weights, lam, steps, stage])


def verdict_of(weights: list[int], lam: float | None, steps: int) -> tuple[Bits, Bits]:
    """Return which images are right, clean and under the attack."""
    clean = bits_of(weights, lam)
    return clean, clean & bits_of([stage_of(weights, lam, steps, stage) for stage in (0, 1)])


def evaluated_at(
    model: Tensor, point: Any, split: Any, attack: Any, *, progress: Any, **_: Any
) -> Judged:
    """Judge in two stages, and keep the first."""
    weights = model.tolist()
    stages = list(progress.read().get("stages", []))
    while len(stages) < 2:
        stages.append(stage_of(weights, point.lam, attack.steps, len(stages)))
        progress.write({"stages": stages})
    clean = bits_of(weights, point.lam)
    correct = Correctness(torch.tensor(clean), torch.tensor(clean & bits_of(stages)))
    return Judged(point, attack, correct, 1, 1)


def checked_for_masking(
    model: tuple[Tensor, float | None], split: Any, eps: float, **_: Any
) -> Checks:
    weights, lam = model
    accuracy = float(bits_of(weights.tolist(), lam).mean())
    return Checks(IMAGES, accuracy, *[0.0] * (len(Checks.__dataclass_fields__) - 2))


def rebuilt(config: Any, method: Any, dataset: Any, weights: bytes) -> Tensor:
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
            whole = result is not None and weights_are_whole(folder, result)
        except ResultError:
            result, whole = None, False
        if known.result is not None:
            assert whole, "a finished result is lost"
            assert result == known.result, "a finished result is another one"
        if result is not None and whole:
            known.result = result
        kept = epochs_kept(folder)
        epoch = kept[-1]
        known.doomed &= known.result is None and epoch > 0
        if known.result is None and not known.doomed:
            assert epoch >= known.epoch, "more than the epoch under way is lost"
            assert known.spoiled or epoch < 2 or kept[-2] == epoch - 1, "the one before is gone"
        known.epoch = 0 if known.doomed else epoch
        if result is None or result["status"] != "done":
            assert not known.points
            return
        rows = sound_points(folder, result) if whole else {}
        for key, numbers in known.points.items():
            assert rows.get(key) == numbers, "a point is lost, or another one"
        known.points = rows


def weights_are_whole(folder: LocalFolder, result: dict[str, Any]) -> bool:
    if result["status"] == "done":
        for kind in result["trained"]["weights"]:
            read_weights(folder, result["trained"], kind)
    return True


def epochs_kept(folder: LocalFolder) -> list[int]:
    """Return the epochs of the sound checkpoints, the newest last; 0 stands for none."""
    epochs = [0]
    for slot in SLOTS:
        try:
            epochs.append(int(loads(folder.read(slot))["epoch"]))
        except (FileNotFoundError, CheckpointError):
            continue
    return sorted(epochs)


def weights_of(folder: LocalFolder, kind: str) -> list[int]:
    weights: list[int] = rebuilt(None, None, None, folder.read(weights_file(kind))).tolist()
    return weights


def sound_points(folder: LocalFolder, result: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Return the points that are counted, each of which must be what its weights give."""
    trained = result["trained"]
    for kind, made in trained["weights"].items():
        weights = weights_of(folder, kind)
        assert weights[2:] == list(range(1, made["epoch"] + 1)), "an epoch counts twice, or never"
    rows, correct = read_points(folder, trained["training_id"])
    found = {}
    for row in rows:
        assert row["point_key"] not in found, "a point counts twice"
        steps = int(row["attack"].removeprefix("pgd"))
        lam = row["lam"] if row["method"] == "oat" else None
        clean, robust = verdict_of(weights_of(folder, row["checkpoint_rule"]), lam, steps)
        for name, bits in (("clean", clean), ("robust", robust)):
            stored = correct[f"{row['point_key']}.{name}"]
            assert (stored == bits).all(), "a point is of other weights"
        assert (row["sa"], row["ra"]) == (clean.mean(), robust.mean())
        found[row["point_key"]] = row["sa"], row["ra"]
    for check in read_checks(folder, trained["training_id"]):
        once = weights_of(folder, "last")[0] in (int(digest([ONCE, i]), 16) for i in range(40))
        lam = check["lam"] if once else None
        assert check["sa"] == bits_of(weights_of(folder, check["checkpoint_rule"]), lam).mean()
    return found


def check_plan(plan: Plan, world: World) -> None:
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
        assert planned.needs_run == (planned.state not in {"done", "diverged"})
