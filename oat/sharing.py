"""The share of a GPU that a training has while others train on the same one.

The wall time of a training on a shared GPU grows with the number of trainings there; its price
must not. So the trainings of a machine count each other, by locks on files in its temp folder.
"""

import fcntl
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

FOLDER = "oat-sharing"
"""Folder of the machine's temp folder that has a folder for each device."""


class DeviceShare:
    """Counts who trains on a device, and says what share of it is left for this training.

    Every training locks a file of its own in the device's folder (``flock``). The kernel frees
    the lock of a process that dies, so a dead training is not counted. Processes see each other
    if they are of one user and share the temp folder, as those of a machine or container do.

    Args:
        device: Where the training runs. Of a GPU, the UUID names the folder.
        name: Names the folder instead; without it a CPU is not shared, and its share is 1.
    """

    def __init__(self, device: torch.device, name: str | None = None) -> None:
        if name is None and device.type == "cuda":
            name = str(torch.cuda.get_device_properties(device).uuid)
        self._folder = None if name is None else _folder_of(name)
        self._samples: list[float] = []

    @contextmanager
    def training(self) -> Iterator[None]:
        """Count as a training on the device for as long as the block lasts, such as an epoch.

        Earlier samples are forgotten.

        Raises:
            OSError: The temp folder cannot be written.
        """
        self._samples = []
        if self._folder is None:
            yield
            return
        self._folder.mkdir(mode=0o777, parents=True, exist_ok=True)
        descriptor, path = _own_file(self._folder)
        try:
            yield
        finally:
            with suppress(OSError):  # swept up by another, or the temp folder was cleaned
                os.unlink(path)
            os.close(descriptor)

    def sample(self) -> float:
        """Count the trainings on the device now; return this one's share, in (0, 1]."""
        share = 1 / max(1, self._count())
        self._samples.append(share)
        return share

    def mean(self) -> float:
        """Return the mean of the samples since the training began; 1 without any."""
        return sum(self._samples) / len(self._samples) if self._samples else 1.0

    def _count(self) -> int:
        """Count the files that are locked, and remove those that no living process holds."""
        if self._folder is None:
            return 1
        try:
            paths = sorted(self._folder.iterdir())
        except OSError:
            return 1
        return sum(map(_is_locked, paths))


def _folder_of(name: str) -> Path:
    # each user has a folder: files of another could not be opened
    root = Path(tempfile.gettempdir()) / f"{FOLDER}-{os.getuid()}"
    return root / re.sub(r"[^A-Za-z0-9._-]", "_", name)


def _own_file(folder: Path) -> tuple[int, str]:
    """Make and lock a file; return its descriptor and path.

    Another process may take the file for a dead one's between the two and remove it: then again.
    """
    while True:
        descriptor, path = tempfile.mkstemp(prefix=f"{os.getpid()}-", dir=folder)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor, path
        os.close(descriptor)


def _is_locked(path: Path) -> bool:
    """Tell whether a living process holds a file; remove it if none does."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        # shared: two that look at the same time must not take each other for its holder
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
