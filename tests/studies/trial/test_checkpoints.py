from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from studies.storage.local import LocalFolder
from studies.trial import checkpoints
from studies.trial.checkpoints import SLOTS, Checkpoints, has_checkpoint


def _state(epoch: int) -> dict[str, object]:
    return {"epoch": epoch, "model": {"weight": torch.full((3,), float(epoch))}}


def _epoch(folder: LocalFolder) -> int | None:
    state = Checkpoints(folder).newest("cpu")
    return None if state is None else int(state["epoch"])


@pytest.fixture
def folder(tmp_path: Path) -> LocalFolder:
    return LocalFolder(tmp_path)


def test_a_folder_without_checkpoints_has_none(folder: LocalFolder) -> None:
    assert not has_checkpoint(folder)
    assert _epoch(folder) is None


def test_the_newest_is_loaded_and_the_one_before_is_kept(folder: LocalFolder) -> None:
    checkpoints = Checkpoints(folder)
    for epoch in range(1, 6):
        checkpoints.save(_state(epoch))
        assert has_checkpoint(folder)
        assert _epoch(folder) == epoch
    assert sorted(folder.names()) == sorted(SLOTS)
    state = Checkpoints(folder).newest("cpu")
    assert state is not None
    assert torch.equal(state["model"]["weight"], torch.full((3,), 5.0))


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: b"junk",
    ],
)
def test_a_damaged_newest_gives_way_to_the_one_before(
    folder: LocalFolder, damage: Callable[[bytes], bytes]
) -> None:
    checkpoints = Checkpoints(folder)
    checkpoints.save(_state(1))
    checkpoints.save(_state(2))
    newest = SLOTS[1]
    folder.write(newest, damage(folder.read(newest)))
    again = Checkpoints(folder)
    state = again.newest("cpu")
    assert state is not None
    assert state["epoch"] == 1
    assert newest in folder.read("checkpoint.error").decode()
    again.save(_state(2))  # over the damaged one, not over what it went on from
    assert _epoch(folder) == 2
    folder.remove(newest)
    assert _epoch(folder) == 1


def test_a_cheap_checkpoint_is_written_each_time(folder: LocalFolder) -> None:
    store = Checkpoints(folder)
    assert all(store.save_if_due(lambda n=n: _state(n), last=False) for n in range(1, 6))
    assert _epoch(folder) == 5


def test_a_dear_checkpoint_is_written_first_and_last_and_when_it_is_due(
    folder: LocalFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "CHEAP_SECONDS", 0.0)
    monkeypatch.setattr(checkpoints, "COST_SHARE", 1e-9)
    store = Checkpoints(folder)
    assert store.save_if_due(lambda: _state(1), last=False)
    assert not store.save_if_due(pytest.fail, last=False)
    assert _epoch(folder) == 1
    monkeypatch.setattr(checkpoints, "COST_SHARE", 1e9)
    assert store.save_if_due(lambda: _state(3), last=False)
    monkeypatch.setattr(checkpoints, "COST_SHARE", 1e-9)
    assert not store.save_if_due(pytest.fail, last=False)
    assert store.save_if_due(lambda: _state(5), last=True)
    assert _epoch(folder) == 5


def test_whoever_goes_on_keeps_what_it_went_on_from(folder: LocalFolder) -> None:
    checkpoints = Checkpoints(folder)
    for epoch in (1, 2, 3):
        checkpoints.save(_state(epoch))
    again = Checkpoints(folder)
    again.newest("cpu")
    again.save(_state(4))
    folder.remove(SLOTS[1])
    assert _epoch(folder) == 3


def test_what_storage_has_changed_is_noticed_and_the_one_before_stands(tmp_path: Path) -> None:
    class Forgetful(LocalFolder):
        forgets = False

        def write(self, name: str, data: bytes) -> None:
            super().write(name, data[:-1] if self.forgets else data)

    folder = Forgetful(tmp_path)
    checkpoints = Checkpoints(folder)
    checkpoints.save(_state(1))
    folder.forgets = True
    for epoch in (2, 3):
        with pytest.raises(OSError, match="is not what was written"):
            checkpoints.save(_state(epoch))
        assert _epoch(folder) == 1


def test_removing_leaves_none(folder: LocalFolder) -> None:
    checkpoints = Checkpoints(folder)
    checkpoints.save(_state(1))
    checkpoints.save(_state(2))
    checkpoints.remove()
    assert folder.names() == []
    assert not has_checkpoint(folder)
