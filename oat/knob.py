"""A network with its trade-off as an input, as one function that can be exported.

`oat.deploy.fold` says what a network is at one λ; `Knob` is all of these in one, with a λ for each
image.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from oat.deploy import fold
from oat.encodings import BY_VALUE
from oat.lambdas import SAME_LAM
from oat.models import Mixture, Network
from oat.models.compute import Film, finish
from oat.models.norm import Affine2d, Condition, ConvNorm, Norm2d


class Knob(nn.Module):
    """A conditional network at one width, with λ as an input.

    No branch and no shape depends on a value, so that one trace of it serves every λ and every
    number of images. Up to rounding its logits are those of `oat.deploy.fold`.

    Args:
        model: A network with λ; it is copied.
        width_mult: One of its widths.

    Raises:
        ValueError: The network has no λ, or not that width.
    """

    def __init__(self, model: Network, width_mult: float = 1.0) -> None:
        super().__init__()
        if model.encoding is None:
            raise ValueError("The network has no λ: it is one point, which `fold` returns.")
        if width_mult not in model.conditioning.widths:
            raise ValueError(
                f"`width_mult` must be one of {list(model.conditioning.widths)}, "
                f"got {width_mult:g}."
            )
        self.network = copy.deepcopy(model).eval().requires_grad_(False)
        self.encoding = model.encoding
        self.width_mult = width_mult
        _serve_each_lam(self.network)

    def forward(self, images: Tensor, lam: Tensor) -> Tensor:
        """Classify each image at a λ of its own.

        Args:
            images: Images in [0, 1], shape (N, C, H, W).
            lam: Trade-off weights, shape (N,).

        Returns:
            Logits, shape (N, K); NaN where the network does not know the λ, or never trained the
            batch norms that it takes.
        """
        code = self.encoding.encode(lam)
        each = EachLam(code, width_mult=self.width_mult, zero=lam < SAME_LAM)
        return _unless(self._unknown(lam), self.network.logits(images, each))

    def _unknown(self, lam: Tensor) -> Tensor:
        if self.encoding.encoding in BY_VALUE:
            unknown = outside(lam)
            if not self.network.conditioning.trains_norms_of(0.0):
                unknown = unknown | (lam < SAME_LAM)
            if not self.network.conditioning.trains_norms_of(1.0):
                unknown = unknown | (lam >= SAME_LAM)
            return unknown
        distance = (self.encoding.choices - lam.double().unsqueeze(1)).abs().amin(dim=1)
        return ~(distance < SAME_LAM)  # so NaN is unknown as well


class MixtureKnob(nn.Module):
    """Two networks whose class probabilities are mixed, with their weight α as an input.

    Args:
        model: The pair; it is copied.
    """

    def __init__(self, model: Mixture) -> None:
        super().__init__()
        self.ends = nn.ModuleList(fold(end, None) for end in model.networks)

    def forward(self, images: Tensor, lam: Tensor) -> Tensor:
        """Classify each image at an α of its own.

        Args:
            images: Images in [0, 1], shape (N, C, H, W).
            lam: α in [0, 1], shape (N,); 0 is the first network, 1 the second.

        Returns:
            Log-probabilities, shape (N, K); NaN where α is out of its range.
        """
        first, second = (functional.log_softmax(end(images).float(), dim=1) for end in self.ends)
        alpha = lam.unsqueeze(1)
        mixed = torch.logaddexp(torch.log1p(-alpha) + first, alpha.log() + second)
        return _unless(outside(lam), mixed)


def outside(lam: Tensor) -> Tensor:
    """Tell which trade-off weights are not in [0, 1]; NaN is not."""
    return ~((lam >= 0) & (lam <= 1))


def _unless(unknown: Tensor, logits: Tensor) -> Tensor:
    return torch.where(unknown.unsqueeze(1), torch.nan, logits)


@dataclass(frozen=True)
class EachLam(Condition):
    """A condition with a λ for each image.

    Attributes:
        zero: Where λ is 0, shape (N,).
    """

    zero: Tensor | None = None


def _serve_each_lam(module: nn.Module) -> None:
    """Put `UnitAtEachLam` in the place of every unit below a module."""
    for name, child in module.named_children():
        if isinstance(child, ConvNorm | Norm2d | Affine2d):
            module.add_module(name, UnitAtEachLam(child))
        else:
            _serve_each_lam(child)


class UnitAtEachLam(nn.Module):
    """A convolution with its norm, or a lone norm, with frozen statistics and a λ for each image.

    Args:
        unit: Of a network that is not folded.
    """

    def __init__(self, unit: ConvNorm | Norm2d | Affine2d) -> None:
        super().__init__()
        assert not isinstance(unit, Affine2d), "a folded network has no λ"
        self.conv = unit.conv if isinstance(unit, ConvNorm) else None
        self.norm = unit.norm if isinstance(unit, ConvNorm) else unit

    def forward(
        self, x: Tensor, cond: EachLam, add: Tensor | None = None, relu: bool = False
    ) -> Tensor:
        """Convolve and normalise features of shape (N, C, H, W), add others, cut at 0."""
        if self.conv is not None:
            x = self.conv(x, cond.width_mult)
        return finish(x, self._film(cond), add, relu)

    def _film(self, cond: EachLam) -> Film | None:
        """Merge batch norm and FiLM, where λ is 0 with the clean one of two batch norms."""
        if self.norm is None:
            return None
        assert cond.zero is not None
        clean, others = (
            self.norm.affine(Condition(cond.lam_code, None, zeros, cond.width_mult))
            for zeros in (None, 0)
        )
        zero = cond.zero.unsqueeze(1)
        scale, shift = (torch.where(zero, *both) for both in zip(clean, others, strict=True))
        return Film(scale, shift)
