"""Networks by name."""

from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import nn

from oat.models.config import WIDE, Conditioning, ModelConfig
from oat.models.network import Network
from oat.models.operations import Unfilled
from oat.models.own import OwnNetwork
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

    One of the user's is initialised as its function does it.

    Args:
        config: Name and width.
        in_channels: Channels of the images.
        num_classes: Length of the logits.
        conditioning: λ, batch norms and widths; None for a plain network.

    Returns:
        The network, in train mode, on the CPU.

    Raises:
        ValueError: A width leaves no whole number of channels.
        OwnCodeError: A function of the user's fails, or its network cannot be conditioned so.
    """
    conditioning = conditioning or Conditioning()
    if config.own:
        return OwnNetwork(config, conditioning, in_channels=in_channels, num_classes=num_classes)
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

    torch's meta device would do the same, and imports torch's compiler. A network of the user's
    is built as it is, as it may hold values that are in no state dict.
    """
    unfilled = nullcontext() if config.own else Unfilled()
    with torch.random.fork_rng(devices=[]), unfilled:  # encodings draw a little
        return build(
            config, in_channels=in_channels, num_classes=num_classes, conditioning=conditioning
        )
