"""A small data set of images in folders, and the ways in which its files may change."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from oat.data import DataConfig, load

COUNTS = {"train": 24, "test": 8}


def draw(root: Path, seed: int = 0, halves: tuple[str, ...] = ("train", "test")) -> None:
    """Write images of noise, of two classes."""
    for half in halves:
        for label in ("one", "two"):
            _draw(root / half / label, COUNTS[half], seed)


def _draw(place: Path, count: int, seed: int) -> None:
    place.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng([seed, len(str(place.name))])
    for i in range(count):
        pixels = noise.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{i:02}.png")


def fingerprint_of(root: Path) -> str:
    """Return the fingerprint of what a folder holds now."""
    load.cache_clear()
    return load(DataConfig("imagefolder", root=str(root))).fingerprint


def reorder(root: Path) -> None:
    """Give the first training image of a class a name by which it comes last."""
    shutil.move(root / "train" / "one" / "00.png", root / "train" / "one" / "99.png")


CHANGES: dict[str, Callable[[Path], None]] = {
    "all images": lambda root: draw(root, 1),
    "only the test images": lambda root: draw(root, 1, ("test",)),
    "only one class": lambda root: _draw(root / "train" / "two", COUNTS["train"], 1),
    "the order of files": reorder,
}
"""How files may change under a study, by name."""
