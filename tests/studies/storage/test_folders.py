import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.servers import S3, s3_error
from studies.errors import StorageError
from studies.storage.folder import Folder
from studies.storage.local import LocalFolder
from studies.storage.opening import READERS, check_writable, in_threads, open_folder
from studies.storage.remote import RemoteFolder
from studies.trial.records import read_points, write_points

Open = Callable[[Path], Folder]


def _remote(path: Path) -> Folder:
    return RemoteFolder(path.as_uri())


OPENERS: list[Open] = [LocalFolder, _remote]


@pytest.fixture(params=OPENERS, ids=["local", "remote"])
def opener(request: pytest.FixtureRequest) -> Open:
    chosen: Open = request.param
    return chosen


@pytest.fixture(params=["local", "remote", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """A folder of each kind that is not there yet."""
    if request.param == "s3":
        return open_folder(f"{request.getfixturevalue('bucket')}/store")
    return {"local": LocalFolder, "remote": _remote}[request.param](tmp_path / "store")


@pytest.fixture
def objects(bucket: str) -> Folder:
    """A folder on S3."""
    return open_folder(f"{bucket}/some/where")


def test_what_is_written_is_read(folder: Folder) -> None:
    for data in (b"", b"one", bytes(range(256)) * 1000):
        folder.write("file", data)
        assert folder.read("file") == data
        assert folder.size("file") == len(data)


def test_names_may_hold_slashes_and_make_folders(folder: Folder) -> None:
    folder.write("a/b/c.json", b"deep")
    assert folder.read("a/b/c.json") == b"deep"
    assert folder.sub("a").sub("b").read("c.json") == b"deep"
    assert folder.sub("a/b").names() == ["c.json"]
    assert folder.sub("a").names() == ["b"]


def test_a_sub_folder_writes_below(folder: Folder) -> None:
    folder.sub("x").write("file", b"below")
    assert folder.read("x/file") == b"below"
    assert folder.size("file") is None
    assert folder.sub("x").uri == f"{folder.uri}/x"


def test_what_is_not_there_is_said_so(folder: Folder) -> None:
    for name in ("file", "a/b"):
        assert folder.size(name) is None
        with pytest.raises(FileNotFoundError):
            folder.read(name)
        folder.remove(name)
    assert folder.names() == []
    assert folder.sub("a").names() == []


def test_reading_makes_nothing(folder: Folder, tmp_path: Path) -> None:
    folder.size("a/file")
    folder.names()
    folder.sub("b").names()
    folder.remove("c")
    assert list(tmp_path.iterdir()) == []
    assert folder.names() == []


def test_names_are_sorted_and_only_those_directly_below(folder: Folder) -> None:
    for name in ("b", "a", "c/d", "c/e/f"):
        folder.write(name, b"")
    assert folder.names() == ["a", "b", "c"]


def test_a_folder_has_no_size(folder: Folder) -> None:
    folder.write("a/file", b"x")
    assert folder.size("a") is None


def test_removing_takes_a_file_or_a_whole_folder_and_nothing_else(folder: Folder) -> None:
    for name in ("a/one", "a/b/two", "ab", "c"):
        folder.write(name, b"x")
    folder.remove("a")
    assert folder.names() == ["ab", "c"]
    folder.remove("c")
    assert folder.names() == ["ab"]


@given(data=st.binary(max_size=1000))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_overwriting_replaces_the_whole_file(folder: Folder, data: bytes) -> None:
    folder.write("file", bytes(500))
    folder.write("file", data)
    assert folder.read("file") == data
    assert folder.names() == ["file"]


@contextmanager
def _files_of_at_most(size: int) -> Iterator[None]:
    """Let the system refuse to grow any file of this process beyond a size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("address", [str, Path.as_uri], ids=["path", "uri"])
def test_a_write_that_fails_leaves_the_old_file(
    address: Callable[[Path], str], tmp_path: Path
) -> None:
    folder = open_folder(address(tmp_path))
    folder.write("file", b"old")
    with _files_of_at_most(1000), pytest.raises(StorageError, match="too large") as caught:
        folder.write("file", bytes(5000))
    assert str(tmp_path / "file") in str(caught.value)
    assert isinstance(caught.value, OSError)
    assert folder.read("file") == b"old"
    assert folder.names() == ["file"]


def test_unfinished_writes_are_not_listed(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    folder.write("file", b"x")
    (tmp_path / ".other.0123abcd.tmp").write_bytes(b"half")
    assert folder.names() == ["file"]


@pytest.mark.parametrize(("first", "second"), [OPENERS, OPENERS[::-1]], ids=["to", "from"])
def test_a_path_and_its_uri_are_one_folder(first: Open, second: Open, tmp_path: Path) -> None:
    first(tmp_path).write("a/file", b"shared")
    assert second(tmp_path).read("a/file") == b"shared"
    assert second(tmp_path).names() == ["a"]


def test_a_writable_folder_is_left_as_it_was(folder: Folder, tmp_path: Path) -> None:
    check_writable(folder)
    assert folder.names() == []


def test_a_folder_that_cannot_be_written_is_refused(opener: Open, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    folder = opener(tmp_path / "file" / "below")
    with pytest.raises(StorageError, match="cannot be written") as caught:
        check_writable(folder)
    said = str(caught.value)
    assert "`--storage`" in said
    assert folder.uri in said
    assert "choose a folder that can" in said


def test_below_a_regular_file_there_is_nothing(opener: Open, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    folder = opener(tmp_path / "file" / "below")
    assert folder.names() == []
    assert folder.size("a") is None
    with pytest.raises(FileNotFoundError):
        folder.read("a")


@pytest.mark.parametrize("place", ["gopher://host/path", "no-such-kind://x", "://x"])
def test_an_unknown_kind_of_address_is_refused(place: str) -> None:
    with pytest.raises(StorageError) as caught:
        open_folder(place)
    assert "`--storage`" in str(caught.value)
    assert place in str(caught.value)


def test_a_relative_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = open_folder("outputs")
    monkeypatch.chdir("/")
    folder.write("file", b"x")
    assert (tmp_path / "outputs" / "file").read_bytes() == b"x"


@pytest.mark.parametrize("address", [str, Path.as_uri], ids=["path", "uri"])
def test_what_a_folder_is_called_opens_it_again(
    address: Callable[[Path], str], tmp_path: Path
) -> None:
    folder = open_folder(address(tmp_path))
    folder.write("a/b/file", b"x")
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"x"
    assert open_folder(folder.uri).read("a/b/file") == b"x"
    assert open_folder(folder.sub("a").sub("b").uri).names() == ["file"]
    assert open_folder(address(tmp_path) + "/").names() == ["a"]


def test_a_name_with_spaces_and_signs_stays_itself(folder: Folder) -> None:
    folder.write("a b/c%20d?.json", b"x")
    assert folder.sub("a b").names() == ["c%20d?.json"]
    assert open_folder(folder.sub("a b").uri).read("c%20d?.json") == b"x"


def test_a_folder_is_no_file(folder: Folder) -> None:
    folder.write("a/file", b"x")
    with pytest.raises((FileNotFoundError, StorageError)):
        folder.read("a")


def test_parameters_stay_behind_the_path(s3: S3, bucket: str, monkeypatch: Any) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    where = f"endpoint_override={s3.url.removeprefix('http://')}&scheme=http"
    folder = open_folder(f"{bucket}/studies/?{where}")
    folder.sub("a/b").write("file", b"x")
    assert folder.sub("a").sub("b").uri == f"{bucket}/studies/a/b?{where}"
    assert open_folder(folder.sub("a/b").uri).read("file") == b"x"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.url)
    assert open_folder(f"{bucket}/studies/a/b").read("file") == b"x"


def test_a_small_file_on_s3_is_one_request_to_write_and_two_to_read(
    s3: S3, objects: Folder
) -> None:
    for call, count in (
        (lambda: objects.sub("a/b").write("c", b"x"), 1),
        (lambda: objects.sub("a/b").size("c"), 1),
        (lambda: objects.sub("a/b").size("d"), 1),
        (lambda: objects.sub("a/b").read("c"), 2),
        (lambda: objects.names(), 1),
    ):
        s3.requests.clear()
        call()
        assert len(s3.requests) == count, s3.requests


def test_a_bucket_that_is_not_there_is_said_so_and_not_made(s3: S3) -> None:
    for _ in range(2):
        with pytest.raises(StorageError, match=r"no bucket 'nobody-made-it'; make it"):
            open_folder("s3://nobody-made-it/studies")
    assert {request.split()[0] for request in s3.requests} == {"HEAD"}


def test_refused_credentials_are_one_sentence_that_holds_none(
    s3: S3, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAOFANOTHER")
    folder = open_folder(f"{bucket}/studies")
    for call in (
        lambda: folder.read("file"),
        lambda: folder.size("file"),
        lambda: folder.names(),
        lambda: folder.write("file", b"x"),
        lambda: folder.remove("file"),
        lambda: check_writable(folder),
    ):
        with pytest.raises(StorageError) as caught:
            call()
        said = str(caught.value)
        assert f"{bucket}/studies" in said
        assert "AWS_ACCESS_KEY_ID" in said
        assert "\n" not in said
        assert os.environ["AWS_SECRET_ACCESS_KEY"] not in said


@pytest.mark.parametrize(
    "uri",
    [
        "s3://AKIA:tOpSeCrEt@bucket/path",
        "s3://AKIA:tOp/SeCrEt@bucket/path",
        "s3://tOpSeCrEt@bucket",
        "s3://bucket/path?secret_key=tOpSeCrEt",
        "hdfs://me:tOpSeCrEt@host:9000/path",
        "abfs://account.example/path?client_secret=tOpSeCrEt",
    ],
)
def test_credentials_in_the_address_are_refused(uri: str) -> None:
    with pytest.raises(StorageError, match="must not hold credentials") as caught:
        open_folder(uri)
    assert "tOp" not in str(caught.value)
    assert "SeCrEt" not in str(caught.value)
    assert "environment" in str(caught.value)


@pytest.mark.parametrize("signalled", ["PUT", "POST"])
def test_a_write_to_s3_that_is_interrupted_is_whole_or_not_there(
    signalled: str, s3: S3, objects: Folder
) -> None:
    """Ctrl-C while pyarrow opens the object, and while it is sent."""
    old, new = b"old" * 100, bytes(12_000_000) if signalled == "POST" else b"new" * 100
    objects.write("file", old)

    def interrupt(environ: Mapping[str, Any], start: Any) -> None:
        if environ["REQUEST_METHOD"] == signalled:
            s3.fault = None
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)

    s3.fault = interrupt
    with pytest.raises(KeyboardInterrupt):
        objects.write("file", new)
    assert objects.read("file") == new


class _Interrupted:
    """A file system under which Ctrl-C comes as soon as a file is open."""

    def __init__(self, system: Any) -> None:
        self._system = system

    def open_output_stream(self, path: str) -> Any:
        stream = self._system.open_output_stream(path)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        return stream


def test_ctrl_c_between_opening_and_writing_puts_no_empty_object(bucket: str) -> None:
    folder = RemoteFolder(f"{bucket}/store")
    whole, folder._system = folder._system, _Interrupted(folder._system)
    with pytest.raises(KeyboardInterrupt):
        folder.write("file", b"new")
    folder._system = whole
    assert folder.read("file") == b"new"


@pytest.mark.slow
def test_a_part_that_s3_does_not_take_leaves_the_old_file(s3: S3, objects: Folder) -> None:
    objects.write("file", b"old")
    refuse = s3_error(400, "InvalidPart")

    def second(environ: Mapping[str, Any], start: Any) -> Iterable[bytes] | None:
        return refuse(environ, start) if "partNumber=2" in environ["QUERY_STRING"] else None

    s3.fault = second
    with pytest.raises(StorageError, match="cannot be written"):
        objects.write("file", bytes(25_000_000))
    assert objects.read("file") == b"old"


@pytest.mark.parametrize("error", [(500, "InternalError"), (503, "SlowDown")])
def test_an_s3_that_is_busy_for_a_moment_is_asked_again(
    error: tuple[int, str], s3: S3, objects: Folder
) -> None:
    busy, left = s3_error(*error), 0

    def fault(environ: Mapping[str, Any], start: Any) -> Iterable[bytes] | None:
        nonlocal left
        left -= 1
        return busy(environ, start) if left >= 0 else None

    s3.fault = fault
    left = 3
    objects.write("file", b"x")
    left = 3
    assert objects.read("file") == b"x"


def test_an_s3_that_is_slow_is_waited_for(s3: S3, objects: Folder) -> None:
    s3.fault = lambda environ, start: time.sleep(1)
    objects.write("file", b"x")
    assert objects.read("file") == b"x"


@pytest.mark.slow
def test_an_s3_that_stays_broken_is_one_sentence(s3: S3, objects: Folder) -> None:
    s3.fault = s3_error(500, "InternalError")
    with pytest.raises(StorageError, match=r"/some/where/file' cannot be written: .*made up\.$"):
        objects.write("file", b"x")


@pytest.mark.slow
def test_an_s3_that_is_gone_is_one_sentence(
    s3: S3, objects: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(StorageError, match="cannot be reached") as caught:
        open_folder("s3://bucket/path")
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_read_is_not_taken_for_an_empty_one(
    s3: S3, objects: Folder
) -> None:
    """Points that a broken connection hides would be judged anew, over those that are there."""
    write_points(objects, [], {})
    assert read_points(objects, "id") == ([], {})
    s3.fault = s3_error(403, "AccessDenied")
    with pytest.raises(StorageError):
        read_points(objects, "id")


def test_what_is_looked_up_in_threads_keeps_its_order_and_so_many_run_at_a_time() -> None:
    together = threading.Barrier(READERS)

    def look_up(item: int) -> int:
        together.wait(timeout=1000)
        return -item

    items = range(2 * READERS)
    assert in_threads(look_up, items) == [-item for item in items]


def test_an_error_in_a_thread_is_raised_and_stops_what_has_not_begun() -> None:
    begun: list[int] = []

    def look_up(item: int) -> None:
        begun.append(item)
        if item == 0:
            raise PermissionError("no")
        time.sleep(0.05)  # all together 16 seconds; they are handed out in far less

    with pytest.raises(PermissionError, match="no"):
        in_threads(look_up, range(5_000))
    assert len(begun) < 5_000


def test_many_nodes_may_ask_at_once_whether_storage_can_be_written(objects: Folder) -> None:
    with ThreadPoolExecutor(8) as nodes:
        assert list(nodes.map(lambda _: check_writable(objects), range(80))) == [None] * 80
    assert objects.names() == []


def test_of_many_who_remove_a_file_none_fails(objects: Folder) -> None:
    for _ in range(5):
        objects.write("file", b"x")
        with ThreadPoolExecutor(8) as nodes:
            assert list(nodes.map(lambda _: objects.remove("file"), range(16))) == [None] * 16


def test_a_disk_that_is_full_cannot_be_written(small_disk: Path) -> None:
    folder = LocalFolder(small_disk / "out")
    check_writable(folder)
    with suppress(OSError), (small_disk / "rest").open("wb") as rest:
        while True:
            rest.write(bytes(4096))
    with pytest.raises(StorageError, match="No space left on device; free some room there"):
        check_writable(folder)
