"""TRADES at one fixed β (Zhang et al., ICML 2019)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from oat.attacks import Attack
from oat.dedicated import Dedicated
from oat.method import Work
from oat.widths import check_width

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from oat.models import Network

InnerAttack = Literal["own", "study"]
"""Whose start and step size the inner attack has."""

PUBLISHED_REACH = 10 * 0.007 / 0.031
"""How far the steps of the authors' CIFAR-10 script reach together, in units of ε."""


@dataclass(frozen=True)
class Trades(Dedicated):
    """One plain network for one β: 0 is standard training, larger is more robust.

    Attributes:
        beta: Weight of the KL term, not negative.
        width_mult: Share of the configured channels that the network has, in (0, 1].
        attack: ``own`` starts the inner attack beside the image and takes the authors' step size;
            ``study`` starts and steps as that of the other methods does. Both ascend the KL.

    Raises:
        ValueError: A value is out of its range.
    """

    name: ClassVar[str] = "trades"
    beta: float = 6.0
    width_mult: float = 1.0
    attack: InnerAttack = "own"

    def __post_init__(self) -> None:
        check_width(self.width_mult)
        if self.attack not in get_args(InnerAttack):
            raise ValueError(f"`attack` must be 'own' or 'study', got '{self.attack}'.")
        if not 0 <= self.beta < float("inf"):
            raise ValueError(f"`beta` must be a finite number of at least 0, got {self.beta:g}.")

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
        yield trades_loss(
            model,
            images,
            labels,
            beta=self.beta,
            inner=self.attack,
            attack=attack,
            generator=generator,
            label_smoothing=label_smoothing,
        )

    def work(self, attack: Attack, batch_size: int) -> dict[float, Work]:
        """Clean pass; if β > 0 the frozen clean probabilities, attack and adversarial pass."""
        adversarial = Work(2, attacked=attack.steps, frozen=1)
        return {self.width_mult: adversarial if self.beta > 0 else Work(1)}


def trades_attack(attack: Attack) -> Attack:
    """Return the inner attack of TRADES: ``auto`` is its own step size, 2.26 ε over the steps.

    TRADES starts at the image, not at random in the ball, and its published steps are longer
    than OAT's: 10 of 0.007 at ε = 0.031. With OAT's rule the trained networks broke under
    PGD of longer steps (docs/log.md).
    """
    if attack.step_size != "auto" or attack.eps == 0:
        return attack
    # two radii cross the ball: more would be the same, and is refused by `Attack`
    return replace(attack, step_size=min(PUBLISHED_REACH / attack.steps, 2) * attack.eps)


def kl_rows(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Compute ``KL(p || q)`` of each row, shape (N,), from log-probabilities (N, K)."""
    from torch.nn import functional

    return functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)


def trades_loss(
    model: Network,
    images: Tensor,
    labels: Tensor,
    *,
    beta: float,
    attack: Attack,
    generator: torch.Generator,
    inner: InnerAttack = "own",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Add to the clean cross-entropy the KL divergence from the clean to the attacked output.

    Each row costs ``CE(f(x), y) + beta * KL(p(x) || p(x_adv))``. The attack ascends the same KL,
    as published from ``x + 0.001 N(0, 1)``; the clean probabilities are constant there and computed
    once. No attack runs at ``beta == 0``.

    Args:
        model: A plain network in train mode.
        images: Clean images in [0, 1], shape (N, C, H, W).
        labels: Class indices, shape (N,).
        beta: Weight of the KL term.
        attack: Inner maximisation; its ``auto`` step size is that of `trades_attack`.
        generator: Source of the random start.
        inner: ``study`` takes the attack as it is, with its uniform start.
        label_smoothing: Of the cross-entropy; the KL term has no labels.

    Returns:
        Loss of each row, shape (N,).

    Source: Zhang et al., ICML 2019, equation (5) and algorithm 1.
    """
    import torch
    from torch.nn import functional

    from oat.ascent import perturb
    from oat.deploy import specialize
    from oat.losses import cross_entropy_of
    from oat.models.norm import Condition

    logits = model(images).float()
    clean = cross_entropy_of(labels, label_smoothing)(logits)
    if beta == 0:
        return clean
    frozen = specialize(model, Condition())
    with torch.no_grad():
        log_p = functional.log_softmax(frozen(images).float(), dim=1)
    images_adv = perturb(
        frozen,
        lambda adv: kl_rows(log_p, functional.log_softmax(adv, dim=1)),
        images,
        trades_attack(attack) if inner == "own" else attack,
        generator=generator,
        start="gaussian" if inner == "own" else "uniform",
    )
    adv = functional.log_softmax(model(images_adv).float(), dim=1)
    return clean + beta * kl_rows(functional.log_softmax(logits, dim=1), adv)
