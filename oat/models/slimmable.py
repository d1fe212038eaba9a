"""Layers that can run at a share of their channels, by slicing their weights.

Source: Yu et al., Slimmable Neural Networks, ICLR 2019; as used in OATS (Wang et al., 2020).
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from oat.models.compute import conv2d
from oat.widths import scaled


class SlimmableConv2d(nn.Conv2d):
    """A 2-D convolution that can use the leading share of its channels.

    Args:
        in_channels: Input channels at full width.
        out_channels: Output channels at full width.
        kernel_size: Side of the kernel.
        stride: Stride.
        padding: Padding.
        bias: Whether there is a bias; only in a folded network, which is not sliced.
        slim_in: Whether the input channels shrink with the width; not so for the image.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        *,
        bias: bool = False,
        slim_in: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=bias)
        self.slim_in = slim_in

    def sliced(self, width_mult: float) -> Tensor:
        """Return the weight in use at a width multiplier, a view of shape (O', I', k, k)."""
        if width_mult == 1:
            return self.weight
        rows = scaled(self.out_channels, width_mult)
        columns = scaled(self.in_channels, width_mult) if self.slim_in else self.in_channels
        return self.weight[:rows, :columns]

    def forward(self, x: Tensor, width_mult: float = 1.0) -> Tensor:
        """Convolve features of shape (N, C, H, W), C as `sliced` has it."""
        return conv2d(x, self.sliced(width_mult), self.bias, self.stride, self.padding)


class SlimmableLinear(nn.Linear):
    """A linear layer whose input may be a leading share of its features."""

    def at(self, width_mult: float) -> tuple[Tensor, Tensor]:
        """Return weight (O, F') and bias (O,) in use at a width multiplier."""
        return self.weight[:, : scaled(self.in_features, width_mult)], self.bias

    def forward(self, x: Tensor, width_mult: float = 1.0) -> Tensor:
        """Map features of shape (N, F'), F' the share in use, to (N, O)."""
        return functional.linear(x, *self.at(width_mult))


class HeadPerWidth(nn.Module):
    """A classifier of its own for each width.

    Args:
        in_features: Features F at full width.
        num_classes: Length of the logits.
        widths: Width multipliers.

    Source: SOLAR, WACV 2026.
    """

    def __init__(self, in_features: int, num_classes: int, widths: Sequence[float]) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.heads = nn.ModuleList(nn.Linear(scaled(in_features, w), num_classes) for w in widths)

    def at(self, width_mult: float) -> tuple[Tensor, Tensor]:
        """Return weight (O, F') and bias (O,) of one width."""
        head = self.heads[self.widths.index(width_mult)]
        assert isinstance(head, nn.Linear)
        return head.weight, head.bias

    def forward(self, x: Tensor, width_mult: float = 1.0) -> Tensor:
        """Map features of shape (N, F'), F' the share in use, to (N, O)."""
        return functional.linear(x, *self.at(width_mult))
