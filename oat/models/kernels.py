"""What follows a convolution, in one pass over the features: kernels for a GPU, with gradients.

`finish` and `normalise` are those of `oat.models.compute`. Here each reads its features once and
writes them once, with all arithmetic in float32. A batch norm in training sums over the features
before that. Sums have a fixed order, so that equal inputs give equal bits.

Features are channels last; others are copied so. The kernels stand in `oat.models.triton_kernels`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from oat.models import compute, triton_kernels
from oat.models.compute import BatchNorm, Film

TILE = 4096
"""Elements of a tile, at most."""
MOST_PIXELS = 64
"""Pixels of a tile, at most."""
GROUP = 256
"""Pixels of a group, where they divide those of an image; else a group is a whole image."""
SUMS = {"BLOCK_C": 16, "BLOCK_G": 128, "enable_fp_fusion": True}
"""Channels and groups of a tile where sums of groups are added."""


class Tiles(NamedTuple):
    """How features of one shape are cut.

    Attributes:
        block_p: Pixels of a tile.
        block_c: Channels of a tile.
        masked: Whether some tiles reach over an edge.
        chunks: Tiles to the pixels of an image.
        columns: Tiles to the channels.
        span: Pixels of a group.
        groups: Groups of an image.
    """

    block_p: int
    block_c: int
    masked: bool
    chunks: int
    columns: int
    span: int
    groups: int

    def options(self) -> dict[str, int]:
        """Return what kernels are compiled for.

        A product and a sum are one operation: the default differs among versions of Triton.
        """
        return {
            "MASKED": self.masked,
            "BLOCK_P": self.block_p,
            "BLOCK_C": self.block_c,
            "enable_fp_fusion": True,
        }


def tiles_of(pixels: int, channels: int) -> Tiles:
    """Cut features of so many pixels and channels."""
    block_p = min(triton.next_power_of_2(pixels), MOST_PIXELS)
    whole = channels & -channels  # the largest power of two that divides it
    block_c = min(whole if whole >= 16 else triton.next_power_of_2(channels), TILE // block_p)
    span = GROUP if pixels % GROUP == 0 else pixels
    return Tiles(
        block_p,
        block_c,
        bool(pixels % block_p or channels % block_c),
        triton.cdiv(pixels, block_p),
        triton.cdiv(channels, block_c),
        span,
        pixels // span,
    )


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


class _Modulation:
    """FiLM as kernels read it.

    Args:
        scale: Shape (K, C); None for no FiLM.
        shift: Likewise.
        index: Row of both for each image, (N,); or None.
        instead: What kernels get, and do not read, where there is none.

    Attributes:
        there: Whether there is FiLM.
        indexed: Whether images have codes; else each has a row of its own, or all have one.
        codes: K; 0 without FiLM.
        stride: How far the next row is away; 0 where all images have one.
    """

    def __init__(
        self, scale: Tensor | None, shift: Tensor | None, index: Tensor | None, instead: Tensor
    ) -> None:
        self.there = scale is not None and shift is not None
        self.scale = self.shift = self.index = instead
        self.codes = self.stride = 0
        if scale is not None and shift is not None:
            if scale.stride() != shift.stride() or scale.stride(1) != 1:
                scale, shift = scale.contiguous(), shift.contiguous()
            self.scale, self.shift, self.codes = scale, shift, len(scale)
            self.stride = scale.stride(0) if self.codes > 1 else 0
        self.indexed = index is not None and self.codes > 1
        if index is not None and self.indexed:
            self.index = index

    def flags(self) -> dict[str, bool]:
        return {"FILM": self.there, "INDEXED": self.indexed}


class _Finish(torch.autograd.Function):
    """`finish`, with gradients to the features and what is added to them."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        add: Tensor | None,
        film: Film | None,
        relu: bool,
    ) -> Tensor:
        rows, channels, height, width = x.shape
        cut = tiles_of(height * width, channels)
        x = _channels_last(x)
        add = None if add is None else _channels_last(add)
        out = torch.empty_like(x)
        by = _Modulation(*_of(film), x)
        triton_kernels.apply[rows * cut.chunks, cut.columns](
            x, x if add is None else add, out, x, x, by.scale, by.shift,
            rows, by.index, by.stride, height * width, channels, cut.chunks,
            NORM=False, ADD=add is not None, RELU=relu, **by.flags(), **cut.options(),
        )  # fmt: skip
        ctx.save_for_backward(out if relu else None)
        ctx.by, ctx.relu, ctx.add = by, relu, add is not None  # FiLM takes no gradient here
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (out,) = ctx.saved_tensors
        by: _Modulation = ctx.by
        if not by.there and not ctx.relu:
            return grad, grad if ctx.add else None, None, None
        grad = _channels_last(grad)
        rows, channels, height, width = grad.shape
        cut = tiles_of(height * width, channels)
        grad_x = torch.empty_like(grad)
        apart = ctx.add and by.there  # else both gradients are one
        grad_add = torch.empty_like(grad) if apart else grad_x
        triton_kernels.apply_backward[rows * cut.chunks, cut.columns](
            grad, grad if out is None else out, grad_x, grad_add, by.scale,
            by.index, by.stride, height * width, channels, cut.chunks,
            ADD=apart, RELU=ctx.relu, **by.flags(), **cut.options(),
        )  # fmt: skip
        return grad_x, grad_add if ctx.add else None, None, None


class _Normalise(torch.autograd.Function):
    """`normalise` by batch norms in training, with gradients to everything."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        add: Tensor | None,
        scale: Tensor | None,
        shift: Tensor | None,
        index: Tensor | None,
        norms: Sequence[BatchNorm],
        num_zero: int,
        relu: bool,
        *parameters: Tensor,
    ) -> Tensor:
        rows, channels, height, width = x.shape
        pixels = height * width
        cut = tiles_of(pixels, channels)
        x = _channels_last(x)
        add = None if add is None else _channels_last(add)
        tile = cut.options()
        ranges = [(0, num_zero), (num_zero, rows)] if len(norms) == 2 else [(0, rows)]

        def floats(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=torch.float32, device=x.device)

        means, squares = floats(rows * cut.groups, channels), floats(rows * cut.groups, channels)
        triton_kernels.moments[rows * cut.groups, cut.columns](
            x, means, squares, pixels, channels, cut.groups, cut.span, **tile
        )
        center, rate, factor, summand = (floats(len(norms), channels) for _ in range(4))
        for i, (norm, (first, end)) in enumerate(zip(norms, ranges, strict=True)):
            triton_kernels.statistics[(triton.cdiv(channels, SUMS["BLOCK_C"]),)](
                means, squares, norm.weight, norm.bias, norm.mean, norm.var,
                center[i], rate[i], factor[i], summand[i],
                first * cut.groups, end * cut.groups, cut.span, channels, norm.momentum, norm.eps,
                **SUMS,
            )  # fmt: skip
        out = torch.empty_like(x)
        by = _Modulation(scale, shift, index, x)
        second_from = num_zero if len(norms) == 2 else rows
        triton_kernels.apply[rows * cut.chunks, cut.columns](
            x, x if add is None else add, out, factor, summand, by.scale, by.shift,
            second_from, by.index, by.stride, pixels, channels, cut.chunks,
            NORM=True, ADD=add is not None, RELU=relu, **by.flags(), **tile,
        )  # fmt: skip
        ctx.save_for_backward(
            x, out if relu else None, scale, shift, index, center, rate, factor, *parameters
        )
        ctx.ranges, ctx.second_from = ranges, second_from
        ctx.relu, ctx.add = relu, add is not None
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, out, scale, shift, index, center, rate, factor, *parameters = ctx.saved_tensors
        by = _Modulation(scale, shift, index, x)
        grad = _channels_last(grad)
        rows, channels, height, width = x.shape
        pixels = height * width
        cut = tiles_of(pixels, channels)
        tile = cut.options()
        masked = grad if out is None else out

        def floats(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=torch.float32, device=x.device)

        plain, weighted = floats(rows * cut.groups, channels), floats(rows * cut.groups, channels)
        triton_kernels.gradient_sums[rows * cut.groups, cut.columns](
            grad, masked, x, center, rate, plain, weighted,
            ctx.second_from, pixels, channels, cut.groups, cut.span, RELU=ctx.relu, **tile,
        )  # fmt: skip
        grad_weight, grad_bias = torch.empty_like(center), torch.empty_like(center)
        of_film = [floats(rows, channels), floats(rows, channels)] if by.there else [plain] * 2
        for i, (first, end) in enumerate(ctx.ranges):
            triton_kernels.parameter_gradients[(triton.cdiv(channels, SUMS["BLOCK_C"]),)](
                plain, weighted, parameters[2 * i], parameters[2 * i + 1], by.scale,
                grad_weight[i], grad_bias[i], *of_film,
                first, end, cut.groups, by.index, by.stride, channels, **by.flags(), **SUMS,
            )  # fmt: skip
        counts = [(end - first) * pixels for first, end in ctx.ranges]
        grad_x = torch.empty_like(x)
        apart = ctx.add and ctx.relu  # else the gradient of what was added is the one that came
        grad_add = torch.empty_like(x) if apart else grad
        triton_kernels.normalise_backward[rows * cut.chunks, cut.columns](
            grad, masked, x, center, rate, factor, grad_weight, grad_bias, by.scale,
            grad_x, grad_add, ctx.second_from, counts[0], counts[-1],
            by.index, by.stride, pixels, channels, cut.chunks,
            ADD=apart, RELU=ctx.relu, **by.flags(), **tile,
        )  # fmt: skip
        if by.indexed:
            sums = [floats(by.codes, channels), floats(by.codes, channels)]
            triton_kernels.sum_by_code[by.codes, triton.cdiv(channels, SUMS["BLOCK_C"])](
                by.index, *of_film, *sums, rows, channels, **SUMS
            )
            of_film = sums
        elif by.codes == 1:
            of_film = [t.sum(0, keepdim=True) for t in of_film]
        return (
            grad_x,
            grad_add if ctx.add else None,
            *(of_film if by.there else (None, None)),
            *(None, None, None, None),
            *(t for pair in zip(grad_weight, grad_bias, strict=True) for t in pair),
        )


def _of(film: Film | None) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the tensors of FiLM, or none."""
    return (None, None, None) if film is None else film


def _can(x: Tensor) -> bool:
    return x.dtype in (torch.float32, torch.bfloat16, torch.float16) and x.numel() > 0


def finish(x: Tensor, film: Film | None, add: Tensor | None, relu: bool) -> Tensor:
    """Do what `oat.models.compute.finish` does, which also does what is not done here."""
    learns = film is not None and film.scale.requires_grad and torch.is_grad_enabled()
    if not _can(x) or learns:
        return compute.finish(x, film, add, relu)
    if film is None and add is None and not relu:
        return x
    return _Finish.apply(x, add, film, relu)  # type: ignore[no-any-return]


def normalise(
    x: Tensor,
    norms: Sequence[BatchNorm],
    num_zero: int,
    film: Film | None,
    add: Tensor | None,
    relu: bool,
) -> Tensor:
    """Do what `oat.models.compute.normalise` does, which also does what is not done here."""
    if not _can(x) or not all(norm.training for norm in norms):
        return compute.normalise(x, norms, num_zero, film, add, relu)
    parameters = [t for norm in norms for t in (norm.weight, norm.bias)]
    return _Normalise.apply(  # type: ignore[no-any-return]
        x, add, *_of(film), norms, num_zero, relu, *parameters
    )
