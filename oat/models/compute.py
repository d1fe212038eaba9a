"""How a network computes: the type of its features, and what follows a convolution, as one kernel.

The functions here are all the elementwise work of a network. They are plain functions of tensors,
so that they can run as they are or compiled: each then reads and writes its features once. One
compiled function serves all layers of a shape; a whole network would take minutes to compile.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Compute:
    """How a network computes. No choice here changes a result by more than rounding.

    Attributes:
        dtype: Type of the features, and of the weights of a convolution while it runs. Norms,
            FiLM, the pooled features, logits and losses stay in float32. None leaves each tensor
            in its own type.
        compiled: Whether the functions of this module are compiled.
    """

    dtype: torch.dtype | None = None
    compiled: bool = False


AS_IT_IS = Compute()
"""Every tensor in its own type, nothing compiled."""


class BatchNorm(NamedTuple):
    """One batch norm of C channels, as tensors.

    Attributes:
        mean: Running mean, (C,); updated in place in training.
        var: Running variance, (C,); likewise.
        weight: Scale, (C,).
        bias: Shift, (C,).
        training: Whether the statistics are those of the batch.
        momentum: Share of the batch in the running statistics.
        eps: Added to the variance.
    """

    mean: Tensor
    var: Tensor
    weight: Tensor
    bias: Tensor
    training: bool
    momentum: float
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise features (N, C, H, W)."""
        return functional.batch_norm(
            x, self.mean, self.var, self.weight, self.bias, self.training, self.momentum, self.eps
        )


def finish(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, add: Tensor | None, relu: bool
) -> Tensor:
    """Scale and shift features, add others to them, cut them at 0; each step where it is asked for.

    Args:
        x: Features, shape (N, C, H, W).
        scale: Factors that broadcast with the features, in float32 or wider; None for none.
        shift: Summands likewise; given exactly if ``scale`` is.
        add: Features of the shape and type of ``x``; None for none.
        relu: Whether negative values become 0.

    Returns:
        Features of the type of ``x``; the arithmetic is that of ``scale``.
    """
    out = x
    if scale is not None and shift is not None:
        out = torch.addcmul(shift, x.to(scale.dtype), scale)
    if add is not None:
        out = out + add
    if relu:
        out = functional.relu(out)
    return out.to(x.dtype)


def normalise(
    x: Tensor,
    norms: Sequence[BatchNorm],
    num_zero: int,
    scale: Tensor | None,
    shift: Tensor | None,
    add: Tensor | None,
    relu: bool,
) -> Tensor:
    """Normalise features, then `finish` them.

    Args:
        x: Features, shape (N, C, H, W).
        norms: One batch norm for all rows; or two, for the first ``num_zero`` rows and the rest.
        num_zero: How many rows the first of two norms takes.
        scale: See `finish`.
        shift: See `finish`.
        add: See `finish`.
        relu: See `finish`.
    """
    if len(norms) == 1:
        out = norms[0](x)
    else:
        out = torch.cat([norms[0](x[:num_zero]), norms[1](x[num_zero:])])
    return finish(out, scale, shift, add, relu)


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...],
    padding: str | tuple[int, ...],
) -> Tensor:
    """Convolve in the type of the features.

    A 1x1 convolution with a stride is one without, on every so many-th pixel: the same numbers. So
    it is computed, as oneDNN (torch 2.15) corrupts the heap in some strided 1x1 convolutions when
    it runs on several threads.

    Args:
        x: Features, shape (N, I, H, W).
        weight: Shape (O, I, k, k).
        bias: Shape (O,), or None.
        stride: Of rows and of columns.
        padding: Of rows and of columns.
    """
    if weight.shape[-1] == 1 and weight.shape[-2] == 1 and max(stride) > 1:
        x, stride = x[:, :, :: stride[0], :: stride[1]], (1, 1)
    bias = None if bias is None else bias.to(x.dtype)
    return functional.conv2d(x, weight.to(x.dtype), bias, stride, padding)


def chosen(function: Callable[..., Tensor], compute: Compute) -> Callable[..., Tensor]:
    """Return one of this module's functions, compiled if that is how the network computes."""
    return compiled(function) if compute.compiled else function


@cache
def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a function compiled without breaks in its graph, as it is first called.

    `finish` moves features and no more, so that one kernel serves all shapes. `normalise` sums over
    them, and how that is best done depends on the shape: it is compiled for each. Kernels are kept
    on disk for other processes of the machine (torch's own cache).
    """
    # one code object serves every layer: ResNet-18 meets 22 shapes, OATS three times as many
    config: Any = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, 1024)
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, 4096)
    made: Callable[..., Tensor] = torch.compile(
        function, dynamic=function is finish, fullgraph=True
    )
    return made
