"""How a network is trained: what every method of a study has in common."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

from oat.attacks import Attack
from oat.names import literal_faults, refuse

CheckpointRule = Literal["last", "averaged", "chosen"]
"""Which weights of a training are judged.

``last`` are those after the last epoch; ``averaged`` their exponential moving average, with batch
norm statistics of its own; ``chosen`` those of the epoch with the best mean of SA and RA on the
held-out images, over all operating points.
"""

RULES: tuple[CheckpointRule, ...] = get_args(CheckpointRule)
HOW = ("precision", "tf32", "deterministic", "compile", "capture")
"""Settings of `TrainConfig` that say how a training is executed."""
SHARED = ("epochs", "batch_size", "optimizer", *HOW, "val_every", "val_images")
"""Settings of `TrainConfig` that all models of a study have in common, so that they can be
compared; of the others a model may have its own."""

STATISTICS_BATCHES = 50
"""Batches from which the averaged weights take their batch norm statistics, at most."""

ONE_CYCLE_RISE, ONE_CYCLE_START = 0.3, 1 / 25
"""Share of the training in which the rate of ``onecycle`` rises, and where it starts."""


@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained; the same for every method of a study.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images a step; the last, smaller batch of an epoch is left out.
        optimizer: Only ``sgd``.
        lr: Learning rate: the highest, which all schedules but ``onecycle`` start at.
        momentum: Momentum of SGD.
        weight_decay: Weight decay of every parameter.
        schedule: ``cosine`` by epoch to 0; ``multistep`` by `gamma` at each of `milestones`;
            ``onecycle``, which rises from a 25th of `lr` in the first 30 % of the training and
            falls to 0, by step and both as a cosine; or ``constant``.
        milestones: Where ``multistep`` lowers the rate, as shares of the training in (0, 1).
        gamma: Factor by which ``multistep`` lowers the rate, in (0, 1).
        label_smoothing: Label smoothing of the training loss, in [0, 1); attacks and validation
            have hard labels.
        eps_warmup: Epochs in which the radius of the training attack grows, by as much each, to
            the full one; 0 for none. It keeps training from being caught by masked gradients.
        clip_norm: Largest norm of the gradient of all parameters; None does not clip.
        ema: Decay of the exponential moving average of the weights, by step, in (0, 1); in the
            first steps it is lower. None keeps no average.
        precision: Type of features and convolutions: ``float32``, ``bfloat16``, or ``auto``:
            bfloat16 where the device computes the network clearly faster so, by a measurement
            before the first epoch. Weights, norms, logits, losses and the gradients of attacks are
            float32.
        tf32: Whether a GPU may round the inputs of float32 products to TF32. Faster, less exact.
        deterministic: Whether two equal trainings on a GPU are equal bit for bit, at some cost in
            speed; on a CPU they always are.
        compile: Whether a GPU does the elementwise work by compiled kernels; ``auto`` does so where
            the training is long enough to pay for it.
        capture: Whether a GPU records a step once and replays it; ``auto`` does so where that can
            be done and gives the same numbers.
        val_every: Epochs between validations; the last epoch is always validated.
        val_images: Held-out images used for a validation, at most.

    Raises:
        Faults: Values are out of their ranges: a `ValueError` with a sentence for each.
    """

    epochs: int = 200
    batch_size: int = 128
    optimizer: Literal["sgd"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Literal["cosine", "multistep", "onecycle", "constant"] = "cosine"
    milestones: tuple[float, ...] = (0.5, 0.75)
    gamma: float = 0.1
    label_smoothing: float = 0.0
    eps_warmup: int = 0
    clip_norm: float | None = None
    ema: float | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    tf32: bool = False
    deterministic: bool = True
    compile: bool | Literal["auto"] = "auto"
    capture: bool | Literal["auto"] = "auto"
    val_every: int = 1
    val_images: int = 512

    def __post_init__(self) -> None:
        refuse(self._faults())

    def _faults(self) -> Iterator[str]:
        yield from literal_faults(self)
        for key in ("compile", "capture"):
            if (asked := getattr(self, key)) not in (True, False, "auto"):
                yield f"`{key}` must be true, false or auto, got '{asked}'."
        for key in ("epochs", "val_every", "val_images"):
            if getattr(self, key) < 1:
                yield f"`{key}` must be at least 1, got {getattr(self, key)}."
        if self.batch_size < 2:  # a batch norm has no variance of one row
            yield f"`batch_size` must be at least 2, got {self.batch_size}."
        if not 0 < self.lr < math.inf:
            yield f"`lr` must be a finite number above 0, got {self.lr:g}."
        if not 0 <= self.momentum < 1:
            yield f"`momentum` must be in [0, 1), got {self.momentum:g}."
        if not 0 <= self.weight_decay < math.inf:
            yield (
                f"`weight_decay` must be a finite number of at least 0, got {self.weight_decay:g}."
            )
        if not all(0 < share < 1 for share in self.milestones):
            yield (
                f"`milestones` must be shares of the training in (0, 1), got "
                f"{list(self.milestones)}."
            )
        for key in ("gamma", "ema"):
            value = getattr(self, key)
            if value is not None and not 0 < value < 1:
                yield f"`{key}` must be in (0, 1), got {value:g}."
        if not 0 <= self.label_smoothing < 1:
            yield f"`label_smoothing` must be in [0, 1), got {self.label_smoothing:g}."
        if not 0 <= self.eps_warmup <= max(self.epochs, 0):
            yield (
                f"`eps_warmup` must be from 0 to `epochs` ({self.epochs}), got {self.eps_warmup}."
            )
        if self.clip_norm is not None and not 0 < self.clip_norm < math.inf:
            yield (f"`clip_norm` must be a finite number above 0, got {self.clip_norm:g}.")

    def lr_at(self, epoch: float) -> float:
        """Return the learning rate after so many epochs; only ``onecycle`` changes within one."""
        if self.schedule == "constant":
            return self.lr
        if self.schedule == "onecycle":
            return self.lr * self._one_cycle(epoch / self.epochs)
        share = math.floor(epoch) / self.epochs
        if self.schedule == "multistep":
            return self.lr * self.gamma ** sum(share >= milestone for milestone in self.milestones)
        return 0.5 * self.lr * (1 + math.cos(math.pi * share))

    def drop_epoch(self) -> int:
        """Return the epochs after which the learning rate has dropped for good.

        Robust accuracy before does not rank final models. For ``multistep`` it is the first
        milestone; for the others, the epoch from which the rate stays below half of the highest;
        ``constant`` never drops, so that it is the last.
        """
        if self.schedule == "multistep" and self.milestones:
            first = min(self.milestones)
            return next(e for e in range(self.epochs + 1) if e / self.epochs >= first)
        rates = [self.lr_at(epoch) for epoch in range(self.epochs)]
        above = [epoch for epoch, rate in enumerate(rates) if rate >= 0.5 * self.lr]
        return above[-1] + 1 if above else 0

    def _one_cycle(self, share: float) -> float:
        """Return the rate as a share of the highest (Smith and Topin, 2018)."""
        if share < ONE_CYCLE_RISE:
            risen = 0.5 * (1 - math.cos(math.pi * share / ONE_CYCLE_RISE))
            return ONE_CYCLE_START + (1 - ONE_CYCLE_START) * risen
        return 0.5 * (1 + math.cos(math.pi * (share - ONE_CYCLE_RISE) / (1 - ONE_CYCLE_RISE)))

    def attack_at(self, epoch: int, attack: Attack) -> Attack:
        """Return the training attack of an epoch, counted from 0, as the warm-up has it."""
        if epoch >= self.eps_warmup:
            return attack
        grown = (epoch + 1) / self.eps_warmup
        step = attack.step_size if attack.step_size == "auto" else grown * attack.step_size
        return replace(attack, eps=grown * attack.eps, step_size=step)

    def rules(self) -> tuple[CheckpointRule, ...]:
        """Return the checkpoint rules that a training leaves weights for."""
        return tuple(rule for rule in RULES if rule != "averaged" or self.ema is not None)


def steps_per_epoch(num_images: int, batch_size: int) -> int:
    """Count the steps of an epoch: whole batches, or one of all images if there are fewer."""
    return max(1, num_images // batch_size)


class Seen(NamedTuple):
    """Images that a training passes over.

    Attributes:
        stepped: In steps, which have a backward pass.
        settled: For the batch norm statistics of averaged weights; without a backward pass.
    """

    stepped: int
    settled: int


def images_seen(train: TrainConfig, num_images: int) -> Seen:
    """Count the images that a training passes over."""
    steps = steps_per_epoch(num_images, train.batch_size)
    settling = 0 if train.ema is None else min(STATISTICS_BATCHES, steps)
    size = min(train.batch_size, num_images)
    return Seen(steps * train.epochs * size, settling * size)
