"""Trainings that share a device count each other, in real processes."""

import multiprocessing
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from oat.sharing import DeviceShare

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _temp_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def _train(name: str, folder: str, pipe: Connection) -> None:
    """Train on a device until told to end; runs in another process."""
    import tempfile

    tempfile.tempdir = folder
    with DeviceShare(CPU, name).training():
        pipe.send("training")
        pipe.recv()
    pipe.send("ended")


@contextmanager
def _training_elsewhere(name: str, folder: Path) -> Iterator[BaseProcess]:
    """Have another process train on a device for as long as the block lasts."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_train, args=(name, str(folder), theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        assert ours.recv() == "training"
        yield process
        if process.is_alive():
            ours.send("end")
            assert ours.recv() == "ended"
    finally:
        process.kill()
        process.join()


def test_a_cpu_without_a_name_is_not_shared(tmp_path: Path) -> None:
    share = DeviceShare(CPU)
    with share.training(), DeviceShare(CPU).training():
        assert share.sample() == 1
    assert share.mean() == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_share_is_one_over_the_processes_that_train_on_the_device(tmp_path: Path) -> None:
    share = DeviceShare(CPU, "a")
    with share.training():
        assert share.sample() == 1
        with ExitStack() as stack:
            stack.enter_context(_training_elsewhere("a", tmp_path))
            assert share.sample() == pytest.approx(1 / 2)
            stack.enter_context(_training_elsewhere("a", tmp_path))
            assert share.sample() == pytest.approx(1 / 3)
            assert DeviceShare(CPU, "b").sample() == 1
        assert share.sample() == 1
        assert share.mean() == pytest.approx((1 + 1 / 2 + 1 / 3 + 1) / 4)


@pytest.mark.slow
def test_a_process_that_was_killed_does_not_count(tmp_path: Path) -> None:
    share = DeviceShare(CPU, "a")
    with share.training(), _training_elsewhere("a", tmp_path) as process:
        assert share.sample() == pytest.approx(1 / 2)
        process.kill()
        process.join()
        assert share.sample() == 1


def test_each_epoch_begins_its_samples_anew() -> None:
    share = DeviceShare(CPU, "a")
    with share.training(), DeviceShare(CPU, "a").training():
        assert share.sample() == pytest.approx(1 / 2)
    with share.training():
        assert share.mean() == 1
        assert share.sample() == 1
        assert share.mean() == 1


def test_a_training_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    share = DeviceShare(CPU, "a")
    with pytest.raises(RuntimeError, match="diverged"), share.training():
        raise RuntimeError("diverged")
    assert share.sample() == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_file_that_a_dead_process_left_is_removed(tmp_path: Path) -> None:
    share = DeviceShare(CPU, "a")
    with share.training():
        (folder,) = [path.parent for path in tmp_path.rglob("*") if path.is_file()]
        (folder / "12345-dead").write_text("")
        assert share.sample() == 1
        assert len(list(folder.iterdir())) == 1


def test_a_name_with_odd_characters_stays_in_the_folder(tmp_path: Path) -> None:
    with DeviceShare(CPU, "../away/GPU 0").training():
        (path,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert path.parent.parent.parent == tmp_path


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_known_by_its_uuid(tmp_path: Path) -> None:
    device = torch.device("cuda", 0)
    with DeviceShare(device).training():
        (path,) = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert DeviceShare(device).sample() == 1
    assert path.parent.name == str(torch.cuda.get_device_properties(device).uuid)
