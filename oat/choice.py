"""How to execute a training on its device: chosen by a few steps before the first epoch.

Only precision changes numbers by more than rounding. So it is measured on a network and a batch
size, and whoever trains several models for one comparison hands it on to all of them.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from oat.execution import Execution, Precision, as_asked
from oat.probe import seconds_per_step
from oat.recipe import TrainConfig
from oat.training import Training

WORTH = 1.2
"""How many times faster bfloat16 must be to be chosen: less may be noise of the measurement."""
LEAST_CPU_FLOPS = 1e14
"""Operations of a training below which a CPU computes in float32 without asking: minutes of work,
as a measurement would take its share of them."""
COMPILE_SECONDS, COMPILED_GAIN = 60.0, 0.25
"""What compiling may take, and the share of the time that it may save, on a GPU: it is tried where
the training is long enough for that."""
WORTH_COMPILING = 1.05
"""How many times faster a compiled step must be to be kept."""
CHECKED_STEPS = 3
"""Steps by which two ways to execute are held against each other: the third is the second replay of
a captured one."""
TOLERANCE = {"float32": 0.1, "bfloat16": 0.5}
"""How far the weights may part in these steps, as a share of their way. Steps of the attack go by
the signs of gradients, so that roundings grow; a step that does something else is off by 1."""


@dataclass(frozen=True)
class Probe:
    """What is needed to try ways to execute a training.

    Attributes:
        make: Makes the training anew, at its first step.
        train: Its settings.
        device: Where it runs.
        fixed_shapes: Whether its steps can be captured; see `oat.method.Method`.
        steps: How many it will take.
        units: Its cost, in forward passes of the plain network; see `oat.method.training_cost`.
        flops: Its operations in all, at a multiply-add for two.
    """

    make: Callable[[Execution], Training]
    train: TrainConfig
    device: torch.device
    fixed_shapes: bool
    steps: int
    units: float
    flops: float


def choose(probe: Probe, precision: Precision | None = None) -> Execution:
    """Choose how a training is executed: as its settings ask, and ``auto`` by measurement.

    Args:
        probe: The training.
        precision: Precision that has been chosen before, for other models of the comparison.

    Returns:
        The choice, with its reasons.
    """
    plain = as_asked(probe.train, probe.device, probe.fixed_shapes)
    reasons = []
    if precision is None:
        precision, why = choose_precision(probe)
        reasons.append(why)
    chosen = Execution(precision)
    if plain.captured:
        chosen, why = _captured(probe, chosen)
        reasons.append(why)
    elif probe.device.type == "cuda" and not probe.fixed_shapes:
        reasons.append("its steps change with what is drawn, so that none can be recorded")
    chosen, why = _compiled(probe, chosen)
    reasons.append(why)
    if probe.device.type == "cuda":
        torch.cuda.empty_cache()  # of the trials, for the training
    return replace(chosen, reasons=tuple(reasons))


def choose_precision(probe: Probe) -> tuple[Precision, str]:
    """Choose the precision; say why.

    A network is timed in both unless `settled_precision` knows.
    """
    settled = settled_precision(probe)
    if settled is not None:
        return settled
    may_capture = as_asked(probe.train, probe.device, probe.fixed_shapes).captured
    why = ""
    for captured in (True, False)[not may_capture :]:
        try:
            slow, fast = (
                seconds_per_step(probe.make(Execution(kind, captured=captured)))
                for kind in ("float32", "bfloat16")
            )
        except torch.AcceleratorError:
            raise  # the process has lost its device
        except RuntimeError as error:
            why = _first_line(error)
            continue
        times = f"{1e3 * fast:.3g} ms a step in bfloat16, {1e3 * slow:.3g} in float32"
        return ("bfloat16" if slow >= WORTH * fast else "float32"), times
    return "float32", f"float32, as bfloat16 could not be measured ({why})"


def settled_precision(probe: Probe) -> tuple[Precision, str] | None:
    """Return the precision and its reason where there is nothing to measure; else None.

    It is measured where the device has arithmetic in bfloat16 and, on a CPU, the training is long
    enough.
    """
    if probe.train.precision != "auto":
        return probe.train.precision, f"{probe.train.precision} as asked"
    if not has_bfloat16(probe.device):
        return "float32", "float32, as the device has no arithmetic in bfloat16"
    if probe.device.type == "cpu" and probe.flops < LEAST_CPU_FLOPS:
        return "float32", "float32, as the training is too short for a measurement on a CPU"
    return None


def has_bfloat16(device: torch.device) -> bool:
    """Tell whether a device multiplies in bfloat16, and does not only pretend to."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def disagreement(one: Training, other: Training) -> str | None:
    """Say how two ways to execute the same training part; None if they do not.

    Both are compared by their first steps, and are then spent. They must have the same precision.
    """
    return _parting(_way(one), _way(other), one.execution.precision)


def _way(training: Training) -> Tensor:
    """Take a few steps; return how far the weights went, in one row, (P,)."""
    start = _weights(training)
    for _ in islice(training.endless_steps(), CHECKED_STEPS):
        pass
    return _weights(training) - start


def _parting(one: Tensor, other: Tensor, precision: Precision) -> str | None:
    parted = (one - other).norm() / one.norm().clamp(min=1e-30)
    if parted <= TOLERANCE[precision]:
        return None  # what is no number is not
    return f"its weights part by {parted:.2g} of their way in {CHECKED_STEPS} steps"


def _captured(probe: Probe, chosen: Execution) -> tuple[Execution, str]:
    """Try to capture a step; keep it if it can be done and agrees."""
    captured = replace(chosen, captured=True)
    why = _fails(probe, chosen, captured)
    if why is None:
        return captured, "captured, as a replayed step agrees with one that is not"
    return chosen, f"not captured: {why}"


def _compiled(probe: Probe, chosen: Execution) -> tuple[Execution, str]:
    """Try to compile; keep it if it can be done, agrees and, unless it is asked for, pays."""
    asked = probe.train.compile
    if asked is False:
        return chosen, "not compiled, as asked"
    if asked == "auto" and probe.device.type == "cpu":
        return chosen, "not compiled: on a CPU it does not pay"
    if asked == "auto":
        before = seconds_per_step(probe.make(chosen))
        if before * probe.steps * COMPILED_GAIN < COMPILE_SECONDS:
            return chosen, "not compiled: the training is too short to pay for it"
    compiled = replace(chosen, compiled=True)
    with one_at_a_time():
        why = _fails(probe, chosen, compiled)
    if why is not None:
        return chosen, f"not compiled: {why}"
    if asked is True:
        return compiled, "compiled as asked"
    after = seconds_per_step(probe.make(compiled))
    times = f"{1e3 * after:.3g} ms a step compiled, {1e3 * before:.3g} not"
    return (compiled if before >= WORTH_COMPILING * after else chosen), times


def _fails(probe: Probe, plain: Execution, other: Execution) -> str | None:
    """Say why a way to execute cannot be had or is wrong; None if it is sound.

    Raises:
        torch.AcceleratorError: The process has lost its device.
    """
    try:
        # one after the other: a GPU that is shared may have no room for both
        way, way_of_other = (_way(probe.make(how)) for how in (plain, other))
        return _parting(way, way_of_other, plain.precision)
    except torch.AcceleratorError:
        raise
    except RuntimeError as error:  # those of compilers and of captures are of this class
        return _first_line(error)


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Let one process of this machine compile at a time: the others then find what it made."""
    import fcntl

    # each user has a file: that of another could not be opened
    path = Path(tempfile.gettempdir()) / f"oat-compiling-{os.getuid()}.lock"
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _weights(training: Training) -> Tensor:
    """Return all parameters in one row, (P,)."""
    return torch.cat([p.detach().flatten() for p in training.model.parameters()])


def _first_line(error: Exception) -> str:
    said = str(error).strip()
    return f"{type(error).__name__}: {said.splitlines()[0].rstrip('.')}" if said else repr(error)
