"""Open a folder of results on a path or a URI, test that it can be written, look into many.

The layout, and what makes a trial done, are described in docs/architecture.md.
"""

import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from studies.errors import StorageError
from studies.storage.addresses import is_uri
from studies.storage.folder import Folder
from studies.storage.local import LocalFolder
from studies.storage.remote import RemoteFolder

READERS = 16
"""Folders that are read at a time: an answer over a network takes milliseconds of waiting."""

Item = TypeVar("Item")
Found = TypeVar("Found")


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
