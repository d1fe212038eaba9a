"""Which data set, and how it is split and augmented: the block ``data`` of a study file."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from oat.names import refuse, unknown
from oat.own_code import NO_ARGS, frozen_args, is_own
from oat.paths import local_path

DATA_SETS = ("digits", "fashion_mnist", "cifar10", "svhn", "stl10", "imagefolder")
"""Names of the data sets; `oat.data.readers` reads them."""


@dataclass(frozen=True)
class DataConfig:
    """Which images, and how they are split and augmented.

    Attributes:
        name: One of `DATA_SETS`, or a function of your own, ``module:function`` (docs/own.md).
        root: Folder of the data, ``~`` is your home; not used by ``digits``.
        download: Whether torchvision may fetch what is missing.
        val_fraction: Share of the training images held out for validation, in (0, 1).
        train_images: Use only so many of the rest; None is all of them.
        image_size: Side to resize to; ``imagefolder`` only.
        crop: Pixels of zero padding for a random crop; None is 4 for ``cifar10`` and ``stl10``, 2
            for ``fashion_mnist``, else 0.
        flip: Whether to mirror at random; None mirrors ``cifar10``, ``stl10`` and
            ``fashion_mnist`` alone.
        args: Keyword arguments of a function of your own.

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
    args: dict[str, Any] = NO_ARGS

    def __post_init__(self) -> None:
        if self.name not in DATA_SETS and not is_own(self.name):
            raise ValueError(unknown("data set", self.name, DATA_SETS))
        object.__setattr__(self, "args", frozen_args(self.args))
        refuse(self._faults())

    def _faults(self) -> Iterator[str]:
        if self.args and not is_own(self.name):
            yield (
                f"`args` must be left out for {self.name}; they are those of a function of your "
                "own."
            )
        try:
            local_path(self.root)
        except ValueError as error:
            yield f"`root` {error}"
        if not 0 < self.val_fraction < 1:
            yield f"`val_fraction` must be in (0, 1), got {self.val_fraction:g}."
        for key in ("train_images", "image_size"):
            value = getattr(self, key)
            if value is not None and value < 1:
                yield f"`{key}` must be at least 1, got {value}."
        if self.image_size is not None and self.name != "imagefolder":
            yield (
                f"`image_size` must be left out for {self.name}, whose images have a size of their "
                f"own, got {self.image_size}."
            )
        if self.crop is not None and self.crop < 0:
            yield f"`crop` must be at least 0, got {self.crop}."

    def resolved(self) -> "DataConfig":
        """Return the config with the data set's own augmentation written out."""
        crop, flip = AUGMENTATION.get(self.name, (0, False))
        return replace(
            self,
            crop=crop if self.crop is None else self.crop,
            flip=flip if self.flip is None else self.flip,
        )


AUGMENTATION: dict[str, tuple[int, bool]] = {
    "fashion_mnist": (2, True),
    "cifar10": (4, True),
    "stl10": (4, True),
}
"""Crop padding and flip of each data set; none where it is not listed."""
