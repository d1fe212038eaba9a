"""Clean and robust accuracy of each operating point, with the correctness of each image."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from oat.attacks import ascend, ball, check_eps, start_point
from oat.data import Split, unit
from oat.deploy import OperatingPoint, fold
from oat.method import Method, cross_entropy_of
from oat.models import Network, flops, stored_bytes

EVALUATION_SEED = 20
"""Seed of the attack's random starts; the same for every model, so that points are paired."""


@dataclass(frozen=True)
class EvaluationAttack:
    """White-box attack that a finished model is judged by.

    An image counts as robust only if no iterate of the attack, from the random start to the last
    step, is misclassified. This is never kinder than looking at the last iterate alone.

    Attributes:
        name: ``pgd``.
        steps: Gradient steps, at least 1.
        step_size: Length of a step in pixel units; ``auto`` is ``2.5 * eps / steps``.
        eps: Radius in pixel units; None is that of the study's ``attack``.

    Raises:
        ValueError: A value is out of its range.
    """

    name: Literal["pgd"] = "pgd"
    steps: int = 20
    step_size: float | Literal["auto"] = "auto"
    eps: float | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"`steps` must be at least 1, got {self.steps}.")
        if self.eps is not None:
            check_eps(self.eps)
        if self.step_size != "auto" and not self.step_size > 0:
            raise ValueError(f"`step_size` must be `auto` or above 0, got {self.step_size:g}.")

    @property
    def label(self) -> str:
        """Name for tables, such as ``pgd20``."""
        return f"{self.name}{self.steps}"

    def radius(self) -> float:
        """Return ``eps``, which must have been resolved."""
        assert self.eps is not None, "the study's eps has been filled in"
        return self.eps

    def step(self) -> float:
        """Return the length of one step in pixel units."""
        return 2.5 * self.radius() / self.steps if self.step_size == "auto" else self.step_size


@dataclass(frozen=True)
class Correctness:
    """Which images one model classifies correctly at one operating point.

    Attributes:
        clean: Correct on the image itself, bool (N,).
        robust: Correct there and on every iterate of the attack, bool (N,).
    """

    clean: Tensor
    robust: Tensor

    @property
    def sa(self) -> float:
        """Standard accuracy in [0, 1]."""
        return self.clean.double().mean().item()

    @property
    def ra(self) -> float:
        """Robust accuracy in [0, 1]."""
        return self.robust.double().mean().item()


def evaluate(
    logits_fn: Callable[[Tensor], Tensor],
    split: Split,
    attack: EvaluationAttack,
    *,
    batch_size: int = 500,
) -> Correctness:
    """Judge one frozen network on one split.

    Images already misclassified, and those already broken, are dropped from further steps. The
    random start of an image depends on its place in the split and on ``batch_size`` only.

    Args:
        logits_fn: Maps images (N, C, H, W) in [0, 1] to logits; rows independent.
        split: Images and labels, on the device of the network.
        attack: What to judge by.
        batch_size: Images at a time.

    Returns:
        Correctness of each image, on the CPU.
    """
    device = split.images.device
    generator = torch.Generator(device).manual_seed(EVALUATION_SEED)
    clean, robust = [], []
    for images, labels in zip(
        torch.split(split.images, batch_size), torch.split(split.labels, batch_size), strict=True
    ):
        was_right, stays_right = _judge(logits_fn, unit(images), labels, attack, generator)
        clean.append(was_right)
        robust.append(stays_right)
    return Correctness(torch.cat(clean).cpu(), torch.cat(robust).cpu())


def _judge(
    logits_fn: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    attack: EvaluationAttack,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    eps, step = attack.radius(), attack.step()
    with torch.no_grad():
        clean = logits_fn(images).argmax(dim=1) == labels
    start = start_point(images, eps, "uniform", generator)
    robust = clean.clone()
    alive = clean.nonzero().squeeze(1)
    lower, upper = ball(images[alive], eps)
    images_adv, targets = start[alive].clamp(lower, upper), labels[alive]
    for _ in range(attack.steps):
        if not len(alive):
            break
        stepped, logits = ascend(logits_fn, cross_entropy_of(targets), images_adv, step)
        keep = logits.argmax(dim=1) == targets
        robust[alive[~keep]] = False
        alive, targets, lower, upper = alive[keep], targets[keep], lower[keep], upper[keep]
        images_adv = stepped[keep].clamp(lower, upper)
    if len(alive):
        with torch.no_grad():
            robust[alive] = logits_fn(images_adv).argmax(dim=1) == targets
    return clean, robust


@dataclass(frozen=True)
class Judged:
    """One trained network at one operating point, judged by one attack.

    Attributes:
        point: λ and width.
        attack: What it was judged by.
        correctness: Of each test image.
        flops: Of the deployed network, for one image.
        deployed_bytes: Of the deployed network's parameters.
    """

    point: OperatingPoint
    attack: EvaluationAttack
    correctness: Correctness
    flops: int
    deployed_bytes: int


def evaluate_at(
    model: Network,
    point: OperatingPoint,
    split: Split,
    attack: EvaluationAttack,
    *,
    batch_size: int = 500,
) -> Judged:
    """Fold a network at one λ and width and judge what would be deployed; the attacker knows λ."""
    plain = fold(model, *point)
    channels, height, width = split.images.shape[1:]
    return Judged(
        point,
        attack,
        evaluate(plain, split, attack, batch_size=batch_size),
        flops(plain, (channels, height, width)),
        stored_bytes(plain),
    )


def validate(
    model: Network, method: Method, lams: list[float], split: Split, attack: EvaluationAttack
) -> tuple[float, float]:
    """Return SA and RA on held-out images, each the mean over the method's operating points."""
    points = method.operating_points(lams)
    results = [evaluate(fold(model, *point), split, attack) for point in points]
    return (
        sum(r.sa for r in results) / len(results),
        sum(r.ra for r in results) / len(results),
    )
