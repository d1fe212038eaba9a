"""What a folder of results can do, whatever holds it; every write is all or nothing."""

from typing import Protocol


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
