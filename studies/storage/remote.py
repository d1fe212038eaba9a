"""Folders behind a URI that pyarrow knows, such as an object store."""

import copy
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from studies.errors import StorageError
from studies.storage.addresses import below, holds_credentials, without_credentials
from studies.storage.faults import DENIED, failure, in_one_sentence, words_of

OBJECT_STORES = frozenset({"s3", "gcs", "abfs"})
ONE_REQUEST = "allow_delayed_open"
"""Parameter of pyarrow's S3 URIs: opening asks nothing, so that a small file is one request."""

GIVES_UP, RETRY_SECONDS = "retry_limit_seconds", 20
"""Parameter of pyarrow's URIs of Google's store, which would try for a quarter of an hour, and
cannot be stopped meanwhile."""


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
        if "#" in uri or (uri.startswith("file:") and mark):
            raise StorageError(
                f"`--storage` '{uri}' must have `?` and `#` of a path written as %3F and %23; they "
                "begin something else in a URI."
            )
        if uri.startswith("s3://") and ONE_REQUEST not in query:
            query = f"{query}&{ONE_REQUEST}=true".removeprefix("&")
            uri = f"{place}?{query}"
        if uri.startswith(("gs://", "gcs://")) and GIVES_UP not in query:
            query = f"{query}&{GIVES_UP}={RETRY_SECONDS}".removeprefix("&")
            uri = f"{place}?{query}"
        try:
            self._system, path = fs.FileSystem.from_uri(uri)
        except (ValueError, OSError) as error:
            raise StorageError(
                f"`--storage` '{self.uri}' cannot be opened: {words_of(error)}."
            ) from (error)
        self._path = path.rstrip("/")
        self._objects = self._system.type_name in OBJECT_STORES
        if self._objects and not self._path.strip("/"):
            raise StorageError(
                f"`--storage` '{self.uri}' names no bucket; write {place.partition('://')[0]}://"
                "BUCKET/FOLDER."
            )

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
            raise failure("reached", self.uri, error) from error
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
        return in_one_sentence(verb, below(self.uri, name) if name else self.uri, always)

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
