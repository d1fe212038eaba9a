"""Image files for tests, some of them as Pillow does not write them."""

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def noise(seed: int, *shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, seed: int = 0) -> Path:
    """Write a small coloured image that no other seed has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(seed, 6, 5, 3)).save(path)
    return path


def folder_of(root: Path, classes: tuple[str, ...] = ("cat", "dog"), train: int = 5) -> Path:
    """Write a folder of so many training images and two test images of each class."""
    for number, name in enumerate(classes):
        for i in range(train):
            save(root / "train" / name / f"{i}.png", 100 * number + i)
        for i in range(2):
            save(root / "test" / name / f"{i}.png", 10_000 + 100 * number + i)
    return root


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, depth: int, kind: int, rows: list[bytes], *key: int) -> bytes:
    """Encode a PNG by hand.

    Args:
        width: In pixels.
        height: In pixels.
        depth: Bits of a sample.
        kind: Colour type: 0 grey, 2 RGB, 4 grey with alpha.
        rows: Bytes of each row.
        key: The transparent colour, if any.
    """
    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    transparent = _chunk(b"tRNS", struct.pack(f">{len(key)}H", *key)) if key else b""
    data = _chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + transparent + data + _chunk(b"IEND", b"")


def grey_tiff(width: int, height: int, bits: int, photometric: int, data: bytes) -> bytes:
    """Encode a TIFF of one grey strip by hand; photometric 0 is white at zero."""
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1}
    tags |= {278: height, 279: len(data)}
    padded = data + b"\0" * (len(data) % 2)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    place = struct.pack("<I", 8 + len(padded))
    return b"II*\0" + place + padded + struct.pack("<H", len(tags)) + entries + b"\0" * 4


@contextmanager
def as_nobody(folder: Path) -> Iterator[None]:
    """Be a user who owns nothing but may reach a folder, if this one may read all."""
    if os.geteuid() != 0:
        yield
        return
    closed = [(above, above.stat().st_mode) for above in folder.parents if above != above.parent]
    for above, mode in [(folder, folder.stat().st_mode), *closed]:
        above.chmod(mode | 0o011)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        for above, mode in closed:
            above.chmod(mode)
