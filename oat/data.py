"""Data sets as tensors on the device, and augmentation there, a batch at a time."""

import hashlib
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from oat.names import unknown
from oat.paths import local_path

SPLIT_SEED = 2020
"""Seed of the one permutation that holds validation out; the same for every trial."""


class DataError(Exception):
    """The data are not there, or not what was asked for."""


@dataclass(frozen=True)
class DataConfig:
    """Which images, and how they are split and augmented.

    Attributes:
        name: A key of `READERS`.
        root: Folder of the data, ``~`` is your home; not used by ``digits``.
        download: Whether torchvision may fetch what is missing.
        val_fraction: Share of the training images held out for validation, in (0, 1).
        train_images: Use only so many of the rest; None is all of them.
        image_size: Side to resize to; ``imagefolder`` only.
        crop: Pixels of zero padding for a random crop; None is the data set's custom.
        flip: Whether to mirror at random; None is the data set's custom.

    Raises:
        ValueError: A value is out of its range.
    """

    name: str
    root: str = "./data"
    download: bool = False
    val_fraction: float = 0.1
    train_images: int | None = None
    image_size: int | None = None
    crop: int | None = None
    flip: bool | None = None

    def __post_init__(self) -> None:
        if self.name not in READERS:
            raise ValueError(unknown("data set", self.name, READERS))
        try:
            local_path(self.root)
        except ValueError as error:
            raise ValueError(f"`root` {error}") from None
        if not 0 < self.val_fraction < 1:
            raise ValueError(f"`val_fraction` must be in (0, 1), got {self.val_fraction:g}.")
        for key in ("train_images", "image_size"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"`{key}` must be at least 1, got {value}.")
        if self.crop is not None and self.crop < 0:
            raise ValueError(f"`crop` must be at least 0, got {self.crop}.")

    def resolved(self) -> "DataConfig":
        """Return the config with the data set's own augmentation written out."""
        crop, flip = AUGMENTATION.get(self.name, (0, False))
        return replace(
            self,
            crop=crop if self.crop is None else self.crop,
            flip=flip if self.flip is None else self.flip,
        )


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
class Dataset:
    """Training, validation and test images of one data set.

    Attributes:
        train: What is trained on.
        val: Held out of the official training images.
        test: The official test images.
        num_classes: Number of classes.
        fingerprint: 12 hex digits of SHA-256 over all images and labels, in order.
    """

    train: Split
    val: Split
    test: Split
    num_classes: int
    fingerprint: str

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


@lru_cache(maxsize=1)
def load(config: DataConfig) -> Dataset:
    """Read a data set and split it; the last one read is kept in memory.

    Raises:
        DataError: The data are missing, or unfit; the sentence says where and what to do.
    """
    train, test, num_classes = READERS[config.name](config)
    digest = hashlib.sha256()
    for split in (train, test):
        digest.update(split.images.contiguous().numpy().tobytes())
        digest.update(split.labels.numpy().tobytes())
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(SPLIT_SEED))
    num_val = max(1, round(config.val_fraction * len(train)))
    val, rest = order[:num_val], order[num_val:]
    if not len(rest):
        raise DataError(
            f"`data.val_fraction` {config.val_fraction:g} of {len(train)} images leaves none to "
            "train on; lower it."
        )
    if config.train_images is not None:
        if config.train_images > len(rest):
            raise DataError(
                f"`data.train_images` must be at most {len(rest)} (what is left after "
                f"validation), got {config.train_images}."
            )
        rest = rest[: config.train_images]
    return Dataset(
        Split(train.images[rest], train.labels[rest]),
        Split(train.images[val], train.labels[val]),
        test,
        num_classes,
        digest.hexdigest()[:12],
    )


def augment(images: Tensor, crop: int, flip: bool, *, generator: torch.Generator) -> Tensor:
    """Crop from a zero-padded image and mirror, each image by its own draw.

    Args:
        images: Shape (N, C, H, W).
        crop: Padding in pixels; 0 for none.
        flip: Whether half of the images are mirrored.
        generator: On the device of ``images``.

    Returns:
        Images of the same shape.
    """
    n, _, height, width = images.shape
    device = images.device
    if crop:
        padded = functional.pad(images, (crop, crop, crop, crop))
        top, left = torch.randint(2 * crop + 1, (2, n, 1), generator=generator, device=device)
        rows = (top + torch.arange(height, device=device))[:, None, :, None]
        columns = (left + torch.arange(width, device=device))[:, None, None, :]
        row = torch.arange(n, device=device)[:, None, None, None]
        channel = torch.arange(images.shape[1], device=device)[None, :, None, None]
        images = padded[row, channel, rows, columns]
    if flip:
        mirrored = torch.rand(n, 1, 1, 1, generator=generator, device=device) < 0.5
        images = torch.where(mirrored, images.flip(3), images)
    return images


Reader = Callable[[DataConfig], tuple[Split, Split, int]]


def _digits(config: DataConfig) -> tuple[Split, Split, int]:
    """Scikit-learn's 1,797 digits; a quarter, by a fixed permutation, is the test set."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    images = torch.from_numpy(bunch.images).float().unsqueeze(1) / 16
    labels = torch.from_numpy(bunch.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SPLIT_SEED + 1))
    num_test = len(labels) // 4
    test, train = order[:num_test], order[num_test:]
    return Split(images[train], labels[train]), Split(images[test], labels[test]), 10


def _torchvision(
    config: DataConfig,
    name: str,
    selector: Literal["train", "split"],
    shape: Callable[[Any], tuple[Tensor, Tensor]],
) -> tuple[Split, Split, int]:
    """Read both halves of a torchvision data set; downloads hold a lock, one a folder."""
    import torchvision.datasets as sets
    from filelock import FileLock

    root = local_path(config.root)

    def read(train: bool, download: bool) -> Split:
        half = {"train": train} if selector == "train" else {"split": "train" if train else "test"}
        return Split(*shape(getattr(sets, name)(root, download=download, **half)))

    try:
        if config.download:
            root.mkdir(parents=True, exist_ok=True)
            with FileLock(str(root / f".{config.name}.lock")):
                return read(True, True), read(False, True), 10
        return read(True, False), read(False, False), 10
    except (RuntimeError, OSError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise DataError(
            f"`data.root` '{config.root}' has no readable {config.name} ({_first_line(error)}); "
            "point it to the data, or set `data.download: true`."
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")


def _fashion_mnist(config: DataConfig) -> tuple[Split, Split, int]:
    return _torchvision(
        config, "FashionMNIST", "train", lambda d: (d.data.unsqueeze(1), d.targets.long())
    )


def _cifar10(config: DataConfig) -> tuple[Split, Split, int]:
    return _torchvision(
        config,
        "CIFAR10",
        "train",
        lambda d: (
            torch.from_numpy(d.data).permute(0, 3, 1, 2).contiguous(),
            torch.tensor(d.targets),
        ),
    )


def _svhn(config: DataConfig) -> tuple[Split, Split, int]:
    return _torchvision(config, "SVHN", "split", _data_and_labels)


def _stl10(config: DataConfig) -> tuple[Split, Split, int]:
    return _torchvision(config, "STL10", "split", _data_and_labels)


def _data_and_labels(dataset: Any) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(dataset.data), torch.from_numpy(dataset.labels).long()


def _imagefolder(config: DataConfig) -> tuple[Split, Split, int]:
    """Read ``root/train/<class>/*`` and ``root/test/<class>/*``, in colour."""
    from torchvision.datasets import ImageFolder
    from torchvision.transforms.functional import pil_to_tensor, resize

    def read(half: str) -> tuple[Split, list[str]]:
        folder = local_path(config.root) / half
        try:
            files = ImageFolder(str(folder))
        except (FileNotFoundError, RuntimeError) as error:
            raise DataError(
                f"`data.root` '{config.root}' needs {half}/<class>/<image> ({_first_line(error)})."
            ) from error
        tensors = []
        for image, _ in files:
            if config.image_size is not None:
                image = resize(image, [config.image_size, config.image_size])
            tensors.append(pil_to_tensor(image))
        shapes = {tuple(t.shape) for t in tensors}
        if len(shapes) > 1:
            raise DataError(
                f"The images under '{folder}' have {len(shapes)} different sizes; "
                "set `data.image_size`."
            )
        return Split(torch.stack(tensors), torch.tensor(files.targets)), files.classes

    (train, classes), (test, test_classes) = read("train"), read("test")
    if classes != test_classes:
        odd = ", ".join(sorted(set(classes) ^ set(test_classes)))
        raise DataError(f"train/ and test/ under '{config.root}' differ in their classes: {odd}.")
    return train, test, len(classes)


READERS: dict[str, Reader] = {
    "digits": _digits,
    "fashion_mnist": _fashion_mnist,
    "cifar10": _cifar10,
    "svhn": _svhn,
    "stl10": _stl10,
    "imagefolder": _imagefolder,
}
AUGMENTATION: dict[str, tuple[int, bool]] = {
    "fashion_mnist": (2, True),
    "cifar10": (4, True),
    "stl10": (4, True),
}
"""Crop padding and flip of each data set; none where it is not listed."""
