"""A folder of one's own images: ``root/train/<class>/*`` and ``root/test/<class>/*``."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from oat.data.errors import DataError
from oat.data.folders import Half, find_images
from oat.data.hints import listed
from oat.data.pictures import Picture, read_picture
from oat.data.pixels import ODDITIES
from oat.data.tensors import Source, Split
from oat.paths import local_path

if TYPE_CHECKING:
    from oat.data.config import DataConfig


def read_imagefolder(config: "DataConfig") -> Source:
    """Read both halves, in colour.

    Raises:
        DataError: A folder or a file is unfit; the sentence has its path.
    """
    root = local_path(config.root)
    train, test = (find_images(root, half) for half in ("train", "test"))
    _check_same(root, train, test)
    reading = _Reading(config.image_size)
    splits = reading.split(train), reading.split(test)
    remarks = (*train.remarks(), *test.remarks(), *_unread(root), *reading.remarks())
    return Source(*splits, tuple(train.files), remarks)


def _check_same(root: Path, train: Half, test: Half) -> None:
    if train.files.keys() != test.files.keys():
        only = {
            "train": sorted(train.files.keys() - test.files.keys()),
            "test": sorted(test.files.keys() - train.files.keys()),
        }
        odd = " and ".join(
            f"only {half}/ has {listed(names)}" for half, names in only.items() if names
        )
        raise DataError(f"train/ and test/ below '{root}' must have the same classes, but {odd}.")


def _unread(root: Path) -> list[str]:
    """Say which other folders lie beside the two."""
    names = sorted(e.name for e in root.iterdir() if e.is_dir() and not e.name.startswith("."))
    others = [name for name in names if name not in {"train", "test"}]
    return [f"Not read: {listed(others)} beside train/ and test/ below '{root}'."] if others else []


class _Reading:
    """Reads halves of one shape, and keeps what was done to the images."""

    def __init__(self, size: int | None) -> None:
        self.size = size
        self.count = 0
        self.first: tuple[Path, tuple[int, ...]] | None = None
        self.oddities: Counter[str] = Counter()
        self.warned: list[tuple[Path, str]] = []

    def split(self, half: Half) -> Split:
        """Read all images of a half; their labels are the places of the classes' names.

        Classes take turns, so that the first so many images have all of them, in their shares.
        """
        turns = [
            ((place + 0.5) / len(found), number, path)
            for number, found in enumerate(half.files.values())
            for place, path in enumerate(found)
        ]
        turns.sort(key=lambda turn: turn[:2])
        paths, numbers = [path for *_, path in turns], [number for _, number, _ in turns]
        images: Tensor | None = None
        for i, path in enumerate(paths):
            picture = read_picture(path, self.size)
            self._note(path, picture)
            if images is None:
                images = torch.empty(len(paths), *picture.pixels.shape, dtype=torch.uint8)
            images[i] = picture.pixels
        assert images is not None, "every class has an image"
        return Split(images, torch.tensor(numbers))

    def _note(self, path: Path, picture: Picture) -> None:
        shape = tuple(picture.pixels.shape)
        self.first = self.first or (path, shape)
        if shape != self.first[1]:
            sides = [f"'{p}' is {s[2]}x{s[1]}" for p, s in (self.first, (path, shape))]
            raise DataError(
                f"The images have different sizes: {', '.join(sides)}; set `data.image_size`."
            )
        self.count += 1
        self.oddities.update(picture.oddities)
        self.warned += [(path, said) for said in picture.warnings[:1]]

    def remarks(self) -> list[str]:
        """Say what was done to how many images, and what Pillow warned of."""
        counts = self.oddities
        if counts["grey"] == self.count:
            del counts["grey"]  # all alike: nothing is mixed
        said = [ODDITIES[name].format(n=f"{counts[name]:,}") for name in ODDITIES if counts[name]]
        remarks = [f"Of {self.count:,} images: {'; '.join(said)}."] if said else []
        if self.warned:
            path, words = self.warned[0]
            remarks.append(
                f"Pillow warned of {len(self.warned):,} images, first of '{path}': "
                f"{words.rstrip('.')}."
            )
        return remarks
