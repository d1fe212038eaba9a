"""How a network computes: the type of its features, and what follows a convolution.

`finish` and `normalise` are all the elementwise work of a network. `oat.models.kernels` has both
as kernels for a GPU, which read and write the features once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

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
        compiled: Whether `oat.models.kernels` does what follows a convolution; on a GPU alone.
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


class Film(NamedTuple):
    """A scale and a shift of each channel, by image, in float32 or wider.

    Attributes:
        scale: Shape (K, C).
        shift: Shape (K, C).
        code: Row of both for each image, (N,); None if K is N, or 1 for all.
    """

    scale: Tensor
    shift: Tensor
    code: Tensor | None = None

    def spread(self) -> "Film":
        """Return a row for each image, or one for all."""
        if self.code is None or len(self.scale) == 1:
            return Film(self.scale, self.shift)
        return Film(self.scale[self.code], self.shift[self.code])

    def rows(self) -> tuple[Tensor, Tensor]:
        """Return both so that they broadcast with features: (N, C, 1, 1) or (1, C, 1, 1)."""
        scale, shift, _ = self.spread()
        return scale[:, :, None, None], shift[:, :, None, None]


def finish(x: Tensor, film: Film | None, add: Tensor | None, relu: bool) -> Tensor:
    """Scale and shift features, add others to them, cut them at 0; each step where it is asked for.

    Args:
        x: Features, shape (N, C, H, W).
        film: Scale and shift; None for none.
        add: Features of the shape and type of ``x``; None for none.
        relu: Whether negative values become 0.

    Returns:
        Features of the type of ``x``; the arithmetic is that of ``film``.
    """
    out = x
    if film is not None:
        scale, shift = film.rows()
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
    film: Film | None,
    add: Tensor | None,
    relu: bool,
) -> Tensor:
    """Normalise features, then `finish` them.

    Args:
        x: Features, shape (N, C, H, W).
        norms: One batch norm for all rows; or two, for the first ``num_zero`` rows and the rest.
        num_zero: How many rows the first of two norms takes.
        film: See `finish`.
        add: See `finish`.
        relu: See `finish`.
    """
    if len(norms) == 1:
        out = norms[0](x)
    else:
        out = torch.cat([norms[0](x[:num_zero]), norms[1](x[num_zero:])])
    return finish(out, film, add, relu)


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...],
    padding: str | tuple[int, ...],
) -> Tensor:
    """Convolve in the type of the features.

    A 1x1 convolution with a stride is one without, on every so many-th pixel: the same numbers. So
    a CPU computes it, as oneDNN (torch 2.15) corrupts the heap in some strided 1x1 convolutions
    when it runs on several threads. A GPU would copy the pixels first.

    Args:
        x: Features, shape (N, I, H, W).
        weight: Shape (O, I, k, k).
        bias: Shape (O,), or None.
        stride: Of rows and of columns.
        padding: Of rows and of columns.
    """
    if x.device.type == "cpu" and weight.shape[-1] == weight.shape[-2] == 1 and max(stride) > 1:
        x, stride = x[:, :, :: stride[0], :: stride[1]], (1, 1)
    bias = None if bias is None else bias.to(x.dtype)
    return functional.conv2d(x, weight.to(x.dtype), bias, stride, padding)
