"""AutoAttack and Square through the package pyautoattack, an optional extra.

The stages are run one by one on fixed batches, each with the same seed, so that an evaluation
that was killed and goes on gives the numbers of one that was not.
"""

import logging
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Protocol

import torch
from torch import Tensor

from oat.adversaries import AutoAttack, Square
from oat.ascent import LogitsFn, ball

STAGES = ("apgd-ce", "apgd-t", "fab-t", "square")
"""Of the standard version, in its order."""

SUSPICIOUS = 0.002
"""Share of images that Square may break after the other stages before it is said, as there; a
single image is never said."""

ROUNDING = 1e-6


class Progress(Protocol):
    """Where an evaluation keeps what it has done."""

    def read(self) -> dict[str, Any]:
        """Return what was written last; empty if there is nothing."""
        ...

    def write(self, state: dict[str, Any]) -> None:
        """Keep plain values, all or nothing."""
        ...


def check_installed(name: str) -> None:
    """Refuse an attack whose package is missing.

    Raises:
        ImportError: It is not installed.
    """
    if find_spec("pyautoattack") is None:
        raise ImportError(
            f"`{name}` needs the package pyautoattack; install 'oat-studies[autoattack]'."
        )


class Ensemble:
    """The stages of one evaluation, batch after batch.

    Args:
        logits_fn: The frozen network.
        attack: Which stages, and how long.
        device: Of the images.
        seed: Of every stage.
        progress: Where to keep what is done; None keeps nothing.

    Raises:
        ImportError: pyautoattack is not installed.
    """

    def __init__(
        self,
        logits_fn: LogitsFn,
        attack: AutoAttack | Square,
        device: torch.device,
        seed: int,
        progress: Progress | None,
    ) -> None:
        check_installed(attack.name)
        self._logits_fn, self._attack = logits_fn, attack
        self._device, self._seed, self._progress = device, seed, progress
        self._stages = STAGES if isinstance(attack, AutoAttack) else ("square",)
        kept = progress.read() if progress is not None else {}
        self._batches: list[dict[str, Any]] = kept.get("batches", [])
        self._said: dict[str, str] = kept.get("said", {})
        self._number = 0

    def survivors(self, images: Tensor, labels: Tensor, right: Tensor) -> Tensor:
        """Return which images of the next batch withstand every stage, bool (N,).

        Args:
            images: In [0, 1], shape (N, C, H, W).
            labels: Class indices, shape (N,).
            right: Which of them the network classifies correctly, bool (N,).
        """
        if self._number == len(self._batches):
            alive = right.nonzero().squeeze(1).tolist()
            self._batches.append({"images": len(images), "alive": [alive]})
        history = self._batches[self._number]["alive"]
        self._number += 1
        for stage in self._stages[len(history) - 1 :]:
            history.append(self._broken_by(stage, images, labels, history[-1]))
            if self._progress is not None:
                self._progress.write({"batches": self._batches, "said": self._said})
        robust = torch.zeros_like(right)
        robust[history[-1]] = True
        return robust

    def warnings(self) -> tuple[str, ...]:
        """Return what the attack said of its own reliability, and whether Square found much."""
        said = sorted(self._said.values())
        before, after = (sum(len(batch["alive"][i]) for batch in self._batches) for i in (-2, -1))
        total = sum(batch["images"] for batch in self._batches)
        if len(self._stages) > 1 and before - after > max(SUSPICIOUS * total, 1):
            said.append(
                f"Square broke {before - after} of {total} images that the stages with gradients "
                "did not: their gradients may be masked."
            )
        return tuple(said)

    def _broken_by(self, stage: str, images: Tensor, labels: Tensor, alive: list[int]) -> list[int]:
        """Run one stage on some images of a batch; return those that withstand it."""
        if not alive:
            return alive
        rows = torch.tensor(alive, device=images.device)
        images, labels = images[rows], labels[rows]
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices), _listening(self._note), _alone():
            images_adv, predicted = self._make(stage).run_standard_evaluation(
                images, labels, batch_size=len(images)
            )
        lower, upper = ball(images, self._attack.radius())
        # so written that a pixel that is not a number is not inside
        inside = (images_adv >= lower - ROUNDING) & (images_adv <= upper + ROUNDING)
        missed = (predicted != labels) | self._overflows(images_adv)
        broken = missed & inside.flatten(1).all(dim=1)
        return rows[~broken].tolist()

    @torch.no_grad()
    def _overflows(self, images: Tensor) -> Tensor:
        """Tell where logits are no numbers, which classify nothing; the package takes the first."""
        return self._logits_fn(images).isnan().any(dim=1)

    def _make(self, stage: str) -> Any:
        import pyautoattack

        made = pyautoattack.AutoAttack(
            self._logits_fn, eps=self._attack.radius(), seed=self._seed, device=self._device
        )
        made.attacks_to_run = [stage]
        if isinstance(self._attack, AutoAttack):
            made.apgd_targeted.n_target_classes = self._attack.targets
            made.fab.n_target_classes = self._attack.targets
        else:
            made.square.n_queries = self._attack.queries
        return made

    def _note(self, message: str) -> None:
        """Keep one warning of each kind, of those that differ in numbers alone the last."""
        sentence = message.partition(" See ")[0].strip()
        self._said[re.sub(r"[\d.]+", "N", sentence)] = f"AutoAttack: {sentence}"


class _Listener(logging.Handler):
    def __init__(self, heard: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        self._heard(record.getMessage())


@contextmanager
def _listening(heard: Callable[[str], None]) -> Iterator[None]:
    """Hand the warnings of AutoAttack's logger on, and keep them from everywhere else."""
    logger, listener = logging.getLogger("auto-attack"), _Listener(heard)
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(listener)
    try:
        yield
    finally:
        logger.removeHandler(listener)
        logger.propagate = propagate


@contextmanager
def _alone() -> Iterator[None]:
    """Undo what the package's check for dynamic defences leaves in the process.

    It never resets its counts, so each network after a dynamic one would be warned of as well,
    and it removes the trace function of a debugger or a coverage tool.
    """
    from pyautoattack import checks

    checks.funcs.update(dict.fromkeys(checks.funcs, 0))
    trace = sys.gettrace()
    try:
        yield
    finally:
        sys.settrace(trace)
