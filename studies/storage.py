"""Folders of results, on a local path or behind a URI; every write is all or nothing.

The layout, and what makes a trial done, are described in docs/architecture.md.
"""

import shutil
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

from oat.checkpoint import write_atomic
from studies.errors import StorageError

OBJECT_STORES = frozenset({"s3", "gcs", "abfs"})
READERS = 16
"""Folders that are read at a time: an answer over a network takes milliseconds of waiting."""

Item = TypeVar("Item")
Found = TypeVar("Found")


class Folder(Protocol):
    """A folder that can be read, written and listed; names may hold slashes."""

    uri: str

    def sub(self, name: str) -> "Folder":
        """Return the folder ``name`` below this one; it need not exist."""
        ...

    def read(self, name: str) -> bytes:
        """Read a file.

        Raises:
            FileNotFoundError: There is none.
        """
        ...

    def write(self, name: str, data: bytes) -> None:
        """Write a file, all or nothing."""
        ...

    def size(self, name: str) -> int | None:
        """Return the bytes of a file, None if there is none."""
        ...

    def names(self) -> list[str]:
        """Return the names of the files and folders directly below, sorted."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file or a folder with all it holds; nothing happens if there is none."""
        ...


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
        try:
            return (self.path / name).read_bytes()
        except NotADirectoryError as error:
            raise FileNotFoundError(str(error)) from error

    def write(self, name: str, data: bytes) -> None:
        """See `Folder.write`."""
        write_atomic(self.path / name, data)

    def size(self, name: str) -> int | None:
        """See `Folder.size`."""
        path = self.path / name
        return path.stat().st_size if path.is_file() else None

    def names(self) -> list[str]:
        """See `Folder.names`; unfinished writes are not listed."""
        if not self.path.is_dir():
            return []
        return sorted(p.name for p in self.path.iterdir() if not p.name.endswith(".tmp"))

    def remove(self, name: str) -> None:
        """See `Folder.remove`."""
        path = self.path / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


class RemoteFolder:
    """A folder behind a URI that pyarrow knows, such as ``s3://bucket/path``.

    Object stores show an object whole or not at all, so a write there is one put.
    """

    def __init__(self, uri: str) -> None:
        from pyarrow import fs

        self.uri = uri.rstrip("/")
        self._system, path = fs.FileSystem.from_uri(self.uri)
        self._path = path.rstrip("/")

    def sub(self, name: str) -> "RemoteFolder":
        """See `Folder.sub`."""
        return RemoteFolder(f"{self.uri}/{name}")

    def _info(self, name: str = "") -> Any:
        return self._system.get_file_info(f"{self._path}/{name}" if name else self._path)

    def read(self, name: str) -> bytes:
        """See `Folder.read`."""
        try:
            with self._system.open_input_stream(f"{self._path}/{name}") as stream:
                return bytes(stream.read())
        except NotADirectoryError as error:
            raise FileNotFoundError(str(error)) from error

    def write(self, name: str, data: bytes) -> None:
        """See `Folder.write`."""
        target = f"{self._path}/{name}"
        self._system.create_dir(target.rpartition("/")[0], recursive=True)
        if self._system.type_name in OBJECT_STORES:
            with self._system.open_output_stream(target) as stream:
                stream.write(data)
            return
        temporary = f"{target}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            with self._system.open_output_stream(temporary) as stream:
                stream.write(data)
            self._system.move(temporary, target)
        except OSError:
            self._system.delete_file(temporary)
            raise

    def size(self, name: str) -> int | None:
        """See `Folder.size`."""
        info = self._info(name)
        return int(info.size) if info.is_file else None

    def names(self) -> list[str]:
        """See `Folder.names`."""
        from pyarrow import fs

        found = self._system.get_file_info(fs.FileSelector(self._path, allow_not_found=True))
        return sorted(i.base_name for i in found if not i.base_name.endswith(".tmp"))

    def remove(self, name: str) -> None:
        """See `Folder.remove`."""
        from pyarrow import fs

        info = self._info(name)
        if info.type == fs.FileType.Directory:
            self._system.delete_dir(info.path)
        elif info.is_file:
            self._system.delete_file(info.path)


def open_folder(place: str | Path) -> Folder:
    """Open a folder on a path or a URI.

    Raises:
        StorageError: The URI is of no known kind.
    """
    if "://" not in str(place):
        return LocalFolder(Path(place).absolute())
    try:
        return RemoteFolder(str(place))
    except (ValueError, OSError) as error:
        raise StorageError(f"`--storage` '{place}' cannot be opened: {error}.") from error


def check_writable(folder: Folder) -> None:
    """Write and remove a small file.

    Raises:
        StorageError: That fails.
    """
    probe = ".writable"
    try:
        folder.write(probe, b"")
        folder.remove(probe)
    except OSError as error:
        raise StorageError(
            f"`--storage` '{folder.uri}' cannot be written ({error}); choose a folder that can."
        ) from error


def in_threads(look_up: Callable[[Item], Found], items: Iterable[Item]) -> list[Found]:
    """Look up many items in storage, `READERS` at a time.

    Returns:
        What was found, in the order of the items. The first error is raised, and what has not
        begun by then is not begun.
    """
    with ThreadPoolExecutor(READERS, thread_name_prefix="oat-storage") as pool:
        return list(pool.map(look_up, items))
