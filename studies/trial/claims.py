"""A trial's folder as one worker has it: others may read, none but the last to claim may write.

A worker that the cluster gave up on may still be alive, as behind a cut network; the one that goes
on in its place claims the folder, and the first ends at its next write.
"""

import json
import time
import uuid
from collections.abc import Callable

from studies.storage.folder import Folder
from studies.storage.local import LocalFolder

CLAIM = "claim.json"
PATIENCE = (1.0, 5.0, 15.0, 60.0, 180.0)
"""Seconds to wait before each further try of a write that storage did not take."""


class SupersededError(Exception):
    """Another worker goes on with this trial."""


class ClaimedFolder:
    """A folder whose writes are this worker's own, and are tried again where storage refuses.

    Args:
        folder: The trial's folder.
        refused: Called with what storage said, whenever it did not take a write that will be tried
            again.

    Raises:
        OSError: The claim cannot be written, after all tries.
    """

    def __init__(
        self, folder: Folder, refused: Callable[[OSError], None] = lambda error: None
    ) -> None:
        self._folder, self._refused = folder, refused
        self.uri = folder.uri
        self._claim = json.dumps({"worker": uuid.uuid4().hex}).encode()
        self._write(CLAIM, self._claim, lambda: None)
        if isinstance(folder, LocalFolder):
            folder.sweep()

    def sub(self, name: str) -> Folder:
        """See `Folder.sub`; what lies below is not claimed."""
        return self._folder.sub(name)

    def read(self, name: str) -> bytes:
        """See `Folder.read`."""
        return self._folder.read(name)

    def write(self, name: str, data: bytes) -> None:
        """See `Folder.write`.

        Raises:
            SupersededError: Another worker has claimed the folder; nothing was written.
            OSError: Storage refused all tries.
        """
        self._write(name, data, self._check)

    def size(self, name: str) -> int | None:
        """See `Folder.size`."""
        return self._folder.size(name)

    def names(self) -> list[str]:
        """See `Folder.names`; without the claim."""
        return [name for name in self._folder.names() if name != CLAIM]

    def remove(self, name: str) -> None:
        """See `Folder.remove`.

        Raises:
            SupersededError: Another worker has claimed the folder; nothing was removed.
        """
        self._check()
        self._folder.remove(name)

    def _check(self) -> None:
        if self._folder.read(CLAIM) != self._claim:
            raise SupersededError(f"another worker goes on with '{self.uri}'.")

    def _write(self, name: str, data: bytes, check: Callable[[], None]) -> None:
        for pause in PATIENCE:
            try:
                check()
                return self._folder.write(name, data)
            except OSError as error:
                self._refused(error)
                time.sleep(pause)  # another worker may claim the folder meanwhile
        check()
        return self._folder.write(name, data)
