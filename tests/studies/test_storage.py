import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from studies.errors import StorageError
from studies.storage import (
    READERS,
    Folder,
    LocalFolder,
    RemoteFolder,
    check_writable,
    in_threads,
    open_folder,
)

Open = Callable[[Path], Folder]


def _remote(path: Path) -> Folder:
    return RemoteFolder(path.as_uri())


OPENERS: list[Open] = [LocalFolder, _remote]


@pytest.fixture(params=OPENERS, ids=["local", "remote"])
def opener(request: pytest.FixtureRequest) -> Open:
    chosen: Open = request.param
    return chosen


@pytest.fixture
def folder(opener: Open, tmp_path: Path) -> Folder:
    return opener(tmp_path / "store")


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
    with _files_of_at_most(1000), pytest.raises(OSError, match="too large"):
        folder.write("file", bytes(5000))
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


def test_what_is_looked_up_in_threads_keeps_its_order_and_so_many_run_at_a_time() -> None:
    together = threading.Barrier(READERS)

    def look_up(item: int) -> int:
        together.wait(timeout=5)
        return -item

    items = range(2 * READERS)
    assert in_threads(look_up, items) == [-item for item in items]


def test_an_error_in_a_thread_is_raised_and_stops_what_has_not_begun() -> None:
    begun: list[int] = []
    failed = threading.Event()

    def look_up(item: int) -> None:
        begun.append(item)
        if item == 0:
            failed.set()
            raise PermissionError("no")
        failed.wait(timeout=5)

    with pytest.raises(PermissionError, match="no"):
        in_threads(look_up, range(100_000))
    assert len(begun) < 100_000
