"""Batch normalisation by λ and by width, and what freezing it means.

A network of ours is told in one `Condition` how a forward pass is conditioned. With frozen
statistics a batch norm and its FiLM are one affine map per channel, so at a fixed λ the pair of
a convolution and its norm is a convolution (`ConvNorm.freeze`). The attack of training, the
evaluation and the deployed network all run on that.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from oat.models.film import FiLM
from oat.models.slimmable import SlimmableConv2d, scaled

FrozenOp = Callable[[Tensor], Tensor]


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
    """

    lam_code: Tensor | None = None
    lam_index: Tensor | None = None
    num_zero_lam: int | None = None
    width_mult: float = 1.0
    frozen: Mapping[nn.Module, FrozenOp] | None = None


class DualBatchNorm2d(nn.Module):
    """Two batch norms: the clean one for rows with λ = 0, the adversarial one for the others."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.clean = nn.BatchNorm2d(channels)
        self.adv = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor, num_zero_lam: int | None = None) -> Tensor:
        """Normalise the first ``num_zero_lam`` rows (None: all) as clean, the rest as adversarial.

        Args:
            x: Features, shape (N, C, H, W).
            num_zero_lam: Leading rows with λ = 0.
        """
        if num_zero_lam is None or num_zero_lam >= x.shape[0]:
            return self.clean(x)  # type: ignore[no-any-return]
        if num_zero_lam == 0:
            return self.adv(x)  # type: ignore[no-any-return]
        return torch.cat([self.clean(x[:num_zero_lam]), self.adv(x[num_zero_lam:])])


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

    def forward(self, x: Tensor, cond: Condition) -> Tensor:
        """Normalise and modulate features of shape (N, C, H, W)."""
        if cond.frozen is not None:
            return cond.frozen[self](x)
        bn = self._bn(cond.width_mult)
        x = bn(x, cond.num_zero_lam) if isinstance(bn, DualBatchNorm2d) else bn(x)
        if self.film is None:
            return x
        assert cond.lam_code is not None
        scale, shift = self.film(cond.lam_code, x.shape[1])
        return torch.addcmul(_rows(shift, cond), x, _rows(scale, cond))

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
        scale, shift = (_rows(t.detach(), cond) for t in self.affine(cond))
        return lambda x: torch.addcmul(shift, x, scale)


def _rows(per_code: Tensor, cond: Condition) -> Tensor:
    """Spread (K, C) over the rows of the batch: (N, C, 1, 1), or (1, C, 1, 1) if K is 1."""
    if cond.lam_index is not None and per_code.shape[0] > 1:
        per_code = per_code[cond.lam_index]
    return per_code[:, :, None, None]


class Affine2d(nn.Module):
    """A scale and a shift of each channel: what a lone norm is in a folded network."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, cond: Condition) -> Tensor:
        """Scale and shift features of shape (N, C, H, W)."""
        scale, shift = self.scale[:, None, None], self.shift[:, None, None]
        return torch.addcmul(shift, x, scale)

    def affine(self, cond: Condition) -> tuple[Tensor, Tensor]:
        """Return scale and shift, each (1, C)."""
        return self.scale.unsqueeze(0), self.shift.unsqueeze(0)

    def freeze(self, cond: Condition) -> FrozenOp:
        """Return the same map."""
        return lambda x: self(x, cond)


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

    def forward(self, x: Tensor, cond: Condition) -> Tensor:
        """Convolve and normalise features of shape (N, C, H, W)."""
        if cond.frozen is not None:
            return cond.frozen[self](x)
        x = self.conv(x, cond.width_mult)
        return x if self.norm is None else self.norm(x, cond)

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
        """Return the frozen pair: one convolution, or one and an affine map for each row."""
        conv = self.conv
        stride, padding = conv.stride, conv.padding
        several = (
            self.norm is not None
            and self.norm.film is not None
            and (cond.lam_code is not None and cond.lam_code.shape[0] > 1)
        )
        if several:
            assert self.norm is not None
            weight = conv.sliced(cond.width_mult).detach()
            affine = self.norm.freeze(cond)
            return lambda x: affine(functional.conv2d(x, weight, None, stride, padding))
        weight, bias = self.folded(cond)
        weight, bias = weight.detach(), None if bias is None else bias.detach()
        return lambda x: functional.conv2d(x, weight, bias, stride, padding)
