"""The operations of a plain network, from its config alone: planning needs no torch.

A test holds each against what `oat.models.flops` counts of the network itself.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from oat.models.config import BOTTLENECKS, STAGES, WIDE, ModelConfig
from oat.widths import scaled


class _Conv(NamedTuple):
    """A convolution: channels in and out, the kernel's side, and how often its input is halved."""

    inputs: int
    outputs: int
    side: int
    halvings: int


def forward_flops(
    config: ModelConfig, image_shape: tuple[int, int, int], num_classes: int, width: float = 1.0
) -> int:
    """Return the multiply-adds, times two, of one image through a plain network.

    Args:
        config: Which network.
        image_shape: Channels, height and width.
        num_classes: Length of the logits.
        width: Share of its channels.

    Raises:
        ValueError: The width leaves no whole number of channels.
        OwnCodeError: A network of the user's does not take such images.
    """
    channels, *sides = image_shape
    if config.own:
        return _counted(config, image_shape, num_classes)
    first = scaled(config.first_width, width)
    total = last = 0
    for conv in _convolutions(config, channels, first):
        height, breadth = (-(-side // 2**conv.halvings) for side in sides)
        total += 2 * height * breadth * conv.inputs * conv.outputs * conv.side**2
        last = conv.outputs
    return total + 2 * last * num_classes


@lru_cache(maxsize=256)
def relative_flops(
    config: ModelConfig, width_mult: float, image_shape: tuple[int, int, int]
) -> float:
    """Return the operations of a plain network at a share of its channels, over those of all."""
    if width_mult == 1:
        return 1.0
    full, narrow = (forward_flops(config, image_shape, 10, width) for width in (1.0, width_mult))
    return narrow / full


def layers(config: ModelConfig) -> int:
    """Count the convolutions of a network; of one of the user's as many as ResNet-18 has."""
    if config.own:
        config = ModelConfig("resnet18")
    return sum(1 for _ in _convolutions(config, 3, config.first_width))


@lru_cache(maxsize=256)
def _counted(config: ModelConfig, image_shape: tuple[int, int, int], num_classes: int) -> int:
    """Count the operations of a network of the user's by running it on an image."""
    from oat.models.building import build_unfilled
    from oat.models.costs import flops
    from oat.own_code import OwnCodeError, failure

    net = build_unfilled(config, in_channels=image_shape[0], num_classes=num_classes)
    try:
        return flops(net, image_shape)
    except OwnCodeError:  # it says what is wrong
        raise
    except (RuntimeError, ValueError, IndexError, TypeError, AttributeError) as error:
        raise failure(config.name, "network", error) from error


def _convolutions(config: ModelConfig, channels: int, first: int) -> Iterator[_Conv]:
    """Yield the convolutions of a network; the last one's output is what the head reads."""
    yield _Conv(channels, first, 3, 0)
    bottleneck, wide = config.name in BOTTLENECKS, 1
    if WIDE.fullmatch(config.name):
        depth, wide = config.wide
        stages: tuple[int, ...] = ((depth - 4) // 6,) * 3
    else:
        stages = STAGES[config.name]
    inputs = first
    for stage, count in enumerate(stages):
        inner = first * wide << stage
        outputs = 4 * inner if bottleneck else inner
        for block in range(count):
            before = stage - 1 if stage > 0 and block == 0 else stage
            if inputs != outputs or before != stage:
                yield _Conv(inputs, outputs, 1, stage)
            if bottleneck:
                yield _Conv(inputs, inner, 1, before)
                yield _Conv(inner, inner, 3, stage)
                yield _Conv(inner, outputs, 1, stage)
            else:
                yield _Conv(inputs, inner, 3, stage)
                yield _Conv(inner, inner, 3, stage)
            inputs = outputs
