"""How to execute a training on its device: chosen by a few steps before the first epoch.

Only precision changes numbers by more than rounding. So it is measured on a network and a batch
size, and whoever trains several models for one comparison hands it on to all of them.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from oat.data import unit
from oat.deploy import condition
from oat.execution import Execution, Precision, as_asked, has_kernels
from oat.models.norm import gpu_kernels
from oat.models.self_test import fault, shapes_of
from oat.probe import seconds_per_step
from oat.recipe import TrainConfig
from oat.training import Training

WORTH = 1.2
"""How many times faster bfloat16 must be to be chosen: less may be noise of the measurement."""
LEAST_CPU_FLOPS = 1e14
"""Operations of a training below which a CPU computes in float32 without asking: minutes of work,
as a measurement would take its share of them."""
COMPILE_SECONDS, COMPILED_GAIN = 15.0, 0.25
"""What compiling may take, and the share of the time that it may save, on a GPU: it is tried where
the training is long enough for that."""
WORTH_COMPILING = 1.05
"""How many times faster a compiled step must be to be kept."""
CHECKED_STEPS = 3
"""Steps by which two ways to execute are held against each other: the third is the second replay of
a captured one. The weights stay where they are: at a high learning rate, steps that differ by
rounding alone have parted after two."""
TRIED_ROWS = 64
"""Images on which kernels are tried, at most: they are held against float64, which takes room."""
TOLERANCE = {"float32": 0.1, "bfloat16": 0.5}
"""How far gradients and statistics may differ, as a share of their norm. Steps of the attack go by
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
        units: Its cost, in forward passes of the plain network; see `oat.price.training_units`.
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
    return _parting(_steps_of(one), _steps_of(other), one.execution.precision)


def _steps_of(training: Training) -> dict[str, Tensor]:
    """Take a few steps without moving the weights; return what they did, each in one row.

    The attack takes one of its steps only: seven turn a rounding into other images.

    Returns:
        ``gradients`` of all steps, and ``statistics`` of the batch norms after them.
    """
    gradients = []
    for group in training.optimizer.param_groups:
        group["lr"] = 0.0
    attack = replace(training.attack, steps=1, step_size=training.attack.step)
    steps = training.endless_steps(attack)
    for _ in islice(steps, CHECKED_STEPS):
        gradients += [p.grad.flatten().clone() for p in training.model.parameters()
                      if p.grad is not None]  # fmt: skip
    steps.close()
    statistics = [b.flatten() for b in training.model.buffers() if b.is_floating_point()]
    rows = {"gradients": gradients, "statistics": statistics}
    return {name: torch.cat(row) for name, row in rows.items() if row}


def _parting(one: dict[str, Tensor], other: dict[str, Tensor], precision: Precision) -> str | None:
    for name, mine in one.items():
        parted = (mine - other[name]).norm() / mine.norm().clamp(min=1e-30)
        if not parted <= TOLERANCE[precision]:  # what is no number is not
            return f"its {name} part by {parted:.2g} of their size in {CHECKED_STEPS} steps"
    return None


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
    if not has_kernels(probe.device):
        return chosen, "not compiled: the kernels are for a GPU"
    if asked == "auto":
        before = seconds_per_step(probe.make(chosen))
        if before * probe.steps * COMPILED_GAIN < COMPILE_SECONDS:
            return chosen, "not compiled: the training is too short to pay for it"
    compiled = replace(chosen, compiled=True)
    with one_at_a_time():
        why = _kernels_fail(probe, compiled)
    if why is not None:
        return chosen, f"not compiled: {why}"
    if asked is True:
        return compiled, "compiled as asked"
    after = seconds_per_step(probe.make(compiled))
    times = f"{1e3 * after:.3g} ms a step compiled, {1e3 * before:.3g} not"
    return (compiled if before >= WORTH_COMPILING * after else chosen), times


def _kernels_fail(probe: Probe, compiled: Execution) -> str | None:
    """Say why kernels cannot be had or are wrong; None if they are sound.

    In bfloat16, steps by sound kernels part as widely as steps by wrong ones, as the attack makes
    much of a rounding. So the kernels are tried one by one in the precision of the training, and
    the steps that they make up in float32.

    Raises:
        torch.AcceleratorError: The process has lost its device.
    """

    def by_themselves() -> str | None:
        training = probe.make(replace(compiled, compiled=False, captured=False))
        model, images = training.model.eval(), unit(training.dataset.train.head(1).images)
        points = training.method.operating_points(training.val_lams[:1])
        passes = [partial(model.logits, images, condition(model, *point)) for point in points]
        with torch.no_grad():
            shapes = shapes_of(model, passes)
        dtype = compiled.compute.dtype or torch.float32
        rows = min(training.step.size, TRIED_ROWS)
        return fault(gpu_kernels(), shapes, rows, dtype, probe.device)

    exact = replace(compiled, precision="float32")
    return _tried(by_themselves) or _fails(probe, replace(exact, compiled=False), exact)


def _fails(probe: Probe, plain: Execution, other: Execution) -> str | None:
    """Say why a way to execute cannot be had or is wrong; None if it is sound.

    Raises:
        torch.AcceleratorError: The process has lost its device.
    """

    def side_by_side() -> str | None:
        # one after the other: a GPU that is shared may have no room for both
        done, done_otherwise = (_steps_of(probe.make(how)) for how in (plain, other))
        return _parting(done, done_otherwise, plain.precision)

    return _tried(side_by_side)


def _tried(check: Callable[[], str | None]) -> str | None:
    """Return what a check says, or the first line of its error."""
    try:
        return check()
    except torch.AcceleratorError:
        raise
    except (RuntimeError, ImportError) as error:
        # captures and compilers raise the one; without Triton there are no kernels
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


def _first_line(error: Exception) -> str:
    said = str(error).strip()
    return f"{type(error).__name__}: {said.splitlines()[0].rstrip('.')}" if said else repr(error)
