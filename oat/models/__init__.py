"""Networks by name."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from oat.models.network import WIDE, Conditioning, ModelConfig, Network
from oat.models.official import OfficialError, load_official
from oat.models.resnet import ResNet
from oat.models.wide_resnet import WideResNet

__all__ = ["Conditioning", "ModelConfig", "Network", "OfficialError", "build", "load_official"]


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
    """
    family = WideResNet if WIDE.fullmatch(config.name) else ResNet
    net = family(
        config, conditioning or Conditioning(), in_channels=in_channels, num_classes=num_classes
    )
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net


def count_parameters(net: nn.Module) -> int:
    """Count the trainable numbers of a network."""
    return sum(p.numel() for p in net.parameters())


def stored_bytes(net: nn.Module) -> int:
    """Count the bytes of a network's parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in net.state_dict().values())


def flops(net: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Count the multiply-adds, times two, of one image through a network.

    Args:
        net: A plain network, such as `oat.deploy.fold` returns.
        image_shape: Channels, height and width.
    """
    device = next(net.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, *image_shape, device=device))
    return int(counter.get_total_flops())
