"""Clean and robust accuracy of each operating point, with the correctness of each image."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from oat.adversaries import (
    EVALUATION_SEED,
    EXTRA,
    AutoAttack,
    EvaluationAttack,
    Fgsm,
    Pgd,
    Transfer,
    check_classes,
)
from oat.ascent import (
    LogitsFn,
    ascend,
    ball,
    check_direction,
    gradient,
    refuse_without_direction,
    row_loss,
    start_point,
    without_direction,
)
from oat.autoattack import Ensemble, Progress
from oat.data import Split, unit
from oat.deploy import fold
from oat.method import Method
from oat.models import Network, Pair, flops, stored_bytes
from oat.operating import OperatingPoint
from oat.own_attack import OwnAttack


def looks(device: torch.device, done: int) -> bool:
    """Tell whether to look, after so many steps of an attack, which images can be dropped.

    Each look makes a GPU wait, and most images that break do so in the first steps: it looks after
    1, 2, 4, 8, … steps. A broken image stays broken, so that the result is the same.
    """
    return device.type == "cpu" or done & (done - 1) == 0


@dataclass(frozen=True)
class Correctness:
    """Which images one model classifies correctly at one operating point.

    Attributes:
        clean: Correct on the image itself, bool (N,).
        robust: Correct there and under the attack, bool (N,).
        warnings: What the attack said of its own reliability.
    """

    clean: Tensor
    robust: Tensor
    warnings: tuple[str, ...] = ()

    @property
    def sa(self) -> float:
        """Standard accuracy in [0, 1]."""
        return self.clean.double().mean().item()

    @property
    def ra(self) -> float:
        """Robust accuracy in [0, 1]."""
        return self.robust.double().mean().item()


def evaluate(
    logits_fn: LogitsFn,
    split: Split,
    attack: EvaluationAttack,
    *,
    batch_size: int = 500,
    surrogates: Sequence[LogitsFn] = (),
    progress: Progress | None = None,
) -> Correctness:
    """Judge one frozen network on one split.

    Images already misclassified, and those already broken, are dropped from further steps. The
    random start of an image depends on its place in the split and on ``batch_size`` only, and the
    first start does not depend on how many there are; images are crafted on surrogates from it.

    Args:
        logits_fn: Maps images (N, C, H, W) in [0, 1] to logits; rows independent.
        split: Images and labels, on the device of the network.
        attack: What to judge by; its ``images`` is the caller's to heed.
        batch_size: Images at a time.
        surrogates: Networks to craft images on besides: those at other λ, or for `Transfer` the
            only ones. The last iterates of plain PGD from the first start count.
        progress: Where AutoAttack and Square keep what they have done, to go on from there.

    Returns:
        Correctness of each image, on the CPU.

    Raises:
        ValueError: The attack does not fit the network's classes, or a package is missing.
        GradientError: The network's gradient is no number, so that RA cannot be measured.
    """
    ensemble = None
    if isinstance(attack, EXTRA):
        ensemble = Ensemble(logits_fn, attack, split.images.device, EVALUATION_SEED, progress)
    starts = _generators(attack, split.images.device)
    clean, robust = [], []
    for images, labels in _batches(split, batch_size):
        with torch.no_grad():
            logits = logits_fn(images)
        check_classes(attack, logits.shape[1])
        right = is_right(logits, labels)
        clean.append(right)
        if isinstance(attack, AutoAttack | OwnAttack):  # whose gradients are not seen here
            check_direction(logits_fn, row_loss("ce", labels[right]), images[right])
        if ensemble is not None:
            robust.append(ensemble.survivors(images, labels, right))
        else:
            robust.append(_survivors(logits_fn, surrogates, attack, images, labels, right, starts))
    said = ensemble.warnings() if ensemble is not None else ()
    return Correctness(torch.cat(clean).cpu(), torch.cat(robust).cpu(), said)


def _batches(split: Split, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    for images, labels in zip(
        torch.split(split.images, size), torch.split(split.labels, size), strict=True
    ):
        yield unit(images), labels


def _generators(attack: EvaluationAttack, device: torch.device) -> list[torch.Generator]:
    """Return a source of random starts for each start; the first is the same for any number."""
    count = attack.restarts if isinstance(attack, Pgd) else 1
    return [torch.Generator(device).manual_seed(EVALUATION_SEED + i) for i in range(count)]


def _survivors(
    logits_fn: LogitsFn,
    surrogates: Sequence[LogitsFn],
    attack: EvaluationAttack,
    images: Tensor,
    labels: Tensor,
    right: Tensor,
    starts: Sequence[torch.Generator],
) -> Tensor:
    """Return which images of a batch withstand an attack, bool (N,).

    Raises:
        TypeError: Nothing here runs an attack of this class.
    """
    if isinstance(attack, OwnAttack):
        images_adv = attack.craft(logits_fn, images, labels, starts[0])
        return right & _right(logits_fn, images_adv, labels)
    if not isinstance(attack, Pgd | Fgsm | Transfer):
        raise TypeError(f"`oat.evaluation` cannot run an attack of class {type(attack).__name__}.")
    alive, start = right.nonzero().squeeze(1), images
    if not isinstance(attack, Fgsm):
        start = start_point(images, attack.radius(), "uniform", starts[0])
    if isinstance(attack, Pgd | Fgsm):
        alive = _climb(logits_fn, attack, images, labels, alive, start)
        for generator in starts[1:]:
            other = start_point(images, attack.radius(), "uniform", generator)
            alive = _climb(logits_fn, attack, images, labels, alive, other)
    for surrogate in surrogates:
        alive = _shown(logits_fn, surrogate, attack, images, labels, alive, start)
    robust = torch.zeros_like(right)
    robust[alive] = True
    return robust


def _climb(
    logits_fn: LogitsFn,
    attack: Pgd | Fgsm,
    images: Tensor,
    labels: Tensor,
    alive: Tensor,
    start: Tensor,
) -> Tensor:
    """Ascend the loss from a start; return the indices of images that no iterate broke."""
    steps, momentum = (attack.steps, attack.momentum) if isinstance(attack, Pgd) else (1, 0.0)
    lower, upper = ball(images[alive], attack.radius())
    images_adv, targets = start[alive].clamp(lower, upper), labels[alive]
    velocity = torch.zeros_like(images_adv) if momentum else None
    standing = torch.ones_like(targets, dtype=torch.bool)
    stuck = torch.zeros((), dtype=torch.int64, device=images.device)
    for done in range(1, steps + 1):
        if not len(alive):
            break
        direction, logits = gradient(logits_fn, row_loss(attack.loss, targets), images_adv)
        stuck = stuck.maximum(without_direction(direction, logits))
        if velocity is not None:
            size = direction.abs().mean(dim=(1, 2, 3), keepdim=True).clamp(min=1e-30)
            direction = velocity = momentum * velocity + direction / size
        images_adv = (images_adv + attack.step() * direction.sign()).clamp(lower, upper)
        standing &= is_right(logits, targets)
        if not looks(images.device, done):
            continue
        keep = standing.nonzero().squeeze(1)
        if len(keep) == len(standing):
            continue
        alive, targets, lower, upper = alive[keep], targets[keep], lower[keep], upper[keep]
        images_adv, standing = images_adv[keep], standing[keep]
        velocity = velocity[keep] if velocity is not None else None
    refuse_without_direction(stuck)
    return alive[standing & _right(logits_fn, images_adv, targets)]


def _shown(
    logits_fn: LogitsFn,
    surrogate: LogitsFn,
    attack: EvaluationAttack,
    images: Tensor,
    labels: Tensor,
    alive: Tensor,
    start: Tensor,
) -> Tensor:
    """Return the indices of images that withstand what was crafted on another network."""
    assert isinstance(attack, Pgd | Transfer), "other attacks have no surrogates"
    if not len(alive):
        return alive
    loss = row_loss(attack.loss if isinstance(attack, Pgd) else "ce", labels[alive])
    if isinstance(attack, Transfer):  # those of PGD are the same network, judged at its other λ
        check_direction(surrogate, loss, start[alive])
    bounds, step = ball(images[alive], attack.radius()), attack.step()
    images_adv = ascend(surrogate, loss, start[alive], bounds, steps=attack.steps, step=step)
    return alive[_right(logits_fn, images_adv, labels[alive])]


@torch.no_grad()
def _right(logits_fn: LogitsFn, images: Tensor, labels: Tensor) -> Tensor:
    if not len(images):
        return torch.zeros(0, dtype=torch.bool, device=images.device)
    return is_right(logits_fn(images), labels)


def is_right(logits: Tensor, labels: Tensor) -> Tensor:
    """Tell which images are classified correctly; logits that are no numbers classify none."""
    return (logits.argmax(dim=1) == labels) & ~logits.isnan().any(dim=1)


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
    model: Network | Pair,
    point: OperatingPoint,
    split: Split,
    attack: EvaluationAttack,
    *,
    batch_size: int = 500,
    surrogates: Sequence[LogitsFn] = (),
    progress: Progress | None = None,
) -> Judged:
    """Fold a network at one λ and width and judge what would be deployed; the attacker knows λ."""
    plain = fold(model, *point)
    channels, height, width = split.images.shape[1:]
    return Judged(
        point,
        attack,
        evaluate(
            plain, split, attack, batch_size=batch_size, surrogates=surrogates, progress=progress
        ),
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
