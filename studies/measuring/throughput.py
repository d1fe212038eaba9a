"""How many images a second trials train in sum, one and several at a time on one device."""

import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from threading import BrokenBarrierError
from typing import Any, TypedDict

import torch

from oat.operating import OperatingPoint
from oat.probe import WARM_UP, seconds_per_pass, synchronize
from oat.training import Training
from studies.errors import StudyError
from studies.measuring.probing import build_training
from studies.planning.estimates import on_gpu
from studies.trial.provenance import device_name
from studies.trial.run import failure_kind
from studies.trial.shapes import TrialJob
from studies.trial.stored import FailureKind

COUNTS = (1, 2, 3, 4, 6, 8)
"""Trials at a time that are measured, as long as more of them train faster in sum."""
GROWTH = 1.05
"""Growth of the throughput from one count to the next that is worth to go on for."""
NEARLY, ROOM = 0.95, 0.9
"""Share of the best throughput that is enough, and of the GPU's memory that may be used."""
WINDOW_SECONDS, PATIENCE_SECONDS = 5.0, 600.0
"""How long steps are counted, and how long a process may take to be ready for it."""
CONTEXT_BYTES = 2**29
"""What CUDA takes of a GPU for each process beside the tensors of torch, roughly."""


@dataclass(frozen=True)
class Measured:
    """What some trials that train at the same time do together.

    Attributes:
        trials: How many.
        images_per_second: Of all of them in sum.
    """

    trials: int
    images_per_second: float


@dataclass(frozen=True)
class Packing:
    """How many trials one device serves best, and what says so.

    Attributes:
        device: Its name.
        measured: One trial first, then more at a time.
        peak_bytes: Memory of the device that one trial takes at most; 0 on a CPU.
        device_bytes: Memory of the device; None does not limit.
    """

    device: str
    measured: tuple[Measured, ...]
    peak_bytes: int
    device_bytes: int | None

    @property
    def trials(self) -> int:
        """Trials at a time."""
        return choose(self.measured, self.peak_bytes, self.device_bytes)

    def __str__(self) -> str:
        """Say what was chosen, and why."""
        gain = {
            m.trials: m.images_per_second / self.measured[0].images_per_second
            for m in self.measured
        }
        if self.trials > 1:
            said = f"{self.trials} trials at a time on one {self.device} train "
            said += f"{gain[self.trials]:.2g} times as many images a second as one"
        elif len(self.measured) > 1:
            said = f"one trial at a time on one {self.device}, as two train only {gain[2]:.2f} "
            said += "times as many images a second"
        else:
            said = f"one trial at a time on one {self.device}, as its memory or its share of the "
            said += "node's CPUs has no room for two"
        if self.device_bytes is None:
            return said
        return f"{said}; each takes {_gib(self.peak_bytes)} of {_gib(self.device_bytes)} GiB"


def _gib(count: int) -> str:
    return f"{count / 2**30:.2g}"


def choose(measured: Sequence[Measured], peak_bytes: int, device_bytes: int | None = None) -> int:
    """Return how many trials to run at a time on one device.

    They are the fewest whose throughput is within 5 % of the best, among those that take no more
    than 90 % of the memory; one is always taken.

    Args:
        measured: Throughput of one trial, and of more at a time.
        peak_bytes: Memory that one trial takes.
        device_bytes: Memory that there is; None does not limit.
    """
    most = float("inf") if device_bytes is None else ROOM * device_bytes
    fitting = [m for m in measured if m.trials == 1 or m.trials * peak_bytes <= most]
    best = max(m.images_per_second for m in fitting)
    return min(m.trials for m in fitting if m.images_per_second >= NEARLY * best)


def measure(job: TrialJob, most: int, seconds: float = WINDOW_SECONDS) -> Packing:
    """Train a job's model in one process, then in more at a time, on this process's device.

    Args:
        job: See `studies.trial.run.run_trial`.
        most: Trials at a time for which there are CPUs.
        seconds: How long steps are counted.

    Raises:
        StudyError: Not even one can train.
    """
    found: list[Measured] = []
    peak, size = 0, None
    for count in COUNTS:
        no_room = size is not None and count * peak > ROOM * size
        if found and (count > most or no_room):
            break
        outcomes = _train_at_once(job, count, seconds)
        errors = [outcome for outcome in outcomes if "error" in outcome]
        if errors and not found:
            raise StudyError(f"`resources.gpu: auto` cannot be measured: {errors[0]['error']}")
        if errors:
            break  # so many do not fit
        if not found:
            peak, size = outcomes[0]["peak_bytes"], outcomes[0]["device_bytes"]
        found.append(Measured(count, sum(outcome["images_per_second"] for outcome in outcomes)))
        if count > 1 and found[-1].images_per_second < GROWTH * found[-2].images_per_second:
            break
    return Packing(job_device(job), tuple(found), peak, size)


class _Told(TypedDict, total=False):
    """What a process that trained tells: its rate, its memory if it was alone, or an error.

    Attributes:
        images_per_second: Of training.
        peak_bytes: Memory of the device that the trial takes at most; 0 on a CPU.
        device_bytes: Memory of the device; None does not limit.
        error: A sentence; empty of one that waited in vain for another.
        kind: What may cure it.
    """

    images_per_second: float
    peak_bytes: int
    device_bytes: int | None
    error: str
    kind: FailureKind


def _train_at_once(job: TrialJob, count: int, seconds: float) -> list[_Told]:
    """Train in so many processes; return what each tells. One that fails ends all."""
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(count)
    waiting: list[Connection] = []
    processes = []
    for _ in range(count):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_train, args=(job, ready, seconds, count == 1, theirs))
        process.start()
        theirs.close()
        processes.append(process)
        waiting.append(ours)
    outcomes: list[_Told] = []
    try:
        while waiting:
            for pipe in wait(waiting):
                assert isinstance(pipe, Connection)
                try:
                    outcomes.append(pipe.recv())
                except EOFError:
                    ready.abort()
                    outcomes.append({"error": "a process that trained was killed."})
                waiting.remove(pipe)
    finally:
        for process in processes:
            process.kill()
            process.join()
    # one that waited for another in vain says less than that one
    return sorted(outcomes, key=lambda outcome: outcome.get("error") == "")


def _train(job: TrialJob, ready: Any, seconds: float, alone: bool, pipe: Connection) -> None:
    """Train for some seconds, beginning with all others; runs in a process of its own."""
    try:
        training = build_training(job)
        endless = training.endless_steps()
        for _ in range(WARM_UP):
            next(endless)
        synchronize(training.device)
        ready.wait(PATIENCE_SECONDS)
        images, began = 0, time.perf_counter()
        while not images or time.perf_counter() - began < seconds:
            images += next(endless)
        synchronize(training.device)
        outcome: _Told = {"images_per_second": images / (time.perf_counter() - began)}
        if alone:
            outcome |= _memory(training, job)
    except BrokenBarrierError:
        outcome = {"error": ""}
    except Exception as error:
        ready.abort()
        said = str(error).rstrip(".") or type(error).__name__
        outcome = {"error": f"{said}.", "kind": failure_kind(error)}
    pipe.send(outcome)


def _memory(training: Training, job: TrialJob) -> _Told:
    """Return the memory that a trial takes of its device, trained and judged, and what there is."""
    if training.device.type != "cuda":
        return {"peak_bytes": 0, "device_bytes": None}
    point = max(job["points"], key=lambda point: point["width_mult"])
    seconds_per_pass(
        training, OperatingPoint(point["lam"], point["width_mult"]), point["batch_size"]
    )
    size = torch.cuda.get_device_properties(training.device).total_memory
    peak = torch.cuda.max_memory_reserved(training.device) + CONTEXT_BYTES
    return {"peak_bytes": peak, "device_bytes": size}


def job_device(job: TrialJob) -> str:
    """Return the name of the device that a job asks for, on this machine."""
    return device_name(torch.device("cuda" if on_gpu(job["resources"]) else "cpu"))
