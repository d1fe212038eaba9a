"""The one training loop: epochs, optimiser, schedule, precision."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from oat.attacks import Attack
from oat.data import DataConfig, Dataset, augment, unit
from oat.evaluation import EvaluationAttack, validate
from oat.method import Method
from oat.models import ModelConfig, Network, build


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
        schedule: ``cosine`` by epoch to 0, or ``constant``.
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
    schedule: Literal["cosine", "constant"] = "cosine"
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

    def lr_at(self, epoch: int) -> float:
        """Return the learning rate of an epoch, counted from 0."""
        if self.schedule == "constant":
            return self.lr
        return 0.5 * self.lr * (1 + math.cos(math.pi * epoch / self.epochs))


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


def steps_per_epoch(num_images: int, batch_size: int) -> int:
    """Count the steps of an epoch: whole batches, or one of all images if there are fewer."""
    return max(1, num_images // batch_size)


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
        self.epoch = state["epoch"]
        self.device_seconds = state["device_seconds"]

    def epochs(self) -> Iterator[EpochRecord]:
        """Train the epochs that are left, yielding after each.

        Raises:
            DivergenceError: The loss of an epoch is not finite.
        """
        while self.epoch < self.config.epochs:
            yield self._one_epoch()

    def _one_epoch(self) -> EpochRecord:
        lr = self.config.lr_at(self.epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
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
        return EpochRecord(
            self.epoch, train_loss, lr, sa_val, ra_val, seen / seconds, self.device_seconds
        )

    def _train(self) -> tuple[float, int]:
        """Pass over the training images once; return the mean loss and how many were seen."""
        split, size = self.dataset.train, min(self.config.batch_size, len(self.dataset.train))
        order = torch.randperm(len(split), generator=self.generator, device=self.device)
        total = torch.zeros((), device=self.device)
        self.model.train()
        steps = steps_per_epoch(len(split), size)
        for rows in torch.split(order[: steps * size], size):
            total += self._step(unit(split.images[rows]), split.labels[rows])
        return total.item() / steps, steps * size

    def _step(self, images: Tensor, labels: Tensor) -> Tensor:
        assert self.data.crop is not None
        assert self.data.flip is not None
        images = augment(images, self.data.crop, self.data.flip, generator=self.generator)
        images = images.contiguous(memory_format=torch.channels_last)
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            losses = self.method.losses(
                self.model, images, labels, attack=self.attack, generator=self.generator
            )
            for rows in losses:
                loss = rows.mean()
                loss.backward()  # type: ignore[no-untyped-call]
                total += loss.detach()
        self.optimizer.step()
        return total
