"""What every network of ours offers, whatever its family."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from oat.models.codes import LambdaEncoding
from oat.models.compute import AS_IT_IS
from oat.models.config import Conditioning, ModelConfig
from oat.models.norm import Affine2d, Condition, ConvNorm, FrozenOp, Norm2d
from oat.models.slimmable import HeadPerWidth, SlimmableLinear

Unit = ConvNorm | Norm2d | Affine2d


class Network(nn.Module, ABC):
    """A classifier of images in [0, 1] that may be conditioned on λ and width.

    Inputs are not normalised, as in the published code. Subclasses define `logits`.

    Attributes:
        config: Which network it is.
        conditioning: What it is conditioned on.
        encoding: The encoder of λ; None in a network without λ.
        num_classes: Length of the logits.
        in_channels: Channels of the images.
        compute: How passes of `forward` and views by `oat.deploy.specialize` compute.
    """

    def __init__(
        self,
        config: ModelConfig,
        conditioning: Conditioning,
        *,
        in_channels: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.config = config
        self.conditioning = conditioning
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.compute = AS_IT_IS
        self.encoding = (
            LambdaEncoding(
                conditioning.lambda_choices, conditioning.encoding, conditioning.encoding_dim
            )
            if conditioning.lambda_choices
            else None
        )

    def conv_norm(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        *,
        film: bool = True,
        slim_in: bool = True,
    ) -> ConvNorm:
        """Make a convolution with its norm, modulated by λ unless ``film`` is False."""
        folded = self.conditioning.folded
        norm = None if folded else self._norm(out_channels, film=film)
        return ConvNorm(
            in_channels, out_channels, kernel_size, stride, norm, bias=folded, slim_in=slim_in
        )

    def conv(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        *,
        slim_in: bool = True,
    ) -> ConvNorm:
        """Make a convolution that no norm follows."""
        return ConvNorm(in_channels, out_channels, kernel_size, stride, None, slim_in=slim_in)

    def norm(self, channels: int, *, film: bool = True) -> Norm2d | Affine2d:
        """Make a norm that follows no convolution, modulated by λ unless ``film`` is False."""
        return Affine2d(channels) if self.conditioning.folded else self._norm(channels, film=film)

    def _norm(self, channels: int, *, film: bool) -> Norm2d:
        return Norm2d(
            channels,
            widths=self.conditioning.widths,
            dual=self.conditioning.dual_bn,
            film_dim=self.encoding.dim if film and self.encoding is not None else 0,
            film_init=self.conditioning.film_init,
            film_slices=self.conditioning.film_slices,
        )

    @abstractmethod
    def logits(self, images: Tensor, cond: Condition) -> Tensor:
        """Compute logits of shape (N, ``num_classes``) under a condition, in float32 or wider."""

    def forward(
        self,
        images: Tensor,
        lam_code: Tensor | None = None,
        *,
        lam_index: Tensor | None = None,
        num_zero_lam: int | None = None,
        width_mult: float = 1.0,
    ) -> Tensor:
        """Classify images.

        Args:
            images: Images in [0, 1], shape (N, C, H, W).
            lam_code: Encoded λ: a row for each image, or distinct rows that ``lam_index`` points
                into, or one row for all. Required exactly if the network is conditioned on λ.
            lam_index: Row of ``lam_code`` for each image, shape (N,).
            num_zero_lam: How many leading images have λ = 0; required with ``lam_code``.
            width_mult: One of the conditioning's widths.

        Returns:
            Logits, shape (N, ``num_classes``).

        Raises:
            ValueError: The condition does not fit the network.
        """
        if (lam_code is None) != (self.encoding is None):
            raise ValueError(
                "`lam_code` is required by a network with FiLM."
                if lam_code is None
                else "`lam_code` must be None: this network is not conditioned on λ."
            )
        if lam_code is not None and num_zero_lam is None:
            raise ValueError("`num_zero_lam` is required with `lam_code`: 0 where no λ is 0.")
        cond = Condition(lam_code, lam_index, num_zero_lam, width_mult, compute=self.compute)
        return self.logits(images, cond)

    def units(self) -> list[Unit]:
        """Return every convolution with its norm, and every lone norm, in a fixed order."""
        found: list[Unit] = []

        def visit(module: nn.Module) -> None:
            for child in module.children():
                if isinstance(child, ConvNorm | Norm2d | Affine2d):
                    found.append(child)
                else:
                    visit(child)

        visit(self)
        return found

    def frozen_ops(self, cond: Condition) -> dict[nn.Module, FrozenOp]:
        """Freeze every unit at a condition."""
        return {unit: unit.freeze(cond) for unit in self.units()}


class PooledNetwork(Network):
    """A network of convolutions, whose last features are averaged over the image and classified.

    Subclasses define `features`.

    Attributes:
        head: The classifier on the pooled features; a subclass makes it.
    """

    head: SlimmableLinear | HeadPerWidth

    def classifier(self, in_features: int) -> SlimmableLinear | HeadPerWidth:
        """Make the classifier on pooled features: sliced, or one for each width."""
        if self.conditioning.head_per_width:
            return HeadPerWidth(in_features, self.num_classes, self.conditioning.widths)
        return SlimmableLinear(in_features, self.num_classes)

    @abstractmethod
    def features(self, images: Tensor, cond: Condition) -> Tensor:
        """Compute the last features, shape (N, C, H, W), under a condition."""

    def logits(self, images: Tensor, cond: Condition) -> Tensor:
        """Compute logits of shape (N, ``num_classes``) under a condition, in float32 or wider."""
        x = self.features(images.to(cond.compute.dtype), cond)
        pooled = x.mean(dim=(2, 3), dtype=torch.promote_types(x.dtype, torch.float32))
        return self.head(pooled, cond.width_mult)  # type: ignore[no-any-return]
