"""Residual networks for small images: 3x3 stem, no max-pooling.

Source: He et al., CVPR 2016; FiLM after every norm but the shortcut's, as in Wang et al., 2020.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from oat.models.config import BOTTLENECKS, STAGES, Conditioning, ModelConfig
from oat.models.network import PooledNetwork
from oat.models.norm import Condition


class Block(nn.Module):
    """A residual block: two 3x3 convolutions, or the 1-3-1 bottleneck that widens fourfold.

    Args:
        net: The network that makes the layers.
        in_channels: Input channels.
        channels: Channels of the block's 3x3 convolution.
        stride: Stride of the block.
        bottleneck: Whether it is the 1-3-1 form.
    """

    def __init__(
        self, net: PooledNetwork, in_channels: int, channels: int, stride: int, *, bottleneck: bool
    ) -> None:
        super().__init__()
        self.out_channels = 4 * channels if bottleneck else channels
        if bottleneck:
            layers = [
                net.conv_norm(in_channels, channels, 1),
                net.conv_norm(channels, channels, 3, stride),
                net.conv_norm(channels, self.out_channels, 1),
            ]
        else:
            layers = [
                net.conv_norm(in_channels, channels, 3, stride),
                net.conv_norm(channels, channels, 3),
            ]
        self.layers = nn.ModuleList(layers)
        self.shortcut = (
            net.conv_norm(in_channels, self.out_channels, 1, stride, film=False)
            if stride != 1 or in_channels != self.out_channels
            else None
        )

    def forward(self, x: Tensor, cond: Condition) -> Tensor:
        """Map features (N, C, H, W) to (N, C', H/stride, W/stride)."""
        out = x
        for layer in self.layers[:-1]:
            out = layer(out, cond, relu=True)
        add = x if self.shortcut is None else self.shortcut(x, cond)
        return self.layers[-1](out, cond, add, relu=True)  # type: ignore[no-any-return]


class ResNet(PooledNetwork):
    """ResNet of a depth in `oat.models.network.STAGES`.

    Each stage has twice the channels of the one before.

    Args:
        config: Depth and channels of the first stage.
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
        width = config.first_width
        self.stem = self.conv_norm(in_channels, width, 3, slim_in=False)
        self.blocks = nn.ModuleList(
            self._blocks(width, STAGES[config.name], bottleneck=config.name in BOTTLENECKS)
        )
        last = self.blocks[-1]
        assert isinstance(last, Block)
        self.head = self.classifier(last.out_channels)

    def _blocks(self, width: int, stages: Sequence[int], *, bottleneck: bool) -> list[Block]:
        blocks: list[Block] = []
        channels = width
        for stage, count in enumerate(stages):
            for i in range(count):
                stride = 2 if stage > 0 and i == 0 else 1
                block = Block(self, channels, width << stage, stride, bottleneck=bottleneck)
                channels = block.out_channels
                blocks.append(block)
        return blocks

    def features(self, images: Tensor, cond: Condition) -> Tensor:
        """Compute the last features, shape (N, C, H, W), under a condition."""
        x: Tensor = self.stem(images, cond, relu=True)
        for block in self.blocks:
            x = block(x, cond)
        return x
