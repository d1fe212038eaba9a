"""What networks cost: operations, parameters, bytes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import nn

from oat.models.building import build_unfilled
from oat.models.network import Network
from oat.models.operations import Operations
from oat.models.own import OwnNetwork
from oat.models.pairs import Mixed, Mixture, Pair


def count_parameters(net: nn.Module) -> int:
    """Count the trainable numbers of a network."""
    return sum(p.numel() for p in net.parameters())


def stored_bytes(net: nn.Module) -> int:
    """Count the bytes of a network's parameters and buffers, each once."""
    state = net.state_dict(keep_vars=True)  # else each name has a tensor object of its own
    return sum(t.numel() * t.element_size() for t in {id(t): t for t in state.values()}.values())


def flops(net: Network | Mixed, image_shape: tuple[int, int, int], width_mult: float = 1.0) -> int:
    """Count the multiply-adds, times two, of one image through a network, or through two.

    Args:
        net: The network; in one that is conditioned, FiLM's operations at one λ are counted.
        image_shape: Channels, height and width.
        width_mult: One of its widths.
    """
    if isinstance(net, Mixed):
        return sum(flops(end, image_shape, width_mult) for end in net.networks)
    # a network of the user's may not take a batch of no image
    rows = int(isinstance(net, OwnNetwork))
    images = torch.zeros(rows, *image_shape, device=next(net.parameters(), torch.empty(0)).device)
    code = net.encoding.table[:rows] if net.encoding is not None else None
    was_training = net.training
    net.eval()
    with torch.no_grad(), _attention_in_parts(), Operations() as counter:
        net(images, code, num_zero_lam=None if code is None else 0, width_mult=width_mult)
    net.train(was_training)
    total: int = counter.total
    return total


@contextmanager
def _attention_in_parts() -> Iterator[None]:
    """Let torch's transformer layers run in parts, as it has no formula for the whole."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


@dataclass(frozen=True)
class Cost:
    """What a network takes at one width, with λ switched in place.

    Attributes:
        flops: Multiply-adds, times two, for one image, FiLM included.
        parameters: Trainable numbers in use: weights, both batch norms, FiLM.
    """

    flops: int
    parameters: int


def in_situ_cost(
    net: Network | Pair, image_shape: tuple[int, int, int], width_mult: float = 1.0
) -> Cost:
    """Count what a network takes at one of its widths, as if it were built at that width.

    `oat.deploy.fold` gives the network for one λ only, where FiLM and batch norm cost nothing. Of a
    pair both networks are kept; where their outputs are mixed, both run.
    """
    if isinstance(net, Pair):
        costs = [in_situ_cost(end, image_shape, width_mult) for end in net.networks]
        running = costs if isinstance(net, Mixture) else costs[:1]
        return Cost(sum(one.flops for one in running), sum(one.parameters for one in costs))
    slim = replace(net.conditioning, widths=(1.0,), base_width=width_mult)
    narrow = build_unfilled(
        net.config,
        in_channels=net.in_channels,
        num_classes=net.num_classes,
        conditioning=slim,
    )
    return Cost(flops(narrow, image_shape), count_parameters(narrow))
