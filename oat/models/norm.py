"""Batch normalisation by λ and by width, and what freezing it means.

A network of ours is told in one `Condition` how a forward pass is conditioned. With frozen
statistics a batch norm and its FiLM are one affine map per channel, so at a fixed λ the pair of
a convolution and its norm is a convolution (`ConvNorm.freeze`). The attack of training, the
evaluation and the deployed network all run on that.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol

import torch
from torch import Tensor, nn

from oat.models.compute import AS_IT_IS, BatchNorm, Compute, Film, conv2d, finish, normalise
from oat.models.film import FiLM
from oat.models.slimmable import SlimmableConv2d
from oat.widths import scaled


class FrozenOp(Protocol):
    """What a unit is when it is frozen."""

    def __call__(self, x: Tensor, add: Tensor | None = None, relu: bool = False) -> Tensor:
        """Map features (N, C, H, W); then add others of the result's shape, and cut at 0."""
        ...


@dataclass(frozen=True)
class Condition:
    """How one forward pass is conditioned.

    Attributes:
        lam_code: Encoded λ, shape (K, E); None in a network without FiLM.
        lam_index: Row of ``lam_code`` for each image, shape (N,); None if K is N or 1.
        num_zero_lam: Leading rows with λ = 0, which take the clean batch norm; None is all of
            them.
        width_mult: Share of the channels in use.
        frozen: What replaces each conv-norm pair and each lone norm when the network is frozen.
        compute: In which type, and whether compiled kernels do the elementwise work.
    """

    lam_code: Tensor | None = None
    lam_index: Tensor | None = None
    num_zero_lam: int | None = None
    width_mult: float = 1.0
    frozen: Mapping[nn.Module, FrozenOp] | None = None
    compute: Compute = AS_IT_IS


def finish_by(compute: Compute) -> Callable[..., Tensor]:
    """Return `finish` as a network computes it."""
    return gpu_kernels().finish if compute.compiled else finish


def normalise_by(compute: Compute) -> Callable[..., Tensor]:
    """Return `normalise` as a network computes it."""
    return gpu_kernels().normalise if compute.compiled else normalise


def gpu_kernels() -> ModuleType:
    """Return `oat.models.kernels`.

    Raises:
        ImportError: There is no Triton, which not every torch comes with.
    """
    from oat.models import kernels

    return kernels


class DualBatchNorm2d(nn.Module):
    """Two batch norms: the clean one for rows with λ = 0, the adversarial one for the others."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.clean = nn.BatchNorm2d(channels)
        self.adv = nn.BatchNorm2d(channels)

    def branches(self, rows: int, num_zero_lam: int | None) -> list[nn.BatchNorm2d]:
        """Return the norm that all rows take, or the one of the first rows and that of the rest.

        Args:
            rows: How many there are.
            num_zero_lam: Leading rows with λ = 0; None is all.
        """
        if num_zero_lam is None or num_zero_lam >= rows:
            return [self.clean]
        return [self.adv] if num_zero_lam == 0 else [self.clean, self.adv]

    def forward(self, x: Tensor, num_zero_lam: int | None = None) -> Tensor:
        """Normalise features (N, C, H, W), each row by its branch."""
        norms = [tensors_of(norm) for norm in self.branches(x.shape[0], num_zero_lam)]
        return normalise(x, norms, num_zero_lam or 0, None, None, False)


def tensors_of(bn: nn.BatchNorm2d) -> BatchNorm:
    """Count a pass in training, and return a batch norm as tensors.

    Without a momentum the running statistics are the plain mean over all passes.
    """
    assert bn.running_mean is not None
    assert bn.running_var is not None
    assert bn.num_batches_tracked is not None
    if bn.training:
        bn.num_batches_tracked.add_(1)
    momentum = bn.momentum
    if momentum is None:
        momentum = 1 / float(bn.num_batches_tracked) if bn.training else 0.0
    return BatchNorm(
        bn.running_mean, bn.running_var, bn.weight, bn.bias, bn.training, momentum, bn.eps
    )


def bn_affine(bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return scale and shift, each (C,), of a batch norm with its running statistics."""
    assert bn.running_var is not None
    assert bn.running_mean is not None
    scale = bn.weight * torch.rsqrt(bn.running_var + bn.eps)
    return scale, bn.bias - bn.running_mean * scale


class Norm2d(nn.Module):
    """Batch norm (one, or a clean/adversarial pair, for each width), then FiLM if there is one.

    Args:
        channels: Channels C at full width.
        widths: Width multipliers, each with statistics of its own.
        dual: Whether λ = 0 has a batch norm of its own.
        film_dim: Length of the λ code; 0 for no FiLM.
        film_init: See `FiLM`.
        film_slices: See `FiLM`.
    """

    def __init__(
        self,
        channels: int,
        *,
        widths: Sequence[float] = (1.0,),
        dual: bool = False,
        film_dim: int = 0,
        film_init: str = "identity",
        film_slices: str = "halves",
    ) -> None:
        super().__init__()
        self.widths = tuple(widths)
        kind = DualBatchNorm2d if dual else nn.BatchNorm2d
        self.bn = nn.ModuleList(kind(scaled(channels, width)) for width in self.widths)
        self.film = (
            FiLM(channels, film_dim, init=film_init, slices=film_slices) if film_dim else None
        )

    def _bn(self, width_mult: float) -> nn.Module:
        if width_mult not in self.widths:
            raise ValueError(
                f"`width_mult` must be one of {list(self.widths)}, got {width_mult:g}."
            )
        return self.bn[self.widths.index(width_mult)]

    def forward(
        self, x: Tensor, cond: Condition, add: Tensor | None = None, relu: bool = False
    ) -> Tensor:
        """Normalise and modulate features of shape (N, C, H, W), add others, cut at 0."""
        if cond.frozen is not None:
            return cond.frozen[self](x, add, relu)
        bn, zeros = self._bn(cond.width_mult), 0
        if isinstance(bn, DualBatchNorm2d):
            norms, zeros = bn.branches(x.shape[0], cond.num_zero_lam), cond.num_zero_lam or 0
        else:
            assert isinstance(bn, nn.BatchNorm2d)
            norms = [bn]
        film = None
        if self.film is not None:
            assert cond.lam_code is not None
            scale, shift = self.film(cond.lam_code, x.shape[1])
            film = Film(scale, shift, cond.lam_index)
        run = normalise_by(cond.compute)
        return run(x, [tensors_of(norm) for norm in norms], zeros, film, add, relu)

    def affine(self, cond: Condition) -> tuple[Tensor, Tensor]:
        """Merge the frozen batch norm and FiLM.

        Returns:
            Scale and shift, each (K, C), or (1, C) where nothing depends on λ.

        Raises:
            ValueError: λ = 0 and other rows are mixed; a frozen network has one branch.
        """
        bn = self._bn(cond.width_mult)
        if isinstance(bn, DualBatchNorm2d):
            if cond.num_zero_lam not in (None, 0):
                raise ValueError(
                    "`num_zero_lam` must be 0 or None to freeze: the two batch norms cannot mix."
                )
            bn = bn.clean if cond.num_zero_lam is None else bn.adv
        assert isinstance(bn, nn.BatchNorm2d)
        scale, shift = bn_affine(bn)
        scale, shift = scale.unsqueeze(0), shift.unsqueeze(0)
        if self.film is None:
            return scale, shift
        assert cond.lam_code is not None
        film_scale, film_shift = self.film(cond.lam_code, scale.shape[1])
        return scale * film_scale, torch.addcmul(film_shift, shift, film_scale)

    def freeze(self, cond: Condition) -> FrozenOp:
        """Return the affine map that this norm is at the given condition."""
        film = self.frozen_film(cond)
        run = finish_by(cond.compute)
        return lambda x, add=None, relu=False: run(x, film, add, relu)

    def frozen_film(self, cond: Condition) -> Film:
        """Return the affine map that this norm is at the given condition, without gradients.

        Kernels look up the row of each image; elsewhere the rows are spread here, once for all
        passes.
        """
        scale, shift = (t.detach() for t in self.affine(cond))
        film = Film(scale, shift, cond.lam_index)
        return film if cond.compute.compiled else film.spread()


class Affine2d(nn.Module):
    """A scale and a shift of each channel: what a lone norm is in a folded network."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(
        self, x: Tensor, cond: Condition, add: Tensor | None = None, relu: bool = False
    ) -> Tensor:
        """Scale and shift features of shape (N, C, H, W), add others, cut at 0."""
        return finish_by(cond.compute)(x, Film(*self.affine(cond)), add, relu)

    def affine(self, cond: Condition) -> tuple[Tensor, Tensor]:
        """Return scale and shift, each (1, C)."""
        return self.scale.unsqueeze(0), self.shift.unsqueeze(0)

    def freeze(self, cond: Condition) -> FrozenOp:
        """Return the same map."""
        return lambda x, add=None, relu=False: self(x, cond, add, relu)


class ConvNorm(nn.Module):
    """A convolution and the norm that follows it, if one does; together they freeze to one.

    Args:
        in_channels: Input channels at full width.
        out_channels: Output channels at full width.
        kernel_size: Side of the kernel; padding keeps the size at stride 1.
        stride: Stride.
        norm: The norm of ``out_channels``; None where none follows.
        bias: Whether the convolution has a bias: where a norm has been folded into it.
        slim_in: Whether the input channels shrink with the width; not so for the image.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        norm: Norm2d | None,
        *,
        bias: bool = False,
        slim_in: bool = True,
    ) -> None:
        super().__init__()
        self.conv = SlimmableConv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding=kernel_size // 2,
            bias=bias,
            slim_in=slim_in,
        )
        self.norm = norm

    def forward(
        self, x: Tensor, cond: Condition, add: Tensor | None = None, relu: bool = False
    ) -> Tensor:
        """Convolve and normalise features of shape (N, C, H, W), add others, cut at 0."""
        if cond.frozen is not None:
            return cond.frozen[self](x, add, relu)
        x = self.conv(x, cond.width_mult)
        if self.norm is not None:
            return self.norm(x, cond, add, relu)  # type: ignore[no-any-return]
        if add is None and not relu:
            return x
        return finish_by(cond.compute)(x, None, add, relu)

    def folded(self, cond: Condition) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias of the convolution that the pair is at one λ and width.

        Raises:
            ValueError: The condition has more than one λ.
        """
        weight = self.conv.sliced(cond.width_mult)
        if self.norm is None:
            return weight, self.conv.bias
        scale, shift = self.norm.affine(cond)
        if scale.shape[0] != 1:
            raise ValueError(f"Folding needs one λ, got {scale.shape[0]}.")
        return weight * scale[0, :, None, None, None], shift[0]

    def freeze(self, cond: Condition) -> FrozenOp:
        """Return the frozen pair: one convolution, or one and an affine map.

        Its weights are cast to the type of the features here, once, not at each pass.
        """
        conv, dtype = self.conv, cond.compute.dtype
        run = finish_by(cond.compute)
        codes = 1
        if self.norm is not None and self.norm.film is not None and cond.lam_code is not None:
            codes = len(cond.lam_code)
        film = None
        # where kernels run, a bias would be one more pass over the features
        if self.norm is not None and (codes > 1 or cond.compute.compiled):
            weight, bias = conv.sliced(cond.width_mult), None
            film = self.norm.frozen_film(cond)
        else:
            weight, bias = self.folded(cond)
        weight = weight.detach().to(dtype)
        bias = None if bias is None else bias.detach().to(dtype)

        def frozen(x: Tensor, add: Tensor | None = None, relu: bool = False) -> Tensor:
            x = conv2d(x, weight, bias, conv.stride, conv.padding)
            if film is None and add is None and not relu:
                return x
            return run(x, film, add, relu)

        return frozen
