"""What a training step has to do, and how fast a machine could do it.

The floor of a step is the longer of two times: its operations at the rate of a large matrix
product, and the features that its convolutions read and write at the rate of a copy. It takes for
granted that all between two convolutions is fused into them, so that nothing else touches memory,
and that weights cost nothing.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from oat.attacks import Attack
from oat.method import Method
from oat.models import Conditioning, ModelConfig, build, flops
from oat.price import step_units

IMAGE = tuple[int, int, int]


class Convolved(TorchDispatchMode):
    """Counts the features that convolutions read and write.

    Attributes:
        features: Elements of all inputs and outputs so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation; count it if it is a convolution."""
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            self.features += args[0].numel() + out.numel()
        return out


def features_per_pass(model: ModelConfig, image: IMAGE, width_mult: float = 1.0) -> int:
    """Count the elements that the convolutions of a forward pass read and write, for one image.

    Args:
        model: The network.
        image: Channels, height and width.
        width_mult: Share of its channels.
    """
    shape = Conditioning(base_width=width_mult)
    with torch.device("meta"):
        net = build(model, in_channels=image[0], num_classes=10, conditioning=shape).eval()
        with torch.no_grad(), Convolved() as counted:
            net(torch.empty(1, *image))
    return counted.features


def features_moved(
    method: Method, attack: Attack, batch_size: int, model: ModelConfig, image: IMAGE
) -> float:
    """Count the elements that the convolutions of a training step move, for one image.

    A backward to the inputs reads and writes gradients of the same sizes, one to the weights reads
    the input and the gradient of the output: each moves as much as a forward. What batch norm's
    statistics and the sum with the identity read besides is not counted: a floor stays one.
    """
    work = method.work(attack, batch_size)
    return sum(w.units * features_per_pass(model, image, width) for width, w in work.items())


def operations(
    method: Method, attack: Attack, batch_size: int, model: ModelConfig, image: IMAGE
) -> float:
    """Count the operations of a training step for one image, multiply-adds times two."""
    with torch.device("meta"):
        net = build(model, in_channels=image[0], num_classes=10)
        forward = flops(net, image)
    return forward * step_units(method, attack, batch_size, model, image)


def floor(
    operations: float, features: float, size: int, matrix_rate: float, copy_rate: float
) -> dict[str, float]:
    """Return the least time of one image.

    Args:
        operations: Of one image.
        features: Elements moved for one image.
        size: Bytes of an element.
        matrix_rate: Operations a second.
        copy_rate: Bytes a second, read and written.

    Returns:
        Seconds for the operations, for the features, and the longer of both.
    """
    arithmetic, memory = operations / matrix_rate, features * size / copy_rate
    return {
        "operations_s": arithmetic,
        "features_s": memory,
        "floor_s": max(arithmetic, memory),
    }


def rates(*, small: bool = False) -> dict[str, float]:
    """Measure what the machine can do.

    Returns:
        Operations a second of a large matrix product in ``float32`` and ``bfloat16``, and on a GPU
        in ``tfloat32``, which its convolutions use for float32 unless told otherwise; bytes a
        second of a ``copy``, read and written.
    """
    cuda = torch.cuda.is_available()
    side = 256 if small else 8192 if cuda else 2048
    found = {"bfloat16": matrix_rate(torch.bfloat16, side)}
    found["float32"] = matrix_rate(torch.float32, side)
    if cuda:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        found["tfloat32"] = matrix_rate(torch.float32, side)
        torch.set_float32_matmul_precision(before)
    found["copy"] = copy_rate(2**20 if small else 2**30 if cuda else 2**28)
    if cuda:
        torch.cuda.empty_cache()
    return found


def in_units(rates: dict[str, float]) -> dict[str, float]:
    """Return what `rates` measured in units that people read."""
    found = {f"{kind}_tflops": rate / 1e12 for kind, rate in rates.items() if kind != "copy"}
    found["copy_gb_per_second"] = rates["copy"] / 1e9
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def matrix_rate(kind: torch.dtype, side: int) -> float:
    """Return operations a second of the product of two square matrices."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    one, other = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
    return 2 * side**3 / _seconds(lambda: one @ other)


def copy_rate(size: int) -> float:
    """Return bytes a second, read and written, of a copy of so many bytes."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / _seconds(lambda: target.copy_(source))


def _seconds(call: Callable[[], Tensor]) -> float:
    """Return the median of nine, each of several calls, after a warm-up."""
    inner = 10 if torch.cuda.is_available() else 1
    times = []
    for _ in range(10):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(inner):
            call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append((time.perf_counter() - started) / inner)
    return statistics.median(times[1:])
