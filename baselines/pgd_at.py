"""Adversarial training by PGD at one fixed λ (Madry et al., ICLR 2018)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from oat.attacks import Attack
from oat.dedicated import Dedicated
from oat.lambdas import check_lam
from oat.method import Work
from oat.widths import check_width

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from oat.models import Network


@dataclass(frozen=True)
class PgdAt(Dedicated):
    """One plain network for one λ: 0 is standard training, 1 is Madry's adversarial training.

    Attributes:
        lam: Trade-off weight in [0, 1].
        width_mult: Share of the configured channels that the network has, in (0, 1].

    Raises:
        ValueError: A value is out of its range.
    """

    name: ClassVar[str] = "pgd_at"
    lam: float = 1.0
    width_mult: float = 1.0

    def __post_init__(self) -> None:
        check_lam(self.lam)
        check_width(self.width_mult)

    def losses(
        self,
        model: Network,
        images: Tensor,
        labels: Tensor,
        *,
        attack: Attack,
        generator: torch.Generator,
        label_smoothing: float = 0.0,
    ) -> Iterator[Tensor]:
        """Yield the one loss of a step; see `oat.method.Method.losses`."""
        yield pgd_at_loss(
            model,
            images,
            labels,
            lam=self.lam,
            attack=attack,
            generator=generator,
            label_smoothing=label_smoothing,
        )

    def work(self, attack: Attack, batch_size: int) -> dict[float, Work]:
        """Clean pass if λ < 1, attack and adversarial pass if λ > 0."""
        passes = (self.lam < 1) + (self.lam > 0)
        return {self.width_mult: Work(passes, attacked=attack.steps if self.lam > 0 else 0)}


def pgd_at_loss(
    model: Network,
    images: Tensor,
    labels: Tensor,
    *,
    lam: float,
    attack: Attack,
    generator: torch.Generator,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Mix clean and adversarial cross-entropy at one fixed trade-off weight.

    Each row costs ``(1 - lam) * CE(f(x), y) + lam * CE(f(x_adv), y)``. No attack runs at
    ``lam == 0`` and no clean pass at ``lam == 1``, where its weight is 0.

    Args:
        model: A plain network in train mode.
        images: Clean images in [0, 1], shape (N, C, H, W).
        labels: Class indices, shape (N,).
        lam: Trade-off weight in [0, 1].
        attack: Inner maximisation.
        generator: Source of the random start.
        label_smoothing: Of the cross-entropy that is minimised; the attack has hard labels.

    Returns:
        Loss of each row, shape (N,).

    Source: Madry et al., ICLR 2018; the mixture as in Wang et al., NeurIPS 2020.
    """
    from oat.ascent import perturb
    from oat.deploy import specialize
    from oat.losses import cross_entropy_of
    from oat.models.norm import Condition

    row_loss = cross_entropy_of(labels, label_smoothing)
    clean = row_loss(model(images)) if lam < 1 else None
    if lam == 0:
        assert clean is not None
        return clean
    frozen = specialize(model, Condition())
    images_adv = perturb(frozen, cross_entropy_of(labels), images, attack, generator=generator)
    adv = row_loss(model(images_adv))
    return adv if clean is None else (1 - lam) * clean + lam * adv
