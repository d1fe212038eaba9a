"""How a training is executed: in which precision, compiled or not, captured or not."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from oat.models.compute import Compute
from oat.recipe import TrainConfig

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Execution:
    """How the steps of a training are executed.

    Only `precision` changes numbers by more than the order of additions.

    Attributes:
        precision: Type of features and convolutions; see `oat.models.compute.Compute`.
        compiled: Whether compiled kernels do the elementwise work; see `oat.models.kernels`.
        captured: Whether a step is recorded once as a CUDA graph and then replayed.
        reasons: Why it is so, a sentence each.
    """

    precision: Precision = "float32"
    compiled: bool = False
    captured: bool = False
    reasons: tuple[str, ...] = ()

    @property
    def compute(self) -> Compute:
        """What the network is told."""
        dtype = torch.bfloat16 if self.precision == "bfloat16" else None
        return Compute(dtype, self.compiled)

    def sentence(self) -> str:
        """Say how steps are executed, and why."""
        ways = [self.precision, *["compiled"] * self.compiled]
        ways += ["recorded and replayed"] * self.captured
        why = f" ({'; '.join(self.reasons)})" if self.reasons else ""
        return f"Steps are executed in {', '.join(ways)}{why}."


def as_asked(train: TrainConfig, device: torch.device, fixed_shapes: bool = True) -> Execution:
    """Return what the settings ask for, with ``auto`` decided without any measurement.

    Then precision is bfloat16 on a GPU that has it, nothing is compiled, and a step is captured on
    a GPU. What a device cannot do is left out.

    Args:
        train: The settings.
        device: Where the training runs.
        fixed_shapes: Whether the method's steps can be captured; see `oat.method.Method`.
    """
    precision = train.precision
    if precision == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bfloat16" if fast else "float32"
    captured = device.type == "cuda" and train.capture is not False and fixed_shapes
    return Execution(precision, train.compile is True and has_kernels(device), captured)


def has_kernels(device: torch.device) -> bool:
    """Tell whether `oat.models.kernels` runs on a device."""
    return device.type == "cuda"


@contextmanager
def numerics(*, tf32: bool, deterministic: bool) -> Iterator[None]:
    """Set what decides the numbers of float32 work on a GPU, and put it back at the end.

    Args:
        tf32: Whether convolutions and matrix products of float32 may round their inputs to TF32,
            which has 10 bits of mantissa; otherwise they are float32 throughout.
        deterministic: Whether cuDNN may use only algorithms that add in a fixed order.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic, cudnn.benchmark
    cudnn.allow_tf32 = matmul.allow_tf32 = tf32
    cudnn.deterministic, cudnn.benchmark = deterministic, False
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic, cudnn.benchmark = before
