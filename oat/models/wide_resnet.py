"""Wide residual networks for small images, with the norm before the convolution.

Source: Zagoruyko and Komodakis, BMVC 2016; FiLM after every norm but the last, as in Wang et al.,
2020.
"""

from torch import Tensor, nn
from torch.nn import functional

from oat.models.config import Conditioning, ModelConfig
from oat.models.network import PooledNetwork
from oat.models.norm import Condition


class WideBlock(nn.Module):
    """Norm, ReLU, 3x3, norm, ReLU, dropout, 3x3, and the sum with the (projected) input.

    Args:
        net: The network that makes the layers.
        in_channels: Input channels.
        channels: Output channels.
        stride: Stride of the block.
        dropout: Share of features dropped between the convolutions.
    """

    def __init__(
        self, net: PooledNetwork, in_channels: int, channels: int, stride: int, dropout: float
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.norm = net.norm(in_channels)
        self.first = net.conv_norm(in_channels, channels, 3, stride)
        self.second = net.conv(channels, channels, 3)
        self.shortcut = (
            net.conv(in_channels, channels, 1, stride) if in_channels != channels else None
        )

    def forward(self, x: Tensor, cond: Condition) -> Tensor:
        """Map features (N, C, H, W) to (N, C', H/stride, W/stride)."""
        active = self.norm(x, cond, relu=True)
        out = self.first(active, cond, relu=True)
        out = functional.dropout(out, self.dropout, self.training and cond.frozen is None)
        # a projection reads the activated input, an identity the raw one
        add = x if self.shortcut is None else self.shortcut(active, cond)
        return self.second(out, cond, add)  # type: ignore[no-any-return]


class WideResNet(PooledNetwork):
    """``wrn-D-K``: depth D = 6n + 4, stages of K, 2K and 4K times the stem's channels.

    Args:
        config: Depth, widening factor, channels of the stem, dropout.
        conditioning: λ, batch norms and widths.
        in_channels: Channels of the images.
        num_classes: Length of the logits.
    """

    def __init__(
        self,
        config: ModelConfig,
        conditioning: Conditioning,
        *,
        in_channels: int,
        num_classes: int,
    ) -> None:
        super().__init__(config, conditioning, in_channels=in_channels, num_classes=num_classes)
        depth, widen = config.wide
        base = config.first_width
        self.stem = self.conv(in_channels, base, 3, slim_in=False)
        blocks, channels = [], base
        for stage in range(3):
            for i in range((depth - 4) // 6):
                stride = 2 if stage > 0 and i == 0 else 1
                out = base * widen << stage
                blocks.append(WideBlock(self, channels, out, stride, config.dropout))
                channels = out
        self.blocks = nn.ModuleList(blocks)
        self.last_norm = self.norm(channels, film=False)
        self.head = self.classifier(channels)

    def features(self, images: Tensor, cond: Condition) -> Tensor:
        """Compute the last features, shape (N, C, H, W), under a condition."""
        x: Tensor = self.stem(images, cond)
        for block in self.blocks:
            x = block(x, cond)
        return self.last_norm(x, cond, relu=True)  # type: ignore[no-any-return]
