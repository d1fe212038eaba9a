"""Networks by name."""

from dataclasses import replace

import torch
from torch import nn

from oat.models.config import WIDE, Conditioning, ModelConfig
from oat.models.network import Network
from oat.models.operations import Unfilled
from oat.models.resnet import ResNet
from oat.models.wide_resnet import WideResNet
from oat.widths import scaled


def build(
    config: ModelConfig,
    *,
    in_channels: int,
    num_classes: int,
    conditioning: Conditioning | None = None,
) -> Network:
    """Build a network with He initialisation from torch's global generator.

    Args:
        config: Name and width.
        in_channels: Channels of the images.
        num_classes: Length of the logits.
        conditioning: λ, batch norms and widths; None for a plain network.

    Returns:
        The network, in train mode, on the CPU.

    Raises:
        ValueError: A width leaves no whole number of channels.
    """
    conditioning = conditioning or Conditioning()
    if conditioning.base_width != 1:
        config = replace(config, width=scaled(config.first_width, conditioning.base_width))
    family = WideResNet if WIDE.fullmatch(config.name) else ResNet
    net = family(config, conditioning, in_channels=in_channels, num_classes=num_classes)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net


def build_unfilled(
    config: ModelConfig,
    *,
    in_channels: int,
    num_classes: int,
    conditioning: Conditioning | None = None,
) -> Network:
    """Build a network whose weights are not drawn, to be counted or filled.

    torch's meta device would do the same, and imports torch's compiler.
    """
    with torch.random.fork_rng(devices=[]), Unfilled():  # encodings draw a little
        return build(
            config, in_channels=in_channels, num_classes=num_classes, conditioning=conditioning
        )
