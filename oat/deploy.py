"""At a fixed λ and width with frozen statistics a conditional network is a plain network.

`specialize` is that statement as a view (the attack of training, where rows may have λ of their
own), `fold` as a network of its own (evaluation, deployment).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import overload

import torch
from torch import Tensor

from oat.lambdas import SAME_LAM
from oat.models import Conditioning, Interpolation, Mixed, Network, Pair, build_unfilled
from oat.models.network import PooledNetwork, Unit
from oat.models.norm import Affine2d, Condition, ConvNorm
from oat.models.own import OwnNetwork
from oat.operating import check_alpha
from oat.widths import scaled


def condition(model: Network, lam: float | None, width_mult: float = 1.0) -> Condition:
    """Return the condition of one operating point.

    Args:
        model: The network.
        lam: Trade-off weight; None exactly if the network has no λ.
        width_mult: One of the network's widths.

    Raises:
        ValueError: λ is given to a plain network, missing for a conditional one, or unknown.
    """
    if (lam is None) != (model.encoding is None):
        raise ValueError(
            "`lam` is required by a network with FiLM."
            if lam is None
            else "`lam` must be None: this network is not conditioned on λ."
        )
    if lam is None or model.encoding is None:
        return Condition(width_mult=width_mult)
    is_zero = abs(lam) < SAME_LAM
    return Condition(model.encoding(lam), None, None if is_zero else 0, width_mult)


@torch.no_grad()
def specialize(model: Network, cond: Condition) -> Callable[[Tensor], Tensor]:
    """View a network as the plain function that it is with frozen statistics.

    FiLM runs once here, not once a forward pass, and the weights are cast here to the type in which
    the network computes. The view is good until the parameters or
    statistics change, at the next step of an optimiser or pass in train mode; no parameter
    gradient, buffer or train flag is touched when it runs.

    Args:
        model: The network, in either mode.
        cond: λ codes (several, with an index for each row, are allowed) and width.

    Returns:
        A function from images (N, C, H, W) to logits (N, K).
    """
    cond = replace(cond, compute=model.compute)
    frozen = replace(cond, frozen=model.frozen_ops(cond))
    return lambda images: model.logits(images, frozen)


@overload
def fold(model: Network, lam: float | None, width_mult: float = 1.0) -> Network: ...
@overload
def fold(model: Network | Pair, lam: float | None, width_mult: float = 1.0) -> Network | Mixed: ...
@torch.no_grad()
def fold(model: Network | Pair, lam: float | None, width_mult: float = 1.0) -> Network | Mixed:
    """Build the plain network that a conditional one is at one operating point.

    Batch norm and FiLM are folded into the convolutions, unused channels are dropped. Equal to
    the conditional network in eval mode up to float rounding.

    Args:
        model: The network, in either mode; it is not changed. Or a pair of networks.
        lam: Trade-off weight; None exactly if the network has no λ. α of a pair.
        width_mult: One of the network's widths.

    Returns:
        A network in eval mode, on the device of ``model``, without gradients. Of a mixture, the two
        that run together; at its ends only one runs.

    Raises:
        ValueError: λ or the width does not fit the network.
    """
    if isinstance(model, Pair):
        return _fold_pair(model, lam, width_mult)
    cond = condition(model, lam, width_mult)
    if isinstance(model, OwnNetwork):
        return model.folded(cond)
    plain = build_unfilled(
        replace(model.config, width=scaled(model.config.first_width, width_mult)),
        in_channels=model.in_channels,
        num_classes=model.num_classes,
        conditioning=Conditioning(folded=True),
    ).to(next(model.parameters()).device)
    for source, target in zip(model.units(), plain.units(), strict=True):
        _copy_folded(source, target, cond)
    assert isinstance(model, PooledNetwork), "networks of the user's fold themselves"
    assert isinstance(plain, PooledNetwork), "it is of the same family"
    for kept, place in zip(model.head.at(width_mult), plain.head.at(1.0), strict=True):
        place.copy_(kept)
    # channels last: 1.1 to 1.4 times as fast as the default (docs/results/attack-epyc-202611.json)
    plain = plain.to(memory_format=torch.channels_last)
    return plain.eval().requires_grad_(False)


def _fold_pair(model: Pair, alpha: float | None, width_mult: float) -> Network | Mixed:
    """Build what two networks are together at one α; at 0 and 1 it is one of them, exactly."""
    if alpha is None:
        raise ValueError("`lam` is required by a pair of networks: it is their α.")
    check_alpha(alpha, "lam")
    if isinstance(model, Interpolation):
        return fold(model.at(alpha), None, width_mult)
    first, second = (fold(end, None, width_mult) for end in model.networks)
    if alpha in (0, 1):
        return second if alpha else first
    return Mixed(first, second, alpha).eval()


def _copy_folded(source: Unit, target: Unit, cond: Condition) -> None:
    """Write what a unit is at a condition into the unit of a folded network."""
    if isinstance(source, ConvNorm):
        assert isinstance(target, ConvNorm)
        weight, bias = source.folded(cond)
        target.conv.weight.copy_(weight)
        if bias is not None:
            assert target.conv.bias is not None
            target.conv.bias.copy_(bias)
        return
    assert isinstance(target, Affine2d)
    scale, shift = source.affine(cond)
    target.scale.copy_(scale[0])
    target.shift.copy_(shift[0])
