"""Open a folder of results on a path or a URI, test that it can be written, look into many.

The layout, and what makes a trial done, are described in docs/architecture.md.
"""

import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from oat.paths import local_path
from studies.errors import StorageError
from studies.storage.addresses import is_uri
from studies.storage.folder import Folder
from studies.storage.local import LocalFolder
from studies.storage.remote import RemoteFolder

READERS = 16
"""Folders that are read at a time: an answer over a network takes milliseconds of waiting."""

Item = TypeVar("Item")
Found = TypeVar("Found")


def open_folder(place: str | Path, option: str = "--storage") -> Folder:
    """Open a folder on a path or a URI.

    Args:
        place: The path or URI.
        option: Who names it, for errors.

    Raises:
        StorageError: The path is none, or of a file; or the URI is of no known kind or holds
            credentials, or its bucket is not there.
    """
    if not is_uri(place):
        return LocalFolder(path_of(place, option))
    folder = RemoteFolder(str(place))
    folder.check_bucket()
    return folder


def path_of(place: str | Path, option: str = "--storage") -> Path:
    """Return the absolute path of a folder that is there, or can be made.

    Raises:
        StorageError: It would be another one than is meant, or a file is in its place.
    """
    try:
        path = local_path(place)
        there = next(p for p in (path, *path.parents) if p.exists())
    except ValueError as error:
        raise StorageError(f"`{option}` {error}") from None
    except OSError as error:
        raise StorageError(
            f"`{option}` '{place}' cannot be looked at ({error.strerror}); choose another folder."
        ) from error
    if not there.is_dir():
        raise StorageError(f"`{option}` must be a folder, and '{there}' is a file, got '{place}'.")
    return path


def check_writable(folder: Folder) -> None:
    """Write and remove a small file.

    Raises:
        StorageError: That fails.
    """
    probe = f".writable-{uuid.uuid4().hex[:8]}"  # nodes ask at the same time
    try:
        folder.write(probe, b"oat")  # a full disk takes an empty file
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
