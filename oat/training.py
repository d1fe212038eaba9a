"""The one training loop: epochs, optimiser, schedules, precision, and which weights to keep."""

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from oat.attacks import Attack
from oat.data import DataConfig, Dataset, augment, unit
from oat.evaluation import EvaluationAttack, validate
from oat.method import Method
from oat.models import ModelConfig, Network, build

CheckpointRule = Literal["last", "averaged", "chosen"]
"""Which weights of a training are judged.

``last`` are those after the last epoch; ``averaged`` their exponential moving average, with batch
norm statistics of its own; ``chosen`` those of the epoch with the best mean of SA and RA on the
held-out images, over all operating points.
"""

RULES: tuple[CheckpointRule, ...] = get_args(CheckpointRule)
STATISTICS_BATCHES = 50
"""Batches from which the averaged weights take their batch norm statistics, at most."""

LOSS_CHECK_STEPS = 50
"""Steps between looks at the loss: each makes a GPU wait."""

ONE_CYCLE_RISE, ONE_CYCLE_START = 0.3, 1 / 25
"""Share of the training in which the rate of ``onecycle`` rises, and where it starts."""


class DivergenceError(Exception):
    """The training loss is no longer a finite number.

    Attributes:
        epoch: The epoch in which it happened, from 1.
        loss: The mean loss of that epoch.
    """

    def __init__(self, epoch: int, loss: float) -> None:
        super().__init__(epoch, loss)
        self.epoch, self.loss = epoch, loss

    def __str__(self) -> str:
        return f"The training loss is {self.loss} in epoch {self.epoch}."


@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained; the same for every method of a study.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images a step; the last, smaller batch of an epoch is left out.
        optimizer: ``sgd``.
        lr: Learning rate at the start.
        momentum: Of SGD.
        weight_decay: Of every parameter.
        schedule: ``cosine`` by epoch to 0; ``multistep`` by `gamma` at each of `milestones`;
            ``onecycle``, which rises from a 25th of `lr` in the first 30 % of the training and
            falls to 0, by step and both as a cosine; or ``constant``.
        milestones: Where ``multistep`` lowers the rate, as shares of the training in (0, 1).
        gamma: Factor by which it does, in (0, 1).
        label_smoothing: Of the cross-entropy that is minimised, in [0, 1); attacks and
            validation have hard labels.
        eps_warmup: Epochs in which the radius of the training attack grows, by as much each, to
            the full one; 0 for none. It keeps training from being caught by masked gradients.
        clip_norm: Largest norm of the gradient of all parameters; None does not clip.
        ema: Decay of the exponential moving average of the weights, by step, in (0, 1); in the
            first steps it is lower. None keeps no average.
        precision: ``float32``, ``bfloat16`` (autocast), or ``auto``: bfloat16 on a GPU that has
            it. Logits, losses and attack gradients with respect to images are float32.
        val_every: Epochs between validations; the last epoch is always validated.
        val_images: Held-out images used for it, at most.

    Raises:
        ValueError: A value is out of its range.
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
    val_every: int = 1
    val_images: int = 512

    def __post_init__(self) -> None:
        for key in ("epochs", "batch_size", "val_every", "val_images"):
            if getattr(self, key) < 1:
                raise ValueError(f"`{key}` must be at least 1, got {getattr(self, key)}.")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"`lr` must be a finite number above 0, got {self.lr:g}.")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"`momentum` must be in [0, 1), got {self.momentum:g}.")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(
                f"`weight_decay` must be a finite number of at least 0, got {self.weight_decay:g}."
            )
        if not all(0 < share < 1 for share in self.milestones):
            raise ValueError(
                f"`milestones` must be shares of the training in (0, 1), got "
                f"{list(self.milestones)}."
            )
        for key in ("gamma", "ema"):
            value = getattr(self, key)
            if value is not None and not 0 < value < 1:
                raise ValueError(f"`{key}` must be in (0, 1), got {value:g}.")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"`label_smoothing` must be in [0, 1), got {self.label_smoothing:g}.")
        if not 0 <= self.eps_warmup <= self.epochs:
            raise ValueError(
                f"`eps_warmup` must be from 0 to `epochs` ({self.epochs}), got {self.eps_warmup}."
            )
        if self.clip_norm is not None and not 0 < self.clip_norm < math.inf:
            raise ValueError(
                f"`clip_norm` must be a finite number above 0, got {self.clip_norm:g}."
            )

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


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch did.

    Attributes:
        epoch: Counted from 1.
        train_loss: Mean over the epoch's images, of each loss of a step summed.
        lr: Learning rate.
        sa_val: Standard accuracy on validation, mean over λ; None if not validated.
        ra_val: Robust accuracy likewise.
        images_per_second: Training images, validation time apart.
        device_seconds: Training time so far, validation apart.
    """

    epoch: int
    train_loss: float
    lr: float
    sa_val: float | None
    ra_val: float | None
    images_per_second: float
    device_seconds: float


@dataclass(frozen=True)
class Kept:
    """Weights that a training leaves.

    Attributes:
        epoch: The epoch that they are of, from 1.
        state: The network's state dict.
    """

    epoch: int
    state: dict[str, Tensor]


def moving_average(decay: float) -> Callable[[Any, Any, Any], None]:
    """Return the update of an exponential moving average, as `AveragedModel` takes it.

    After t updates the decay is ``min(decay, (1 + t) / (10 + t))``, so that the average of a
    short training is not the initial weights.
    """

    def update(averaged: list[Tensor], current: list[Tensor], updates: Tensor) -> None:
        t = float(updates)
        now = min(decay, (1 + t) / (10 + t))
        torch._foreach_lerp_(averaged, current, 1 - now)

    return update


def steps_per_epoch(num_images: int, batch_size: int) -> int:
    """Count the steps of an epoch: whole batches, or one of all images if there are fewer."""
    return max(1, num_images // batch_size)


def images_seen(train: TrainConfig, num_images: int) -> int:
    """Count the images that a training passes over, those for statistics included."""
    steps = steps_per_epoch(num_images, train.batch_size)
    own = 0 if train.ema is None else min(STATISTICS_BATCHES, steps)
    return (steps * train.epochs + own) * min(train.batch_size, num_images)


class Training:
    """A network in training and everything that its next epoch depends on.

    Two trainings with the same arguments take the same steps, bit for bit on one kind of device;
    so does one that was saved by `state_dict`, loaded and continued.

    Args:
        method: Config and loss.
        model: Which network.
        dataset: On the device to train on.
        data: How images are augmented.
        train: How to train.
        attack: Inner maximisation.
        seed: Of initialisation and of every random draw.
    """

    def __init__(
        self,
        method: Method,
        model: ModelConfig,
        dataset: Dataset,
        data: DataConfig,
        train: TrainConfig,
        attack: Attack,
        *,
        seed: int,
    ) -> None:
        self.method, self.dataset, self.config, self.attack = method, dataset, train, attack
        self.data = data.resolved()
        self.val_lams = list(method.conditioning().lambda_choices)
        self.device = dataset.train.images.device
        torch.manual_seed(seed)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.model: Network = build(
            model,
            in_channels=dataset.image_shape[0],
            num_classes=dataset.num_classes,
            conditioning=method.conditioning(),
        ).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=train.lr,
            momentum=train.momentum,
            weight_decay=train.weight_decay,
        )
        self.averaged = (
            None
            if train.ema is None
            else AveragedModel(self.model, multi_avg_fn=moving_average(train.ema))
        )
        self.best: tuple[float, Kept] | None = None
        self.seed = seed
        self.epoch = 0
        self.device_seconds = 0.0

    @property
    def bfloat16(self) -> bool:
        """Whether the networks run under bfloat16 autocast."""
        if self.config.precision == "auto":
            return self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        return self.config.precision == "bfloat16"

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs, as tensors and plain values."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "torch_rng": torch.get_rng_state(),
            "epoch": self.epoch,
            "device_seconds": self.device_seconds,
        }
        if self.averaged is not None:
            state["averaged"] = self.averaged.state_dict()
        if self.best is not None:
            score, kept = self.best
            state["best"] = {"score": score, "epoch": kept.epoch, "model": kept.state}
        if self.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"].cpu())
        torch.set_rng_state(state["torch_rng"].cpu())
        if self.device.type == "cuda" and "cuda_rng" in state:
            torch.cuda.set_rng_state(state["cuda_rng"].cpu(), self.device)
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])
        if "best" in state:
            best = state["best"]
            self.best = best["score"], Kept(best["epoch"], best["model"])
        self.epoch = state["epoch"]
        self.device_seconds = state["device_seconds"]

    def epochs(self) -> Iterator[EpochRecord]:
        """Train the epochs that are left, yielding after each.

        Raises:
            DivergenceError: The loss of an epoch is not finite.
        """
        while self.epoch < self.config.epochs:
            yield self._one_epoch()

    def kept(self) -> dict[CheckpointRule, Kept]:
        """Return the weights of each checkpoint rule, once all epochs are done."""
        assert self.best is not None, "the last epoch is always validated"
        started = time.perf_counter()
        weights: dict[CheckpointRule, Kept] = {"last": Kept(self.epoch, self.model.state_dict())}
        if self.averaged is not None:
            network = copy.deepcopy(self.averaged.module)
            assert isinstance(network, Network)
            self._take_statistics(network)
            weights["averaged"] = Kept(self.epoch, network.state_dict())
        weights["chosen"] = self.best[1]
        self.device_seconds += time.perf_counter() - started
        return weights

    def _one_epoch(self) -> EpochRecord:
        lr = self.config.lr_at(self.epoch)
        started = time.perf_counter()
        train_loss, seen = self._train()
        seconds = time.perf_counter() - started
        self.epoch += 1
        self.device_seconds += seconds
        if not math.isfinite(train_loss):
            raise DivergenceError(self.epoch, train_loss)
        sa_val = ra_val = None
        if self.epoch % self.config.val_every == 0 or self.epoch == self.config.epochs:
            sa_val, ra_val = validate(
                self.model,
                self.method,
                self.val_lams,
                self.dataset.val.head(self.config.val_images),
                EvaluationAttack(steps=self.attack.steps, eps=self.attack.eps),
            )
            self._keep_best(0.5 * (sa_val + ra_val))
        return EpochRecord(
            self.epoch, train_loss, lr, sa_val, ra_val, seen / seconds, self.device_seconds
        )

    def _keep_best(self, score: float) -> None:
        """Keep a copy of the weights if they are the best so far on validation."""
        if self.best is None or score > self.best[0]:
            state = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
            self.best = score, Kept(self.epoch, state)

    def _batches(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Pass over the training images once in random order, augmented, in whole batches."""
        assert self.data.crop is not None
        assert self.data.flip is not None
        split, size = self.dataset.train, min(self.config.batch_size, len(self.dataset.train))
        order = torch.randperm(len(split), generator=generator, device=self.device)
        steps = steps_per_epoch(len(split), size)
        for rows in torch.split(order[: steps * size], size):
            images = unit(split.images[rows])
            images = augment(images, self.data.crop, self.data.flip, generator=generator)
            yield images.contiguous(memory_format=torch.channels_last), split.labels[rows]

    def _losses(
        self, model: Network, images: Tensor, labels: Tensor, attack: Attack, gen: torch.Generator
    ) -> Iterator[Tensor]:
        return self.method.losses(
            model,
            images,
            labels,
            attack=attack,
            generator=gen,
            label_smoothing=self.config.label_smoothing,
        )

    def _train(self) -> tuple[float, int]:
        """Pass over the training images once; return the mean loss and how many were seen."""
        attack = self.config.attack_at(self.epoch, self.attack)
        total = torch.zeros((), device=self.device)
        steps = steps_per_epoch(len(self.dataset.train), self.config.batch_size)
        seen = 0
        self.model.train()
        for step, (images, labels) in enumerate(self._batches(self.generator)):
            for group in self.optimizer.param_groups:
                group["lr"] = self.config.lr_at(self.epoch + step / steps)
            total += self._step(images, labels, attack)
            seen += len(images)
            if step % LOSS_CHECK_STEPS == 0 and not bool(total.isfinite()):
                break  # no use in the rest of the epoch
        return total.item() / steps, seen

    def _step(self, images: Tensor, labels: Tensor, attack: Attack) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            for rows in self._losses(self.model, images, labels, attack, self.generator):
                loss = rows.mean()
                loss.backward()  # type: ignore[no-untyped-call]
                total += loss.detach()
        if self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimizer.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)
        return total

    @torch.no_grad()
    def _take_statistics(self, model: Network) -> None:
        """Give a network batch norm statistics of its own, by the passes of the method's step.

        Every branch sees what it would see in training, clean and adversarial, at every width;
        the statistics are the plain mean over the batches. Nothing of the training changes.
        """
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            # the old statistics serve the attack of the first batch, which then replaces them
            norm.momentum = None
            assert norm.num_batches_tracked is not None
            norm.num_batches_tracked.zero_()
        model.train()
        generator = torch.Generator(self.device).manual_seed(self.seed)
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(self.seed)  # for dropout
            for images, labels in islice(self._batches(generator), STATISTICS_BATCHES):
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
                    for _ in self._losses(model, images, labels, self.attack, generator):
                        pass
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
