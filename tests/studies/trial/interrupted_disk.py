"""What the tests of interleavings share."""

import threading
from collections.abc import Callable
from copy import deepcopy
from functools import lru_cache
from pathlib import Path, PosixPath
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from oat.data import Split
from studies.storage.local import LocalFolder
from studies.study_file.loading import load_study
from studies.study_file.study import Study

if TYPE_CHECKING:
    from tests.studies.trial.world import World

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
    classes=("a", "b"),
    train=Split(torch.zeros(16, 1, 8, 8), torch.zeros(16)),
    test=SimpleNamespace(head=lambda images: None),
    val=SimpleNamespace(head=lambda images: None),
    image_shape=(1, 8, 8),
    num_classes=10,
    fingerprint="none",
    to=lambda device: DATA,
)

Bits = np.ndarray[Any, Any]


@lru_cache
def study_of(wider: frozenset[str], seeds: tuple[int, ...], at_last: bool = False) -> Study:
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


def turn_of_worker(changes: str = "") -> Worker | None:
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
        turn_of_worker()
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
        turn_of_worker()
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
        worker = turn_of_worker(changes)
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
