"""What is recorded of an epoch."""

from dataclasses import dataclass


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
        device_seconds: Training time so far, validation apart; of a GPU that is shared, the share.
    """

    epoch: int
    train_loss: float
    lr: float
    sa_val: float | None
    ra_val: float | None
    images_per_second: float
    device_seconds: float
