"""L-infinity attacks that ascend a given loss.

An attack is a pure function: it is handed the network as a function from images to logits and
the loss as a function from logits to one value a row. It owns no network, so no parameter
gradient, buffer or train flag can change under it.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from oat.attacks import Attack, Loss, Start

LogitsFn = Callable[[Tensor], Tensor]
RowLoss = Callable[[Tensor], Tensor]


def ball(images: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return the lower and upper bound of the L-infinity ball cut with [0, 1].

    Args:
        images: Clean images in [0, 1], shape (N, C, H, W).
        eps: Radius in pixel units.

    Returns:
        Two tensors of the shape of ``images``.
    """
    return (images - eps).clamp_(min=0), (images + eps).clamp_(max=1)


def start_point(images: Tensor, eps: float, start: Start, generator: torch.Generator) -> Tensor:
    """Draw the first iterate: uniform in the ball, 0.001 Gaussian (TRADES), or the image itself."""
    if start == "none":
        return images
    noise = torch.empty_like(images)
    if start == "uniform":
        noise.uniform_(-eps, eps, generator=generator)
    else:
        noise.normal_(0, 0.001, generator=generator)
    return images + noise


def row_loss(loss: Loss, labels: Tensor) -> RowLoss:
    """Return the function from logits (N, K) to what an attack ascends, in float32.

    ``ce`` is the cross-entropy; ``cw`` the margin ``max_{j != y} z_j - z_y`` (Carlini and Wagner,
    2017); ``dlr`` that margin over the distance of the largest from the third largest logit, which
    scaling the logits does not change (Croce and Hein, 2020, equation 6; needs three classes).

    Args:
        loss: Which of them.
        labels: Class indices, shape (N,).
    """

    def margin(logits: Tensor) -> Tensor:
        others = logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
        return others - logits.gather(1, labels[:, None]).squeeze(1)

    def dlr(logits: Tensor) -> Tensor:
        top = logits.topk(3, dim=1).values
        return margin(logits) / (top[:, 0] - top[:, 2] + 1e-12)

    def cross_entropy(logits: Tensor) -> Tensor:
        return functional.cross_entropy(logits, labels, reduction="none")

    chosen = {"ce": cross_entropy, "cw": margin, "dlr": dlr}[loss]
    return lambda logits: chosen(logits.float())


class GradientError(ValueError):
    """A network's gradient is no number where an attack needs it, so that RA cannot be measured."""


def without_direction(grad: Tensor, logits: Tensor) -> Tensor:
    """Count the images that an attack cannot move: no gradient, though they are classified.

    Args:
        grad: Of the loss by the images, shape (N, C, H, W).
        logits: There, shape (N, K). Where one is NaN the image is misclassified already.

    Returns:
        A scalar on the device, which nobody has waited for.
    """
    return (~(grad.isfinite().flatten(1).all(dim=1) | logits.isnan().any(dim=1))).sum()


def refuse_without_direction(count: int | Tensor) -> None:
    """Refuse to judge a network that an attack could not move.

    Raises:
        GradientError: There are such images.
    """
    if count:
        raise GradientError(
            f"The network's gradient is no number at {int(count)} images that it classifies, so "
            "that an attack cannot move them and RA would be too high. Such a gradient comes from "
            "a square root or a norm at 0, or from logits that overflow."
        )


def gradient(logits_fn: LogitsFn, row_loss: RowLoss, images: Tensor) -> tuple[Tensor, Tensor]:
    """Differentiate the summed loss by the images; no other gradient is touched.

    Args:
        logits_fn: Maps images (N, C, H, W) to logits (N, K); its rows must be independent.
        row_loss: Maps logits to one loss a row, shape (N,).
        images: Where.

    Returns:
        The gradient, and the logits there, detached.
    """
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        logits = logits_fn(images).float()
        (grad,) = torch.autograd.grad(row_loss(logits).sum(), images)
    return grad, logits.detach()


def check_direction(logits_fn: LogitsFn, row_loss: RowLoss, images: Tensor) -> None:
    """Check that an attack can move some images.

    Raises:
        GradientError: It cannot.
    """
    refuse_without_direction(without_direction(*gradient(logits_fn, row_loss, images)))


def perturb(
    logits_fn: LogitsFn,
    row_loss: RowLoss,
    images: Tensor,
    attack: Attack,
    *,
    generator: torch.Generator,
    start: Start = "uniform",
) -> Tensor:
    """Craft adversarial images by PGD, clipped to the ball and to [0, 1] after each step.

    Args:
        logits_fn: The frozen network; see `oat.deploy.specialize`.
        row_loss: The loss to ascend, from logits to shape (N,).
        images: Clean images in [0, 1], shape (N, C, H, W).
        attack: Radius, steps and step size.
        generator: Source of the random start, on the device of ``images``.
        start: Kind of the first iterate.

    Returns:
        Adversarial images, detached, of the shape of ``images``.

    Source: Madry et al., ICLR 2018, equation (2.1) and section 2.2.
    """
    first = start_point(images, attack.eps, start, generator)
    bounds = ball(images, attack.eps)
    return ascend(logits_fn, row_loss, first, bounds, steps=attack.steps, step=attack.step)


def ascend(
    logits_fn: LogitsFn,
    row_loss: RowLoss,
    start: Tensor,
    bounds: tuple[Tensor, Tensor],
    *,
    steps: int,
    step: float,
) -> Tensor:
    """Return the last iterate of signed gradient ascent from a given start.

    Args:
        logits_fn: See `perturb`.
        row_loss: See `perturb`.
        start: First iterate, shape (N, C, H, W); clipped to the bounds.
        bounds: Lower and upper bound of each pixel, of the shape of ``start``.
        steps: How many.
        step: Length of one in pixel units.
    """
    lower, upper = bounds
    images_adv = start.clamp(lower, upper)
    for _ in range(steps):
        grad, _ = gradient(logits_fn, row_loss, images_adv)
        images_adv = (images_adv + step * grad.sign()).clamp(lower, upper)
    return images_adv
