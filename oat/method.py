"""What a training method is, and once-for-all adversarial training without and with width.

A method is a frozen config and one function from a batch to a loss. The dedicated baselines in
`baselines` have the same shape; the loop, the attack and the evaluation do not tell them apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, Protocol

from oat.attacks import Attack
from oat.encodings import BY_VALUE, Encoding, check_encoding
from oat.lambdas import LambdaSampler, Sampling
from oat.models.config import Conditioning
from oat.names import check_literals
from oat.operating import OperatingPoint
from oat.widths import check_widths

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from oat.models import Network


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
        label_smoothing: float = 0.0,
    ) -> Iterator[Tensor]:
        """Yield the losses of one step, each of shape (N,).

        The loop takes the mean of each and runs its backward before it asks for the next.

        Args:
            model: The network in train mode.
            images: Clean images in [0, 1], shape (N, C, H, W).
            labels: Class indices, shape (N,).
            attack: Inner maximisation.
            generator: Source of all randomness of the step, on the device of ``images``.
            label_smoothing: Of the cross-entropy that is minimised; the attack has hard labels.
        """
        ...

    def fixed_shapes(self) -> bool:
        """Tell whether a step does the same on the same shapes, whatever is drawn."""
        ...

    def operating_points(self, lams: Sequence[float]) -> list[OperatingPoint]:
        """Return where the trained network can be run, if it is to be judged at these λ."""
        ...

    def work(self, attack: Attack, batch_size: int) -> Mapping[float, Work]:
        """Count what training on one image takes.

        Returns:
            By the width that it runs at, as a share of the configured channels.
        """
        ...


class Work(NamedTuple):
    """Passes of one image through a network, at one width; means over a batch.

    Attributes:
        trained: Training passes: a forward, and a backward to inputs and weights.
        attacked: Steps of attacks: a forward, and a backward to the inputs.
        frozen: Forward passes alone.
    """

    trained: float
    attacked: float = 0.0
    frozen: float = 0.0

    @property
    def units(self) -> float:
        """Cost in forward passes."""
        return 3 * self.trained + 2 * self.attacked + self.frozen

    @property
    def gradients(self) -> float:
        """Gradient evaluations."""
        return self.trained + self.attacked

    @property
    def units_without_step(self) -> float:
        """Cost in forward passes where nothing is learnt: no pass of training has a backward."""
        return self.trained + 2 * self.attacked + self.frozen


@dataclass(frozen=True)
class Oat:
    """Once-for-all adversarial training: one network with λ as an input.

    Each row costs ``(1 - λ) CE(f(x; λ), y) + λ CE(f(x_adv; λ), y)`` at a λ of its own. Rows with
    λ = 0 stand first and are not attacked; with ``dual_bn`` they have batch norms of their own,
    and clean *and* adversarial images of the other rows take the adversarial ones.

    Attributes:
        lambda_choices: The λ set: to train on, and to validate at.
        lambda_sampling: Where λ is drawn from; see `oat.lambdas.LambdaSampler`. All but
            ``choices`` need an encoding by value.
        zero_share: Share of rows with λ = 0; None is one in as many as there are choices.
        batchwise: Whether all rows of a batch have one λ.
        encoding: How λ becomes a vector; see `oat.encodings.LambdaEncoding`.
        encoding_dim: Length of that vector; ignored by ``none``.
        dual_bn: Whether λ = 0 has batch norms of its own.
        skip_clean_at_one: Whether rows with λ = 1 skip the clean pass. Its weight is 0 there,
            but it feeds the batch norms' statistics.
        film_init: ``paper`` or ``identity``; see `oat.models.film.FiLM`.

    Raises:
        ValueError: A value is out of its range.

    Source: Wang et al., NeurIPS 2020, algorithm 1.
    """

    name: ClassVar[str] = "oat"
    lambda_choices: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 1.0)
    lambda_sampling: Sampling = "choices"
    zero_share: float | None = None
    batchwise: bool = False
    encoding: Encoding = "random"
    encoding_dim: int = 128
    dual_bn: bool = True
    skip_clean_at_one: bool = False
    film_init: Literal["paper", "identity"] = "identity"

    def __post_init__(self) -> None:
        check_literals(self)
        self.sampler()
        check_encoding(self.encoding, self.encoding_dim, self.lambda_choices)
        if self.lambda_sampling != "choices" and self.encoding not in BY_VALUE:
            raise ValueError(
                f"`lambda_sampling` '{self.lambda_sampling}' needs an `encoding` that knows any λ "
                f"({' or '.join(sorted(BY_VALUE))}), got '{self.encoding}'."
            )

    def sampler(self) -> LambdaSampler:
        """Return how the λ of a batch are drawn."""
        return LambdaSampler(
            self.lambda_choices, self.lambda_sampling, self.zero_share, self.batchwise
        )

    @property
    def widths(self) -> tuple[float, ...]:
        """Shares of the channels that the network can run at."""
        return (1.0,)

    def conditioning(self) -> Conditioning:
        """Return FiLM on the encoded λ, and two batch norms if asked."""
        return Conditioning(
            lambda_choices=self.lambda_choices,
            encoding=self.encoding,
            encoding_dim=self.encoding_dim,
            dual_bn=self.dual_bn,
            film_init=self.film_init,
            widths=self.widths,
        )

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
        """Yield one loss for each width, the widest first; see `Method.losses`.

        A row has one λ in a step. Each width makes adversarial images of its own, after the
        statistics of its clean pass.
        """
        from oat.losses import oat_loss

        lams = self.sampler().draw(len(images), generator=generator)
        for width in sorted(self.widths, reverse=True):
            yield oat_loss(
                model,
                images,
                labels,
                lams=lams,
                attack=attack,
                generator=generator,
                width_mult=width,
                label_smoothing=label_smoothing,
                skip_clean_at_one=self.skip_clean_at_one,
            )

    def fixed_shapes(self) -> bool:
        """Not where a batch has one λ, or the clean pass takes as many rows as are drawn."""
        return not (self.batchwise or self.skip_clean_at_one)

    def operating_points(self, lams: Sequence[float]) -> list[OperatingPoint]:
        """Return every λ asked for at every width, the widest first."""
        widths = sorted(self.widths, reverse=True)
        return [OperatingPoint(lam, width) for width in widths for lam in lams]

    def work(self, attack: Attack, batch_size: int) -> dict[float, Work]:
        """Clean pass on all rows, attack and adversarial pass on those with λ ≠ 0."""
        sampler = self.sampler()
        attacked = 1 - sampler.share_of_zero(batch_size)
        skipped = sampler.share_of_one(batch_size) if self.skip_clean_at_one else 0.0
        return dict.fromkeys(
            self.widths, Work(1 - skipped + attacked, attacked=attacked * attack.steps)
        )


@dataclass(frozen=True)
class Oats(Oat):
    """OAT and slimming: one network with λ *and* its width as inputs.

    A step goes through the widths in descending order, each with adversarial examples of its own;
    the gradients add up to one optimiser step. At the single width 1 it is OAT.

    Attributes:
        width_mults: Shares of the channels to train at.
        head_per_width: Whether each width has a classifier of its own; the paper's widths share
            one, sliced.

    Raises:
        ValueError: A value is out of its range.

    Source: Wang et al., NeurIPS 2020, section 3.3; a head for each width as in SOLAR, WACV 2026.
    """

    name: ClassVar[str] = "oats"
    width_mults: tuple[float, ...] = (0.5, 0.75, 1.0)
    head_per_width: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_widths(self.width_mults)

    @property
    def widths(self) -> tuple[float, ...]:
        """Shares of the channels that the network can run at."""
        return self.width_mults

    def conditioning(self) -> Conditioning:
        """Return OAT's, with the widths and their heads."""
        return replace(super().conditioning(), head_per_width=self.head_per_width)
