"""Folders on a local or network file system."""

import os
import shutil
from pathlib import Path

from oat.files import write_atomic
from studies.storage.faults import in_one_sentence


class LocalFolder:
    """A folder on a local or network file system."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.uri = str(self.path)

    def sub(self, name: str) -> "LocalFolder":
        """See `Folder.sub`."""
        return LocalFolder(self.path / name)

    def read(self, name: str) -> bytes:
        """See `Folder.read`."""
        with in_one_sentence("read", self.path / name):
            return (self.path / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        """See `Folder.write`."""
        with in_one_sentence("written", self.path / name, always=True):
            write_atomic(self.path / name, data)

    def size(self, name: str) -> int | None:
        """See `Folder.size`."""
        path = self.path / name
        with in_one_sentence("read", path):
            return path.stat().st_size if path.is_file() else None

    def names(self) -> list[str]:
        """See `Folder.names`; unfinished writes are not listed."""
        with in_one_sentence("listed", self.path):
            if not self.path.is_dir():
                return []
            return sorted(name for name in os.listdir(self.path) if not name.endswith(".tmp"))

    def remove(self, name: str) -> None:
        """See `Folder.remove`."""
        path = self.path / name
        with in_one_sentence("removed", path):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what writers left that were killed while they wrote."""
        for path in self.path.glob(".*.tmp"):
            path.unlink(missing_ok=True)
