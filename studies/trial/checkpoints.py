"""The checkpoints of a training: the last one is kept until the next is proven."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NotRequired, TypedDict, cast

from studies.storage.folder import Folder
from studies.trial.stored import Epoch, ExecutionRecord

if TYPE_CHECKING:
    import torch  # not at run time: a plan looks here for checkpoints, and loads none

SLOTS = ("checkpoint", "checkpoint-2")
"""Files that are written in turn."""

COST_SHARE, CHEAP_SECONDS = 0.02, 0.2
"""Share of the time that checkpoints may take, and what one may take in any case. On a fast GPU an
epoch may take seconds, and a large checkpoint may as well."""


class TrainingState(TypedDict):
    """A checkpoint: these, beside what `oat.training.Training.state_dict` returns.

    Attributes:
        epoch: The last that has ended, from 1.
        execution: How steps are executed; not there in older ones.
        device: Name of the device; likewise.
        data_fingerprint: See `studies.trial.stored.Trained`; likewise.
        training_id: See `studies.trial.stored.Trained`.
        history: All epochs so far.
        sources: See `studies.trial.stored.Trained`; not there in older ones.
    """

    epoch: int
    execution: NotRequired[ExecutionRecord]
    device: NotRequired[str]
    data_fingerprint: NotRequired[str]
    training_id: str
    history: list[Epoch]
    sources: NotRequired[dict[str, str]]


def has_checkpoint(folder: Folder) -> bool:
    """Tell whether a trial's folder has any checkpoint, sound or not."""
    return any(folder.size(slot) for slot in SLOTS)


class Checkpoints:
    """Two files, written in turn; the older is overwritten only when the newer has been read back.

    Args:
        folder: The trial's folder.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._proven: str | None = None
        self._cost, self._since = 0.0, time.monotonic()

    def newest(self, device: "torch.device | str") -> TrainingState | None:
        """Load the sound checkpoint of the latest epoch; None where there is none.

        What is damaged is named in ``checkpoint.error``, and gives way to the next one.
        """
        from oat.checkpoint import CheckpointError, loads

        best: TrainingState | None = None
        for slot in SLOTS:
            try:
                state = loads(self._folder.read(slot), device)
            except FileNotFoundError:
                continue
            except CheckpointError as error:
                self._folder.write("checkpoint.error", f"{slot}: {error}".encode())
                continue
            if best is None or state["epoch"] > best["epoch"]:
                best, self._proven = cast(TrainingState, state), slot
        return best

    def save_if_due(self, state: Callable[[], TrainingState], *, last: bool) -> bool:
        """Write a checkpoint, unless the last one is so recent that it would cost too much.

        Args:
            state: Makes what `save` takes.
            last: Whether the training has ended: that is always written.

        Returns:
            Whether it was written.

        Raises:
            OSError: See `save`.
        """
        begun = time.monotonic()
        cheap = self._cost <= CHEAP_SECONDS
        if not (last or cheap or self._cost <= COST_SHARE * (begun - self._since)):
            return False
        self.save(state())
        self._since = time.monotonic()
        self._cost = self._since - begun
        return True

    def save(self, state: TrainingState) -> None:
        """Write the next checkpoint, and read it back.

        Args:
            state: Tensors and plain values.

        Raises:
            OSError: It cannot be written, or is not what was written; the last one still stands.
        """
        from oat.checkpoint import dumps

        slot = SLOTS[1] if self._proven == SLOTS[0] else SLOTS[0]
        data = dumps(dict(state))
        self._folder.write(slot, data)
        if self._folder.read(slot) != data:
            raise OSError(f"'{self._folder.uri}/{slot}' is not what was written to it.")
        self._proven = slot

    def remove(self) -> None:
        """Remove all checkpoints."""
        for slot in SLOTS:
            self._folder.remove(slot)
        self._proven = None
