"""Numbers that tell an honest robust accuracy from one that rests on masked gradients.

They are judged, and named, in `studies.results.masking`. Sources: Athalye et al., ICML 2018,
section 3.1; Carlini et al., On Evaluating Adversarial Robustness, 2019.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from oat.adversaries import EVALUATION_SEED, Pgd
from oat.ascent import LogitsFn, ball, gradient, row_loss
from oat.data import Split, unit
from oat.evaluation import evaluate, is_right
from oat.masking_attacks import DRAWS, LARGE_EPS, RESTARTS, STEPS, STRONG


@dataclass(frozen=True)
class Checks:
    """What a frozen network does under attacks of which the outcome is known beforehand.

    Accuracies are fractions of the images; those under attack are by PGD of 20 steps with one
    start unless it says otherwise.

    Attributes:
        images: How many images.
        sa: Without an attack.
        ra: At ``eps``.
        ra_restarts: At ``eps`` with 5 starts, of which the first is that of ``ra``.
        ra_strong: Under these, and then 50 steps from 2 starts on each of two margin losses.
        ra_noise: Under 20 draws of noise: uniform in the ball, and of its corners, in turns.
        ra_eps_0: At radius 0, where it must be ``sa``.
        ra_eps_2x: At twice ``eps``, at most 0.5 or ``eps``.
        ra_eps_4x: At four times ``eps``, likewise.
        ra_eps_half: At radius 0.5, where it must be near 0; at ``eps`` if that is larger.
        zero_gradients: Share of the correctly classified images at which every component of the
            cross-entropy's gradient is exactly 0.
    """

    images: int
    sa: float
    ra: float
    ra_restarts: float
    ra_strong: float
    ra_noise: float
    ra_eps_0: float
    ra_eps_2x: float
    ra_eps_4x: float
    ra_eps_half: float
    zero_gradients: float


def check_masking(
    logits_fn: LogitsFn, split: Split, eps: float, *, batch_size: int = 500
) -> Checks:
    """Put a frozen network through the checks.

    Args:
        logits_fn: Maps images (N, C, H, W) in [0, 1] to logits; rows independent.
        split: Images and labels, on the device of the network.
        eps: Radius that it is judged at, in pixel units.
        batch_size: Images at a time.
    """

    def ra(radius: float) -> float:
        attack = Pgd(eps=min(radius, max(LARGE_EPS, eps)), steps=STEPS)
        return evaluate(logits_fn, split, attack, batch_size=batch_size).ra

    plain = evaluate(logits_fn, split, Pgd(eps=eps, steps=STEPS), batch_size=batch_size)
    restarted = Pgd(eps=eps, steps=STEPS, restarts=RESTARTS)
    robust = evaluate(logits_fn, split, restarted, batch_size=batch_size).robust
    strong = _withstands(logits_fn, split, robust, eps, batch_size)
    noisy, zero = _noise(logits_fn, split, eps, batch_size)
    return Checks(
        images=len(split),
        sa=plain.sa,
        ra=plain.ra,
        ra_restarts=robust.double().mean().item(),
        ra_strong=strong.double().mean().item(),
        ra_noise=noisy,
        ra_eps_0=ra(0.0),
        ra_eps_2x=ra(2 * eps),
        ra_eps_4x=ra(4 * eps),
        ra_eps_half=ra(max(LARGE_EPS, eps)),
        zero_gradients=zero,
    )


def _withstands(
    logits_fn: LogitsFn, split: Split, robust: Tensor, eps: float, batch_size: int
) -> Tensor:
    """Return which of the robust images withstand the strong attacks as well, shape (N,)."""
    left = robust.clone()
    classes = logits_fn(unit(split.images[:1])).shape[1]
    for attack in STRONG:
        if attack.loss == "dlr" and classes < 3:  # its scale needs a third class
            continue
        places = left.nonzero().squeeze(1)
        if not len(places):
            break
        there = places.to(split.images.device)
        some = replace(split, images=split.images[there], labels=split.labels[there])
        resolved = replace(attack, eps=eps)
        left[places] = evaluate(logits_fn, some, resolved, batch_size=batch_size).robust
    return left


def _noise(logits_fn: LogitsFn, split: Split, eps: float, batch_size: int) -> tuple[float, float]:
    """Return RA under noise, and the share of right images without any gradient."""
    generator = torch.Generator(split.images.device).manual_seed(EVALUATION_SEED)
    right = withstood = flat = 0
    for first in range(0, len(split), batch_size):
        images = unit(split.images[first : first + batch_size])
        labels = split.labels[first : first + batch_size]
        grad, logits = gradient(logits_fn, row_loss("ce", labels), images)
        robust = is_right(logits, labels)
        right += int(robust.sum())
        flat += int((robust & (grad == 0).flatten(1).all(dim=1)).sum())
        robust &= _withstands_noise(logits_fn, images, labels, eps, generator)
        withstood += int(robust.sum())
    return withstood / len(split), flat / max(right, 1)


@torch.no_grad()
def _withstands_noise(
    logits_fn: LogitsFn, images: Tensor, labels: Tensor, eps: float, generator: torch.Generator
) -> Tensor:
    lower, upper = ball(images, eps)
    robust = torch.ones_like(labels, dtype=torch.bool)
    for draw in range(DRAWS):
        noise = torch.empty_like(images).uniform_(-1, 1, generator=generator)
        noise = noise.sign() if draw % 2 else noise
        noisy = (images + eps * noise).clamp(lower, upper)
        robust &= is_right(logits_fn(noisy), labels)
    return robust
