"""Images and labels as tensors: a split, a data set, and the error when there is none."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Images (N, C, H, W), uint8 or float32 in [0, 1], and class indices (N,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Split":
        """Return the split on a device."""
        return Split(self.images.to(device), self.labels.to(device))

    def head(self, count: int | None) -> "Split":
        """Return the first ``count`` images; all if None or more than there are."""
        return self if count is None else Split(self.images[:count], self.labels[:count])


@dataclass(frozen=True)
class Source:
    """What a reader found.

    Attributes:
        train: The official training images.
        test: The official test images.
        classes: Names of the classes, by index.
        remarks: Sentences for the user: what was left out, and what was done to images.
    """

    train: Split
    test: Split
    classes: tuple[str, ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """Training, validation and test images of one data set.

    Attributes:
        train: What is trained on.
        val: Held out of the official training images.
        test: The official test images.
        num_classes: Number of classes.
        fingerprint: 12 hex digits of SHA-256 over all images and labels, in order.
        classes: Names of the classes, by index.
        remarks: Sentences for the user, from the reader.
    """

    train: Split
    val: Split
    test: Split
    num_classes: int
    fingerprint: str
    classes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def to(self, device: torch.device) -> "Dataset":
        """Return the data set on a device."""
        return replace(
            self, train=self.train.to(device), val=self.val.to(device), test=self.test.to(device)
        )


def unit(images: Tensor) -> Tensor:
    """Return images as float32 in [0, 1]."""
    return images.float() / 255 if images.dtype == torch.uint8 else images
