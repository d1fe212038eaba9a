"""The losses of a step of once-for-all adversarial training."""

import torch
from torch import Tensor
from torch.nn import functional

from oat.ascent import RowLoss, perturb
from oat.attacks import Attack
from oat.deploy import specialize
from oat.lambdas import RowLams
from oat.models import Network
from oat.models.norm import Condition


def cross_entropy_of(labels: Tensor, label_smoothing: float = 0.0) -> RowLoss:
    """Return the function from logits (N, K) to the cross-entropy of each row, in float32."""
    return lambda logits: functional.cross_entropy(
        logits.float(), labels, reduction="none", label_smoothing=label_smoothing
    )


def oat_loss(
    model: Network,
    images: Tensor,
    labels: Tensor,
    *,
    lams: RowLams,
    attack: Attack,
    generator: torch.Generator,
    width_mult: float = 1.0,
    label_smoothing: float = 0.0,
    skip_clean_at_one: bool = False,
) -> Tensor:
    """Mix clean and adversarial cross-entropy, each row at its own λ, at one width.

    Args:
        model: A network conditioned on λ, in train mode.
        images: Clean images in [0, 1], shape (N, C, H, W).
        labels: Class indices, shape (N,).
        lams: λ of each row; rows with λ = 0 first.
        attack: Inner maximisation; runs on rows with λ ≠ 0 only.
        generator: Source of the random start.
        width_mult: One of the network's widths.
        label_smoothing: Of the cross-entropy that is minimised; the attack has hard labels.
        skip_clean_at_one: Leave rows with λ = 1 out of the clean pass.

    Returns:
        Loss of each row, shape (N,).

    Source: Wang et al., NeurIPS 2020, equation (3).
    """
    assert model.encoding is not None
    codes = model.encoding.encode(lams.values)
    lam, num_zero = lams.rows(), lams.num_zero

    def losses_of(x: Tensor, rows: slice | Tensor, zeros: int) -> Tensor:
        index = lams.index[rows]
        logits = model(x, codes, lam_index=index, num_zero_lam=zeros, width_mult=width_mult)
        return cross_entropy_of(labels[rows], label_smoothing)(logits)

    if skip_clean_at_one:
        counted = (lam != 1).nonzero().squeeze(1)
        if len(counted) == num_zero + 1:  # a batch norm needs two rows: one of weight 0 is a second
            counted = torch.arange(len(lam), device=lam.device)
        clean = torch.zeros_like(lam)
        if len(counted):
            clean = clean.index_copy(0, counted, losses_of(images[counted], counted, num_zero))
    else:
        clean = losses_of(images, slice(None), num_zero)
    if num_zero == len(images):
        return clean
    rest = slice(num_zero, None)
    frozen = specialize(model, Condition(codes, lams.index[rest], 0, width_mult))
    hard = cross_entropy_of(labels[rest])
    images_adv = perturb(frozen, hard, images[rest], attack, generator=generator)
    adv = losses_of(images_adv, rest, 0)
    mixed = (1 - lam[rest]) * clean[rest] + lam[rest] * adv
    return torch.cat([clean[:num_zero], mixed])
