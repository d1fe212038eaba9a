"""The published data sets in the format of their files, of a few images each."""

import hashlib
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torchvision
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from tests.oat.data.files import noise

Array = NDArray[np.uint8]


def write_fashion_mnist(root: Path, train: int = 20, test: int = 6) -> dict[str, Array]:
    """Write IDX files: big-endian magic number (type 8, rank), sizes, then bytes."""
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    truth = {}
    for seed, (half, prefix, count) in enumerate(
        [("train", "train", train), ("test", "t10k", test)]
    ):
        images, labels = noise(seed, count, 28, 28), np.arange(count, dtype=np.uint8) % 10
        head = struct.pack(">IIII", 0x0803, count, 28, 28)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        head = struct.pack(">II", 0x0801, count)
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())
        truth[half], truth[f"{half}_labels"] = images[:, None], labels
    return truth


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Array]:
    """Write pickled batches of rows: 1024 red, 1024 green, 1024 blue bytes."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    truth = {"train": noise(0, 20, 3, 32, 32), "test": noise(1, 6, 3, 32, 32)}
    truth["train_labels"] = np.arange(20, dtype=np.uint8) % 10
    truth["test_labels"] = np.arange(6, dtype=np.uint8) % 10
    batches = {f"data_batch_{i + 1}": ("train", slice(4 * i, 4 * i + 4)) for i in range(5)} | {
        "test_batch": ("test", slice(None))
    }
    for name, (half, rows) in batches.items():
        entry = {
            "data": truth[half][rows].reshape(-1, 3072),
            "labels": truth[f"{half}_labels"][rows].tolist(),
        }
        (folder / name).write_bytes(pickle.dumps(entry, protocol=2))
    meta = {"label_names": [f"class {i}" for i in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))
    table = torchvision.datasets.CIFAR10
    sums = {name: [name, _md5(folder / name)] for name in batches}
    monkeypatch.setattr(table, "test_list", [sums.pop("test_batch")])
    monkeypatch.setattr(table, "train_list", list(sums.values()))
    monkeypatch.setattr(table, "meta", table.meta | {"md5": _md5(folder / "batches.meta")})
    return truth


def write_svhn(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Array]:
    """Write MATLAB files: X of shape (32, 32, 3, N), y of shape (N, 1) with 10 for the digit 0."""
    root.mkdir(parents=True)
    truth, lists = {}, dict(torchvision.datasets.SVHN.split_list)
    for seed, (half, count) in enumerate([("train", 20), ("test", 6)]):
        images, labels = noise(seed, count, 3, 32, 32), np.arange(count, dtype=np.uint8) % 10
        path = root / f"{half}_32x32.mat"
        y = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
        savemat(path, {"X": images.transpose(2, 3, 1, 0), "y": y})
        lists[half] = [*lists[half][:2], _md5(path)]
        truth[half], truth[f"{half}_labels"] = images, labels
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", lists)
    return truth


def write_stl10(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Array]:
    """Write raw bytes: images by channel, column, row; labels from 1."""
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    truth = {}
    for seed, (half, count) in enumerate([("train", 20), ("test", 6)]):
        images, labels = noise(seed, count, 3, 96, 96), np.arange(count, dtype=np.uint8) % 10
        (folder / f"{half}_X.bin").write_bytes(images.transpose(0, 1, 3, 2).tobytes())
        (folder / f"{half}_y.bin").write_bytes((labels + 1).tobytes())
        truth[half], truth[f"{half}_labels"] = images, labels
    (folder / "unlabeled_X.bin").write_bytes(noise(2, 1, 3, 96, 96).tobytes())
    table = torchvision.datasets.STL10
    for key in ("train_list", "test_list"):
        names = [name for name, _ in getattr(table, key)]
        monkeypatch.setattr(table, key, [[name, _md5(folder / name)] for name in names])
    return truth


def write_imagefolder(root: Path) -> dict[str, Array]:
    truth = {}
    for seed, (half, count) in enumerate([("train", 20), ("test", 6)]):
        images = noise(seed, count, 6, 5, 3)
        for i, image in enumerate(images):
            folder = root / half / ("cat", "dog")[i % 2]  # they take turns when they are read
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{i:02d}.png")
        truth[half] = images.transpose(0, 3, 1, 2)
        truth[f"{half}_labels"] = (np.arange(count) % 2).astype(np.uint8)
    return truth


WRITERS: dict[str, Callable[[Path, pytest.MonkeyPatch], dict[str, Array]]] = {
    "fashion_mnist": lambda root, _: write_fashion_mnist(root),
    "cifar10": write_cifar10,
    "svhn": write_svhn,
    "stl10": write_stl10,
    "imagefolder": lambda root, _: write_imagefolder(root),
}
