from pathlib import Path

import pytest

from studies.errors import StorageError
from studies.storage.local import LocalFolder
from studies.trial import claims
from studies.trial.claims import CLAIM, ClaimedFolder, SupersededError


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "PATIENCE", (0.0, 0.0, 0.0))


def test_a_claimed_folder_reads_and_writes_as_the_folder_does(tmp_path: Path) -> None:
    plain = LocalFolder(tmp_path)
    plain.write("old", b"1")
    own = ClaimedFolder(plain)
    own.write("new", b"22")
    assert own.uri == plain.uri
    assert (own.read("old"), plain.read("new"), own.size("new")) == (b"1", b"22", 2)
    assert own.names() == ["new", "old"]
    assert own.sub("below").uri == plain.sub("below").uri
    own.remove("old")
    assert plain.size("old") is None


def test_only_the_last_to_claim_writes_and_removes(tmp_path: Path) -> None:
    first = ClaimedFolder(LocalFolder(tmp_path))
    first.write("points", b"first")
    second = ClaimedFolder(LocalFolder(tmp_path))
    with pytest.raises(SupersededError, match="another worker goes on"):
        first.write("points", b"again")
    with pytest.raises(SupersededError):
        first.remove("points")
    assert first.read("points") == b"first"
    second.write("points", b"second")
    assert (tmp_path / "points").read_bytes() == b"second"


class Refusing(LocalFolder):
    """Takes no more writes than it is told to refuse."""

    left = 0
    error: Exception = OSError(28, "No space left on device")

    def write(self, name: str, data: bytes) -> None:
        if self.left:
            self.left -= 1
            raise self.error
        super().write(name, data)


@pytest.mark.parametrize("error", [OSError(28, "full"), StorageError("S3 does not answer.")])
def test_a_write_that_storage_refuses_is_tried_again(error: Exception, tmp_path: Path) -> None:
    folder = Refusing(tmp_path)
    said: list[OSError] = []
    own = ClaimedFolder(folder, said.append)
    folder.left, folder.error = 3, error
    own.write("points", b"1")
    assert said == [error] * 3
    assert own.read("points") == b"1"


def test_a_write_that_storage_keeps_refusing_says_why_and_leaves_what_was_there(
    tmp_path: Path,
) -> None:
    folder = Refusing(tmp_path)
    own = ClaimedFolder(folder)
    own.write("points", b"1")
    folder.left = 4
    with pytest.raises(OSError, match="No space left"):
        own.write("points", b"2")
    assert own.read("points") == b"1"


def test_a_folder_that_cannot_be_claimed_is_an_error(tmp_path: Path) -> None:
    folder = Refusing(tmp_path)
    folder.left = 4
    with pytest.raises(OSError, match="No space left"):
        ClaimedFolder(folder)
    assert not (tmp_path / CLAIM).exists()


def test_who_is_superseded_while_storage_refuses_does_not_write_when_it_takes_writes_again(
    tmp_path: Path,
) -> None:
    class CutOff(Refusing):
        """Lets another worker claim the folder while it refuses."""

        def write(self, name: str, data: bytes) -> None:
            if self.left:
                ClaimedFolder(LocalFolder(tmp_path)).write(name, b"successor")
            super().write(name, data)

    folder = CutOff(tmp_path)
    own = ClaimedFolder(folder)
    folder.left = 1
    with pytest.raises(SupersededError):
        own.write("points", b"superseded")
    assert (tmp_path / "points").read_bytes() == b"successor"


def test_what_a_killed_writer_left_is_swept_away(tmp_path: Path) -> None:
    own = ClaimedFolder(LocalFolder(tmp_path))
    own.write("checkpoint", b"1")
    (tmp_path / ".checkpoint.0a1b2c3d.tmp").write_bytes(b"half")
    ClaimedFolder(LocalFolder(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", CLAIM]
