import hashlib
import os
import pickle
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oat.checkpoint import MAGIC, CheckpointError, dumps, loads
from oat.files import write_atomic

STATE: dict[str, Any] = {
    "weights": {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([1, -2])},
    "half": torch.tensor([1.5, -0.0], dtype=torch.bfloat16),
    "odd": torch.tensor([float("nan"), float("inf")]),
    "epoch": 3,
    "loss": 0.1,
    "name": "oat",
    "done": True,
    "none": None,
    "list": [1, 2.5, "x"],
}
DATA = dumps(STATE)


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.path, "w"))


def test_state_comes_back_as_it_was() -> None:
    state = loads(DATA)
    assert state.keys() == STATE.keys()
    for key in ("epoch", "loss", "name", "done", "none", "list"):
        assert state[key] == STATE[key]
        assert type(state[key]) is type(STATE[key])
    for key in ("half", "odd"):
        torch.testing.assert_close(state[key], STATE[key], rtol=0, atol=0, equal_nan=True)
    for key, value in STATE["weights"].items():
        torch.testing.assert_close(state["weights"][key], value, rtol=0, atol=0)


@given(length=st.integers(0, len(DATA) - 1))
def test_cut_off_bytes_are_refused(length: int) -> None:
    with pytest.raises(CheckpointError):
        loads(DATA[:length])


@given(position=st.integers(0, len(DATA) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused(position: int, bit: int) -> None:
    changed = bytearray(DATA)
    changed[position] ^= 1 << bit
    with pytest.raises(CheckpointError):
        loads(bytes(changed))


def test_bytes_after_the_end_are_refused() -> None:
    with pytest.raises(CheckpointError):
        loads(DATA + b"\0")


@given(data=st.binary(max_size=200))
def test_foreign_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(CheckpointError):
        loads(data)


def test_a_file_of_torch_without_our_head_is_refused(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "foreign.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        loads((tmp_path / "foreign.pt").read_bytes())


def test_a_pickled_object_is_refused_and_does_not_run(tmp_path: Path) -> None:
    target = tmp_path / "ran"
    data = dumps({"weights": torch.zeros(2), "evil": Evil(str(target))})
    with pytest.raises(CheckpointError, match="more than tensors"):
        loads(data)
    assert not target.exists()


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
def test_a_bare_pickle_behind_a_valid_head_is_refused_and_does_not_run(
    protocol: int, tmp_path: Path
) -> None:
    target = tmp_path / "ran"
    payload = pickle.dumps(Evil(str(target)), protocol=protocol)
    with pytest.raises(CheckpointError):
        loads(MAGIC + hashlib.sha256(payload).digest() + payload)
    assert not target.exists()


@given(payload=st.binary(max_size=60))
@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
def test_foreign_bytes_behind_a_valid_head_are_refused(payload: bytes) -> None:
    with pytest.raises(CheckpointError):
        loads(MAGIC + hashlib.sha256(payload).digest() + payload)


@given(position=st.integers(0, len(DATA) - 100), bit=st.integers(0, 7))
def test_a_made_up_state_with_a_digest_of_its_own_is_a_state_or_refused(
    position: int, bit: int
) -> None:
    payload = bytearray(DATA[len(MAGIC) + 32 :])
    payload[position] ^= 1 << bit
    try:
        state = loads(MAGIC + hashlib.sha256(payload).digest() + payload)
    except CheckpointError:
        return
    assert isinstance(state, dict)


def test_a_checkpoint_that_is_no_state_is_refused() -> None:
    with pytest.raises(CheckpointError, match="no state but a list"):
        loads(dumps([1, 2]))  # type: ignore[arg-type]


@contextmanager
def _files_of_at_most(size: int) -> Iterator[None]:
    """Let the system refuse to grow any file of this process beyond a size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_is_cut_off_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    write_atomic(path, DATA)
    with _files_of_at_most(1000), pytest.raises(OSError, match="too large"):
        write_atomic(path, dumps({"weights": torch.zeros(1000)}))
    assert path.read_bytes() == DATA
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_until_the_new_bytes_are_on_disk_a_reader_sees_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    write_atomic(path, DATA)
    seen: list[bytes] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        seen.append(path.read_bytes())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    write_atomic(path, b"new")
    assert seen[0] == DATA
    assert path.read_bytes() == b"new"


def test_a_reader_in_the_middle_of_the_old_file_reads_it_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    write_atomic(path, DATA)
    with path.open("rb", buffering=0) as reader:
        start = reader.read(100)
        write_atomic(path, dumps({"epoch": 4}))
        assert start + reader.read() == DATA
    assert loads(path.read_bytes()) == {"epoch": 4}


def test_writing_makes_the_folders_it_needs_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "last.ckpt"
    write_atomic(path, b"first")
    write_atomic(path, b"second")
    assert path.read_bytes() == b"second"
    assert os.listdir(path.parent) == ["last.ckpt"]
