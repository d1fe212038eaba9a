"""Published data sets: scikit-learn's digits, and those of torchvision in their own files."""

import math
import pickle
import zlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from oat.data.errors import DataError
from oat.data.splits import SPLIT_SEED
from oat.data.tensors import Source, Split
from oat.paths import local_path

if TYPE_CHECKING:
    from oat.data.config import DataConfig

TEN = tuple(map(str, range(10)))
"""Names of the classes: all of these sets have ten, which their papers number."""


TORCHVISION = {
    "fashion_mnist": "FashionMNIST",
    "cifar10": "CIFAR10",
    "svhn": "SVHN",
    "stl10": "STL10",
}
"""Torchvision's classes."""


def read_digits(config: "DataConfig") -> Source:
    """Scikit-learn's 1,797 digits; a quarter, by a fixed permutation, is the test set."""
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise DataError(
            "The digits come with scikit-learn; install it: `pip install scikit-learn`."
        )
    # `sklearn.datasets.load_digits` reads the same file, and imports 2 s of scikit-learn and SciPy
    file = Path(package.origin).parent / "datasets/data/digits.csv.gz"
    try:
        table = np.loadtxt(file, delimiter=",")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(
            f"'{file}' cannot be read ({_reason(error)}); install scikit-learn anew."
        ) from error
    images = torch.from_numpy(table[:, :-1]).float().reshape(-1, 1, 8, 8) / 16
    labels = torch.from_numpy(table[:, -1]).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SPLIT_SEED + 1))
    num_test = len(labels) // 4
    test, train = order[:num_test], order[num_test:]
    return Source(Split(images[train], labels[train]), Split(images[test], labels[test]), TEN)


def read_fashion_mnist(config: "DataConfig") -> Source:
    """``root/FashionMNIST/raw/*-ubyte``."""
    return _torchvision(config, "train", lambda d: (d.data.unsqueeze(1), d.targets.long()))


def read_cifar10(config: "DataConfig") -> Source:
    """``root/cifar-10-batches-py/*``."""
    return _torchvision(
        config,
        "train",
        lambda d: (
            torch.from_numpy(d.data).permute(0, 3, 1, 2).contiguous(),
            torch.tensor(d.targets),
        ),
    )


def read_svhn(config: "DataConfig") -> Source:
    """``root/*_32x32.mat``."""
    return _torchvision(config, "split", _data_and_labels)


def read_stl10(config: "DataConfig") -> Source:
    """``root/stl10_binary/*.bin``."""
    return _torchvision(config, "split", _data_and_labels)


def _data_and_labels(dataset: Any) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(dataset.data), torch.from_numpy(dataset.labels).long()


def _torchvision(
    config: "DataConfig",
    selector: Literal["train", "split"],
    shape: Callable[[Any], tuple[Tensor, Tensor]],
) -> Source:
    """Read both halves of a torchvision data set; downloads hold a lock, one a folder."""
    import torchvision.datasets as sets
    from filelock import FileLock

    root, table = local_path(config.root), getattr(sets, TORCHVISION[config.name])

    def read(train: bool) -> Split:
        half = {"train": train} if selector == "train" else {"split": "train" if train else "test"}
        return Split(*shape(table(root, download=config.download, **half)))

    try:
        if not config.download:
            return Source(read(True), read(False), TEN)
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(str(root / f".{config.name}.lock")):
            return Source(read(True), read(False), TEN)
    except FAULTS as error:
        raise DataError(_sentence(config, root, error)) from error


FAULTS = (
    RuntimeError,
    OSError,
    ValueError,
    EOFError,
    KeyError,
    AssertionError,
    pickle.UnpicklingError,
)
"""What torchvision raises of files that are missing, cut off or of something else."""


def _sentence(config: "DataConfig", root: Path, error: BaseException) -> str:
    """Say which file is missing or wrong, and what to do."""
    known = f"`data.root` '{config.root}' has no readable {config.name}"
    files = expected_files(config.name)
    missing = [file for file in files if not (root / file).is_file()]
    for file, digest in files.items():
        if file not in missing and (fault := _fault(root / file, digest)):
            return f"{known} ('{file}' {fault}); delete that file, then fetch it again."
    if not missing:
        return f"{known} ({_reason(error)}); delete its files, then fetch them again."
    if config.download:
        return (
            f"{known}, and it could not be fetched ({_reason(error)}); mend that, or put "
            f"'{missing[0]}' and its neighbours there yourself."
        )
    return (
        f"{known} ('{missing[0]}' is not there); point it to the folder that has this file below "
        "it, or set `data.download: true`."
    )


def _fault(path: Path, digest: str | None) -> str:
    """Say why a file is not what was published; empty if it may be."""
    from torchvision.datasets.utils import check_integrity

    try:
        fine = check_integrity(path, digest) if digest else _is_idx(path)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return "" if fine else "is damaged or another file"


def _is_idx(path: Path) -> bool:
    """Tell whether a file is a whole array of bytes, of the rank in its name, and not empty."""
    data = path.read_bytes()
    rank = int(path.name[-len("1-ubyte")])
    sizes = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(rank)]
    head, count = bytes([0, 0, 8, rank]), math.prod(sizes)
    return data[:4] == head and count > 0 and len(data) == 4 + 4 * rank + count


def expected_files(name: str) -> dict[str, str | None]:
    """Return the files of a data set, each with its MD5 as far as torchvision knows it."""
    import torchvision.datasets as sets

    table: Any = getattr(sets, TORCHVISION[name])
    match name:
        case "fashion_mnist":
            return {f"FashionMNIST/raw/{Path(file).stem}": None for file, _ in table.resources}
        case "svhn":
            return {file: md5 for _, file, md5 in map(table.split_list.get, ("train", "test"))}
    files = {file: md5 for file, md5 in table.train_list + table.test_list}
    if name == "cifar10":
        files[table.meta["filename"]] = table.meta["md5"]
    return {f"{table.base_folder}/{file}": md5 for file, md5 in files.items()}


def _reason(error: BaseException) -> str:
    """Return what an error says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ": ".join(dict.fromkeys(line.rstrip(".:") for line in lines[:1] + lines[1:][-1:])) or (
        type(error).__name__
    )
