"""What a training method is, and once-for-all adversarial training.

A method is a frozen config and one function from a batch to a loss. The dedicated baselines in
`baselines` have the same shape; the loop, the attack and the evaluation do not tell them apart.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from oat.attacks import Attack, RowLoss, perturb
from oat.deploy import specialize
from oat.lambdas import ENCODINGS, Encoding, check_choices, num_zero_rows, sample_lam_index
from oat.models import Conditioning, Network
from oat.models.norm import Condition


class Method(Protocol):
    """What the training loop and the study need of a method; implemented by frozen dataclasses."""

    name: ClassVar[str]

    def conditioning(self) -> Conditioning:
        """Return what the method asks of its network."""
        ...

    def losses(
        self,
        model: Network,
        images: Tensor,
        labels: Tensor,
        *,
        attack: Attack,
        generator: torch.Generator,
    ) -> Iterator[Tensor]:
        """Yield the losses of one step, each of shape (N,).

        The loop takes the mean of each and runs its backward before it asks for the next.

        Args:
            model: The network in train mode.
            images: Clean images in [0, 1], shape (N, C, H, W).
            labels: Class indices, shape (N,).
            attack: Inner maximisation.
            generator: Source of all randomness of the step, on the device of ``images``.
        """
        ...

    def operating_lams(self, lams: Sequence[float]) -> list[float | None]:
        """Return the λ at which to condition the trained network; ``[None]`` if it has none."""
        ...

    def units(self, attack: Attack, batch_size: int) -> float:
        """Estimate the cost of training on one image, in forward passes of the plain network."""
        ...


def cross_entropy_of(labels: Tensor) -> RowLoss:
    """Return the function from logits (N, K) to the cross-entropy of each row, in float32."""
    return lambda logits: functional.cross_entropy(logits.float(), labels, reduction="none")


def attack_units(attack: Attack) -> float:
    """Cost of an attack: a forward and a backward to the inputs for each step."""
    return 2.0 * attack.steps


TRAIN_UNITS = 3.0
"""Cost of a training pass: a forward, and a backward to inputs and weights."""


@dataclass(frozen=True)
class Oat:
    """Once-for-all adversarial training: one network with λ as an input.

    Each row costs ``(1 - λ) CE(f(x; λ), y) + λ CE(f(x_adv; λ), y)`` at a λ of its own. Rows with
    λ = 0 stand first and are not attacked; with ``dual_bn`` they have batch norms of their own,
    and clean *and* adversarial images of the other rows take the adversarial ones.

    Attributes:
        lambda_choices: The λ set to train on.
        encoding: How λ becomes a vector; see `oat.lambdas`.
        encoding_dim: Length of that vector; ignored by ``none``.
        dual_bn: Whether λ = 0 has batch norms of its own.
        film_init: ``paper`` or ``identity``; see `oat.models.film.FiLM`.

    Raises:
        ValueError: A value is out of its range.

    Source: Wang et al., NeurIPS 2020, algorithm 1.
    """

    name: ClassVar[str] = "oat"
    lambda_choices: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 1.0)
    encoding: Encoding = "random"
    encoding_dim: int = 128
    dual_bn: bool = True
    film_init: Literal["paper", "identity"] = "identity"

    def __post_init__(self) -> None:
        check_choices(self.lambda_choices)
        if self.encoding not in ENCODINGS:
            raise ValueError(f"`encoding` must be one of {ENCODINGS}, got {self.encoding!r}.")
        if self.encoding != "none" and self.encoding_dim < len(self.lambda_choices):
            raise ValueError(
                f"`encoding_dim` must be at least the number of λ choices, got "
                f"{self.encoding_dim} for {len(self.lambda_choices)} choices."
            )

    def conditioning(self) -> Conditioning:
        """Return FiLM on the encoded λ, and two batch norms if asked."""
        return Conditioning(
            lambda_choices=self.lambda_choices,
            encoding=self.encoding,
            encoding_dim=self.encoding_dim,
            dual_bn=self.dual_bn,
            film_init=self.film_init,
        )

    def losses(
        self,
        model: Network,
        images: Tensor,
        labels: Tensor,
        *,
        attack: Attack,
        generator: torch.Generator,
    ) -> Iterator[Tensor]:
        """Yield the one loss of a step; see `Method.losses`."""
        index = sample_lam_index(self.lambda_choices, len(images), generator=generator)
        yield oat_loss(
            model, images, labels, choices=self.lambda_choices, lam_index=index,
            attack=attack, generator=generator,
        )  # fmt: skip

    def operating_lams(self, lams: Sequence[float]) -> list[float | None]:
        """Return every λ asked for."""
        return list(lams)

    def units(self, attack: Attack, batch_size: int) -> float:
        """Clean pass on all rows, attack and adversarial pass on those with λ ≠ 0."""
        share = 1 - num_zero_rows(self.lambda_choices, batch_size) / batch_size
        return TRAIN_UNITS + share * (attack_units(attack) + TRAIN_UNITS)


def oat_loss(
    model: Network,
    images: Tensor,
    labels: Tensor,
    *,
    choices: Sequence[float],
    lam_index: Tensor,
    attack: Attack,
    generator: torch.Generator,
) -> Tensor:
    """Mix clean and adversarial cross-entropy, each row at its own λ.

    Args:
        model: A network conditioned on ``choices``, in train mode.
        images: Clean images in [0, 1], shape (N, C, H, W).
        labels: Class indices, shape (N,).
        choices: The λ set.
        lam_index: Index into ``choices`` of each row, shape (N,); rows with λ = 0 first.
        attack: Inner maximisation; runs on rows with λ ≠ 0 only.
        generator: Source of the random start.

    Returns:
        Loss of each row, shape (N,).

    Source: Wang et al., NeurIPS 2020, equation (3).
    """
    assert model.encoding is not None
    codes = model.encoding.table
    lam = torch.tensor(choices, device=images.device)[lam_index]
    num_zero = num_zero_rows(choices, len(images))
    logits = model(images, codes, lam_index=lam_index, num_zero_lam=num_zero)
    clean = cross_entropy_of(labels)(logits)
    if num_zero == len(images):
        return clean
    rest = slice(num_zero, None)
    row_loss = cross_entropy_of(labels[rest])
    frozen = specialize(model, Condition(codes, lam_index[rest], 0))
    images_adv = perturb(frozen, row_loss, images[rest], attack, generator=generator)
    adv = row_loss(model(images_adv, codes, lam_index=lam_index[rest], num_zero_lam=0))
    mixed = (1 - lam[rest]) * clean[rest] + lam[rest] * adv
    return torch.cat([clean[:num_zero], mixed])
