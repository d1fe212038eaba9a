"""The one training loop: epochs, optimiser, precision, and which weights to keep."""

import copy
import math
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from oat.adversaries import Pgd
from oat.attacks import Attack
from oat.data import DataConfig, Dataset
from oat.epoch import EpochRecord
from oat.evaluation import validate
from oat.execution import Execution, as_asked, numerics
from oat.method import Method
from oat.models import ModelConfig, Network, build
from oat.optimizer import Sgd
from oat.recipe import STATISTICS_BATCHES, CheckpointRule, TrainConfig, steps_per_epoch
from oat.sharing import DeviceShare
from oat.statistics import Batch, take_statistics
from oat.step import Step, make_batch

LOSS_CHECK_STEPS = 50
"""Steps between looks at the loss: each makes a GPU wait."""


class DivergenceError(Exception):
    """The training loss is no longer a finite number.

    Attributes:
        epoch: The epoch in which it happened, from 1.
        loss: The mean loss of that epoch.
        device_seconds: Training time until then.
    """

    def __init__(self, epoch: int, loss: float, device_seconds: float) -> None:
        super().__init__(epoch, loss, device_seconds)
        self.epoch, self.loss, self.device_seconds = epoch, loss, device_seconds

    def __str__(self) -> str:
        return f"The training loss is {self.loss} in epoch {self.epoch}."


@dataclass(frozen=True)
class Kept:
    """Weights that a training leaves.

    Attributes:
        epoch: The epoch that they are of, from 1.
        state: The network's state dict.
    """

    epoch: int
    state: dict[str, Tensor]


class Training:
    """A network in training and everything that its next epoch depends on.

    Two trainings with the same arguments take the same steps, bit for bit on one kind of device
    (on a GPU, if `TrainConfig.deterministic` says so); so does one that was saved by `state_dict`,
    loaded and continued.

    Args:
        method: Config and loss.
        model: Which network.
        dataset: On the device to train on.
        data: How images are augmented.
        train: How to train.
        attack: Inner maximisation.
        seed: Of initialisation and of every random draw.
        execution: How steps are executed; None is `oat.execution.as_asked`.
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
        execution: Execution | None = None,
    ) -> None:
        self.method, self.dataset, self.config, self.attack = method, dataset, train, attack
        self.data = data.resolved()
        self.val_lams = list(method.conditioning().lambda_choices)
        self.device = dataset.train.images.device
        self.execution = execution or as_asked(train, self.device, method.fixed_shapes())
        self.generator = torch.Generator(self.device).manual_seed(seed)
        with self._fork_rng():
            torch.manual_seed(seed)
            network = build(
                model,
                in_channels=dataset.image_shape[0],
                num_classes=dataset.num_classes,
                conditioning=method.conditioning(),
            )
            self._rng = self._rng_state()
        self.model: Network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model.compute = self.execution.compute
        self.optimizer = Sgd(
            self.model.parameters(),
            lr=train.lr,
            momentum=train.momentum,
            weight_decay=train.weight_decay,
            fused=True if self.device.type == "cuda" else None,
        )
        self.step = Step(
            self.model,
            method,
            self.optimizer,
            dataset.train,
            data=self.data,
            train=train,
            generator=self.generator,
            captured=self.execution.captured,
        )
        self.averaged = None if train.ema is None else copy.deepcopy(self.model)
        self.best: tuple[float, Kept] | None = None
        self.share = DeviceShare(self.device)
        self.seed = seed
        self.epoch = 0
        self.device_seconds = 0.0

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return steps_per_epoch(len(self.dataset.train), self.config.batch_size)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs, as tensors (not copies) and plain values."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "rng": self._rng,
            "epoch": self.epoch,
            "device_seconds": self.device_seconds,
        }
        if self.averaged is not None:
            state["averaged"] = self.averaged.state_dict()
        if self.best is not None:
            score, kept = self.best
            state["best"] = {"score": score, "epoch": kept.epoch, "model": kept.state}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned, be it on a GPU or a CPU.

        On the other kind of device the draws are not those that would have come.
        """
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._draw_on(state["generator"].cpu(), state["epoch"])
        self._rng |= {
            kind: saved.cpu() for kind, saved in state["rng"].items() if kind in self._rng
        }
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])
        best = state.get("best")
        self.best = best and (best["score"], Kept(best["epoch"], best["model"]))
        self.epoch = state["epoch"]
        self.device_seconds = state["device_seconds"]

    def _draw_on(self, state: Tensor, epoch: int) -> None:
        """Go on drawing where a checkpoint stopped; a GPU's state means nothing to a CPU."""
        if len(state) == len(self.generator.get_state()):
            self.generator.set_state(state)
        else:
            self.generator.manual_seed(self.seed + (epoch << 32))  # seeds are below 2**32

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Take weights and batch norm statistics of a network instead of the initial ones.

        Args:
            weights: State dict of a network of the same shapes.
        """
        self.model.load_state_dict(weights)
        if self.averaged is not None:
            self.averaged.load_state_dict(weights)

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
        weights: dict[CheckpointRule, Kept] = {"last": Kept(self.epoch, self._copied_weights())}
        with self.share.training():
            self.share.sample()
            if self.averaged is not None:
                network = copy.deepcopy(self.averaged)
                self._take_statistics(network)
                weights["averaged"] = Kept(self.epoch, network.state_dict())
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.share.sample()
        weights["chosen"] = self.best[1]
        self.device_seconds += (time.perf_counter() - started) * self.share.mean()
        return weights

    def _is_finite(self) -> bool:
        """Tell whether all weights and statistics are numbers."""
        values = [*self.model.parameters(), *self.model.buffers()]
        # one wait for the device, not one for each tensor
        return bool(torch.stack([value.isfinite().all() for value in values]).all())

    def _one_epoch(self) -> EpochRecord:
        lr = self.config.lr_at(self.epoch)
        started = time.perf_counter()
        with self.share.training(), self._own_rng(), self._numerics():
            train_loss, seen = self._train()
        seconds = time.perf_counter() - started
        self.epoch += 1
        self.device_seconds += seconds * self.share.mean()
        # the loss is that of before the last step
        if not math.isfinite(train_loss) or not self._is_finite():
            raise DivergenceError(self.epoch, train_loss, self.device_seconds)
        sa_val = ra_val = None
        if self.epoch % self.config.val_every == 0 or self.epoch == self.config.epochs:
            with self._numerics():
                sa_val, ra_val = validate(
                    self.model,
                    self.method,
                    self.val_lams,
                    self.dataset.val.head(self.config.val_images),
                    Pgd(steps=self.attack.steps, eps=self.attack.eps),
                )
            self._keep_best(0.5 * (sa_val + ra_val))
        return EpochRecord(
            self.epoch, train_loss, lr, sa_val, ra_val, seen / seconds, self.device_seconds
        )

    def _keep_best(self, score: float) -> None:
        """Keep a copy of the weights if they are the best so far on validation."""
        if self.best is None or score > self.best[0]:
            self.best = score, Kept(self.epoch, self._copied_weights())

    def _copied_weights(self) -> dict[str, Tensor]:
        return {k: v.detach().clone() for k, v in self.model.state_dict().items()}

    def _fork_rng(self) -> AbstractContextManager[None]:
        """Keep what is drawn from torch's global generators, as dropout does, to ourselves."""
        return torch.random.fork_rng([self.device] if self.device.type == "cuda" else [])

    def _rng_state(self) -> dict[str, Tensor]:
        state = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    @contextmanager
    def _own_rng(self) -> Iterator[None]:
        """Draw from torch's global generators as if nobody else did, and leave them alone."""
        with self._fork_rng():
            torch.set_rng_state(self._rng["cpu"])
            if "cuda" in self._rng:
                torch.cuda.set_rng_state(self._rng["cuda"], self.device)
            yield
            self._rng = self._rng_state()

    def _orders(self, generator: torch.Generator) -> Iterator[Tensor]:
        """Yield which images each step of an epoch takes: all once, in random order."""
        count, size = len(self.dataset.train), self.step.size
        order = torch.randperm(count, generator=generator, device=self.device)
        yield from torch.split(order[: self.steps * size], size)

    def endless_steps(self, attack: Attack | None = None) -> Generator[int, None, None]:
        """Take steps for ever, each when it is asked for: for measurements.

        The training is then spent. Close the generator before another one begins.

        Args:
            attack: Inner maximisation; None is the training's own, at its full radius.

        Yields:
            The images of the step. On a GPU the step may still be under way.
        """
        attack = attack or self.attack
        self.model.train()
        with self._own_rng(), self._numerics():
            while True:
                for rows in self._orders(self.generator):
                    self.step(rows, attack)
                    self._average(1)
                    yield len(rows)

    def _train(self) -> tuple[float, int]:
        """Pass over the training images once; return the mean loss and how many were seen."""
        attack = self.config.attack_at(self.epoch, self.attack)
        steps, seen = self.steps, 0
        self.model.train()
        self.step.loss.zero_()
        for step, rows in enumerate(self._orders(self.generator)):
            for group in self.optimizer.param_groups:
                group["lr"] = self.config.lr_at(self.epoch + step / steps)
            self.step(rows, attack)
            self._average(self.epoch * steps + step)
            seen += len(rows)
            if step % LOSS_CHECK_STEPS == 0:
                self.share.sample()
                if not bool(self.step.loss.isfinite()):
                    break  # no use in the rest of the epoch
        loss = self.step.loss.item()  # all steps are done
        self.share.sample()
        return loss / steps, seen

    def _numerics(self) -> AbstractContextManager[None]:
        return numerics(tf32=self.config.tf32, deterministic=self.config.deterministic)

    @torch.no_grad()
    def _average(self, updates: int) -> None:
        """Bring the moving average up to date, after so many earlier updates.

        The decay is ``min(ema, (1 + t) / (10 + t))`` after t updates, so that the average of a
        short training is not the initial weights.
        """
        if self.averaged is None or self.config.ema is None:
            return
        decay = min(self.config.ema, (1 + updates) / (10 + updates)) if updates else 0.0
        averaged: list[Tensor] = list(self.averaged.parameters())
        current: list[Tensor] = list(self.model.parameters())
        torch._foreach_lerp_(averaged, current, 1 - decay)

    @torch.no_grad()
    def _take_statistics(self, model: Network) -> None:
        """Give a network batch norm statistics of its own, by the passes of the method's step.

        Every branch sees what it would see in training, clean and adversarial, at every width;
        the statistics are the plain mean over the batches. Nothing of the training changes.
        """
        for own, raw in zip(model.buffers(), self.model.buffers(), strict=True):
            own.copy_(raw)  # they serve the attack of the first batch, which then replaces them
        generator = torch.Generator(self.device).manual_seed(self.seed)

        def batches() -> Iterator[Batch]:
            epochs = (self._orders(generator) for _ in range(self.config.epochs))
            for rows in chain.from_iterable(epochs):
                yield make_batch(self.dataset.train, rows, self.data, generator)

        def passes(images: Tensor, labels: Tensor) -> Iterator[Tensor]:
            return self.method.losses(
                model,
                images,
                labels,
                attack=self.attack,
                generator=generator,
                label_smoothing=self.config.label_smoothing,
            )

        with self._fork_rng(), self._numerics():
            torch.manual_seed(self.seed)  # for dropout
            take_statistics(model, batches(), passes, min(STATISTICS_BATCHES, self.steps))
