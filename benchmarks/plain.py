"""A training step as it is published, written simply: what the library's step is measured against.

Eager, float32, default memory layout. The attack runs on the network itself in eval mode, so that
FiLM and batch norm run layer by layer in every iteration, with one λ code a row. There is no loader
in it: images are on the device, as in the library. It is timed by ``python -m
benchmarks.train_step``.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from baselines import PgdAt, Trades
from baselines.trades import trades_attack
from oat.attacks import Attack
from oat.lambdas import RowLams
from oat.method import Method, Oat
from oat.models import Network


def plain_step(
    model: Network,
    optimizer: torch.optim.Optimizer,
    method: Method,
    images: Tensor,
    labels: Tensor,
    *,
    attack: Attack,
    generator: torch.Generator,
) -> Tensor:
    """Take one step of training.

    Args:
        model: The network in train mode.
        optimizer: Of its parameters.
        method: OAT, OATS, PGD-AT or TRADES.
        images: Clean images in [0, 1], shape (N, C, H, W).
        labels: Class indices, shape (N,).
        attack: Inner maximisation.
        generator: Source of all randomness of the step.

    Returns:
        The loss, those of several widths summed; a scalar.
    """
    optimizer.zero_grad()
    total = torch.zeros((), device=images.device)
    for rows in _losses(model, method, images, labels, attack, generator):
        loss = rows.mean()
        loss.backward()
        total += loss.detach()
    optimizer.step()
    return total


def _losses(
    model: Network,
    method: Method,
    images: Tensor,
    labels: Tensor,
    attack: Attack,
    generator: torch.Generator,
) -> Iterator[Tensor]:
    """Yield the loss of each row, once for each width."""
    if isinstance(method, Oat):
        lams = method.sampler().draw(len(images), generator=generator)
        for width in sorted(method.widths, reverse=True):
            yield plain_oat_loss(
                model, images, labels, lams=lams, attack=attack, generator=generator,
                width_mult=width,
            )  # fmt: skip
    elif isinstance(method, PgdAt):
        yield plain_pgd_at_loss(
            model, images, labels, lam=method.lam, attack=attack, generator=generator
        )
    elif isinstance(method, Trades):
        yield plain_trades_loss(
            model, images, labels, beta=method.beta, attack=attack, generator=generator
        )
    else:
        raise ValueError(f"There is no plain way of `method` '{method.name}'.")


def plain_oat_loss(
    model: Network,
    images: Tensor,
    labels: Tensor,
    *,
    lams: RowLams,
    attack: Attack,
    generator: torch.Generator,
    width_mult: float = 1.0,
) -> Tensor:
    """Compute the loss of `oat.method.oat_loss`, shape (N,); see there for the arguments."""
    assert model.encoding is not None
    codes = model.encoding.encode(lams.values)[lams.index]  # one a row
    lam, num_zero = lams.rows(), lams.num_zero
    logits = model(images, codes, num_zero_lam=num_zero, width_mult=width_mult)
    clean = functional.cross_entropy(logits, labels, reduction="none")
    rest = slice(num_zero, None)

    def conditional(x: Tensor) -> Tensor:
        found: Tensor = model(x, codes[rest], num_zero_lam=0, width_mult=width_mult)
        return found

    images_adv = _pgd(
        model,
        lambda x: functional.cross_entropy(conditional(x), labels[rest], reduction="sum"),
        images[rest],
        attack,
        generator,
    )
    adv = functional.cross_entropy(conditional(images_adv), labels[rest], reduction="none")
    mixed = (1 - lam[rest]) * clean[rest] + lam[rest] * adv
    return torch.cat([clean[:num_zero], mixed])


def plain_pgd_at_loss(
    model: Network,
    images: Tensor,
    labels: Tensor,
    *,
    lam: float,
    attack: Attack,
    generator: torch.Generator,
) -> Tensor:
    """Compute the loss of `baselines.pgd_at.pgd_at_loss`, shape (N,); see there."""
    loss = torch.zeros(len(images), device=images.device)
    if lam < 1:
        loss = (1 - lam) * functional.cross_entropy(model(images), labels, reduction="none")
    if lam > 0:
        images_adv = _pgd(
            model,
            lambda x: functional.cross_entropy(model(x), labels, reduction="sum"),
            images,
            attack,
            generator,
        )
        adv = functional.cross_entropy(model(images_adv), labels, reduction="none")
        loss = loss + lam * adv
    return loss


def plain_trades_loss(
    model: Network,
    images: Tensor,
    labels: Tensor,
    *,
    beta: float,
    attack: Attack,
    generator: torch.Generator,
) -> Tensor:
    """Compute the loss of `baselines.trades.trades_loss`, shape (N,); see there.

    As its authors do, each iteration of the attack computes the clean probabilities again, the
    attack comes before the clean pass, and the step has two clean passes.
    """

    def divergence(x: Tensor) -> Tensor:
        log_q = functional.log_softmax(model(x), dim=1)
        p = functional.softmax(model(images), dim=1)
        return functional.kl_div(log_q, p, reduction="none").sum(dim=1)

    images_adv = _pgd(
        model,
        lambda x: divergence(x).sum(),
        images,
        trades_attack(attack),
        generator,
        gaussian=True,
    )
    clean = functional.cross_entropy(model(images), labels, reduction="none")
    return clean + beta * divergence(images_adv)


def _pgd(
    model: nn.Module,
    loss_of: Callable[[Tensor], Tensor],
    images: Tensor,
    attack: Attack,
    generator: torch.Generator,
    *,
    gaussian: bool = False,
) -> Tensor:
    """Ascend a loss on the network in eval mode; leave it in train mode."""
    model.eval()
    noise = torch.empty_like(images)
    if gaussian:
        noise.normal_(0, 0.001, generator=generator)
    else:
        noise.uniform_(-attack.eps, attack.eps, generator=generator)
    images_adv = (images + noise).clamp(0, 1)
    for _ in range(attack.steps):
        images_adv = images_adv.detach().requires_grad_()
        (grad,) = torch.autograd.grad(loss_of(images_adv), images_adv)
        images_adv = images_adv.detach() + attack.step * grad.sign()
        images_adv = torch.minimum(
            torch.maximum(images_adv, images - attack.eps), images + attack.eps
        ).clamp(0, 1)
    model.train()
    return images_adv.detach()
