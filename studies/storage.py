"""Folders of results, on a local path or behind a URI; every write is all or nothing.

The layout, and what makes a trial done, are described in docs/architecture.md.
"""

import copy
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

from oat.checkpoint import write_atomic
from studies.addresses import below, holds_credentials, is_uri, without_credentials
from studies.errors import StorageError

OBJECT_STORES = frozenset({"s3", "gcs", "abfs"})
ONE_REQUEST = "allow_delayed_open"
"""Parameter of pyarrow's S3 URIs: opening asks nothing, so that a small file is one request."""
READERS = 16
"""Folders that are read at a time: an answer over a network takes milliseconds of waiting."""

Item = TypeVar("Item")
Found = TypeVar("Found")


class Folder(Protocol):
    """A folder that can be read, written and listed; names may hold slashes.

    Each call raises `StorageError` if the storage refuses or does not answer. What is not there
    is no error, but for `read`.
    """

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
        with _sentences("read", self.path / name):
            return (self.path / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        """See `Folder.write`."""
        with _sentences("written", self.path / name, always=True):
            write_atomic(self.path / name, data)

    def size(self, name: str) -> int | None:
        """See `Folder.size`."""
        path = self.path / name
        with _sentences("read", path):
            return path.stat().st_size if path.is_file() else None

    def names(self) -> list[str]:
        """See `Folder.names`; unfinished writes are not listed."""
        with _sentences("listed", self.path):
            if not self.path.is_dir():
                return []
            return sorted(name for name in os.listdir(self.path) if not name.endswith(".tmp"))

    def remove(self, name: str) -> None:
        """See `Folder.remove`."""
        path = self.path / name
        with _sentences("removed", path):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what writers left that were killed while they wrote."""
        for path in self.path.glob(".*.tmp"):
            path.unlink(missing_ok=True)


class RemoteFolder:
    """A folder behind a URI that pyarrow knows, such as ``s3://bucket/path``.

    Object stores show an object whole or not at all, so a write there is one put; folders are no
    more than the beginning of names, so none are made.

    Args:
        uri: The URI. Credentials come from where the store's own tools look for them; the address
            of an S3 server that is not Amazon's from ``AWS_ENDPOINT_URL``, or from the parameters
            ``endpoint_override`` and ``scheme``.

    Raises:
        StorageError: It holds credentials, or its kind, bucket or server is not known.
    """

    def __init__(self, uri: str) -> None:
        from pyarrow import fs

        place, mark, query = uri.partition("?")
        self.uri = f"{place.rstrip('/')}{mark}{query}"
        if holds_credentials(uri):
            raise StorageError(
                f"`--storage` '{without_credentials(uri)}' must not hold credentials, as it is "
                "written into files; put them into the environment (for S3 AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY)."
            )
        if uri.startswith("s3://") and ONE_REQUEST not in query:
            query = f"{query}&{ONE_REQUEST}=true".removeprefix("&")
            uri = f"{place}?{query}"
        try:
            self._system, path = fs.FileSystem.from_uri(uri)
        except (ValueError, OSError) as error:
            raise StorageError(f"`--storage` '{self.uri}' cannot be opened: {_said(error)}.") from (
                error
            )
        self._path = path.rstrip("/")
        self._objects = self._system.type_name in OBJECT_STORES

    def check_bucket(self) -> None:
        """Ask an object store for the bucket; elsewhere, folders are made as they are needed.

        Raises:
            StorageError: There is none, or nobody answers.
        """
        from pyarrow import fs

        bucket = self._path.partition("/")[0]
        if not self._objects:
            return
        try:
            found = self._system.get_file_info(bucket).type
        except OSError as error:
            if DENIED in str(error):
                return  # whoever may use a part of a bucket alone may not ask for it
            raise _failure("reached", self.uri, error) from error
        if found == fs.FileType.NotFound:
            raise StorageError(
                f"`--storage` '{self.uri}': there is no bucket '{bucket}'; make it, or correct the "
                "name."
            )

    def sub(self, name: str) -> "RemoteFolder":
        """See `Folder.sub`; the connection is shared."""
        folder = copy.copy(self)
        folder.uri, folder._path = below(self.uri, name), f"{self._path}/{name}"
        return folder

    def _sentences(self, verb: str, name: str, always: bool = False) -> Any:
        return _sentences(verb, below(self.uri, name) if name else self.uri, always)

    def _info(self, name: str = "") -> Any:
        return self._system.get_file_info(f"{self._path}/{name}" if name else self._path)

    def read(self, name: str) -> bytes:
        """See `Folder.read`."""
        with (
            self._sentences("read", name),
            self._system.open_input_stream(f"{self._path}/{name}") as stream,
        ):
            return bytes(stream.read())

    def write(self, name: str, data: bytes) -> None:
        """See `Folder.write`."""
        target = f"{self._path}/{name}"
        with self._sentences("written", name, always=True):
            if self._objects:
                # pyarrow cannot abort: what Ctrl-C stops between opening and writing would be put
                # as an empty object. It reaches the main thread alone.
                with ThreadPoolExecutor(1) as pool:
                    pool.submit(int).result()  # a thread that is still starting is not waited for
                    pool.submit(self._put, target, data).result()
            else:
                self._write_and_move(target, data)

    def _put(self, target: str, data: bytes) -> None:
        with self._system.open_output_stream(target) as stream:
            stream.write(data)

    def _write_and_move(self, target: str, data: bytes) -> None:
        self._system.create_dir(target.rpartition("/")[0], recursive=True)
        temporary = f"{target}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            self._put(temporary, data)
            self._system.move(temporary, target)
        except BaseException:
            if self._system.get_file_info(temporary).is_file:
                self._system.delete_file(temporary)
            raise

    def size(self, name: str) -> int | None:
        """See `Folder.size`."""
        with self._sentences("read", name):
            if not self._objects:
                info = self._info(name)
                return int(info.size) if info.is_file else None
            try:  # `get_file_info` lists what is no file: a second request, and a dear one
                with self._system.open_input_file(f"{self._path}/{name}") as file:
                    return int(file.size())
            except FileNotFoundError:
                return None

    def names(self) -> list[str]:
        """See `Folder.names`."""
        from pyarrow import fs

        with self._sentences("listed", ""):
            found = self._system.get_file_info(fs.FileSelector(self._path, allow_not_found=True))
        return sorted(i.base_name for i in found if not i.base_name.endswith(".tmp"))

    def remove(self, name: str) -> None:
        """See `Folder.remove`."""
        from pyarrow import fs

        with self._sentences("removed", name):
            info = self._info(name)
            if info.type == fs.FileType.Directory:
                self._system.delete_dir(info.path)
            elif info.is_file:
                with suppress(FileNotFoundError):  # somebody was faster
                    self._system.delete_file(info.path)


DENIED = "ACCESS_DENIED"
"""How pyarrow calls an answer of 403."""

REFUSED = (DENIED, "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "EXPIRED_TOKEN")
CURE = (
    "; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and that they may list, read, write and "
    "delete there"
)


@contextmanager
def _sentences(verb: str, place: object, always: bool = False) -> Iterator[None]:
    """Turn what a storage raises into one sentence.

    Args:
        verb: What was to be done with the place.
        place: The file or folder.
        always: Whether also that something is not there is an error.
    """
    try:
        yield
    except FileNotFoundError as error:
        if always:
            raise _failure(verb, place, error) from error
        raise
    except NotADirectoryError as error:
        if always:
            raise _failure(verb, place, error) from error
        raise FileNotFoundError(str(error)) from error
    except OSError as error:
        raise _failure(verb, place, error) from error


def _failure(verb: str, place: object, error: OSError) -> StorageError:
    said = _said(error)
    if any(code in said for code in REFUSED):
        said += CURE
    failure = StorageError(f"'{without_credentials(str(place))}' cannot be {verb}: {said}.")
    failure.errno = error.errno
    return failure


def _said(error: Exception) -> str:
    said = getattr(error, "strerror", None) or str(error)
    return without_credentials(" ".join(said.split())).rstrip(".")


def open_folder(place: str | Path) -> Folder:
    """Open a folder on a path or a URI.

    Raises:
        StorageError: The URI is of no known kind or holds credentials, or its bucket is not there.
    """
    if not is_uri(place):
        return LocalFolder(Path(place).absolute())
    folder = RemoteFolder(str(place))
    folder.check_bucket()
    return folder


def check_writable(folder: Folder) -> None:
    """Write and remove a small file.

    Raises:
        StorageError: That fails.
    """
    probe = f".writable-{uuid.uuid4().hex[:8]}"  # nodes ask at the same time
    try:
        folder.write(probe, b"")
        folder.remove(probe)
    except StorageError as error:
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
