"""Published data sets that are missing, cut off or of something else: a sentence with the cure."""

import pickle
import shutil
import sys
import urllib.request
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from oat.data import DataConfig, DataError, load
from oat.data.published import expected_files
from tests.oat.data.files import as_nobody
from tests.oat.data.written import WRITERS, write_fashion_mnist

NAMES = [name for name in WRITERS if name != "imagefolder"]


@pytest.fixture(autouse=True)
def _nothing_in_memory() -> None:
    load.cache_clear()


@pytest.fixture(params=NAMES)
def there(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, Path]:
    """A data set that is there: its name and its root."""
    WRITERS[request.param](tmp_path / "data", monkeypatch)
    load(DataConfig(request.param, root=str(tmp_path / "data")))
    load.cache_clear()
    return request.param, tmp_path / "data"


def _refusal(name: str, root: Path, download: bool = False) -> str:
    with pytest.raises(DataError) as caught:
        load(DataConfig(name, root=str(root), download=download))
    said = str(caught.value)
    assert said.startswith(f"`data.root` '{root}' has")
    assert "\n" not in said
    return said


def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send every download to a port of this machine where nobody listens."""
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    # urllib keeps what it has read of these since its first request in this process
    monkeypatch.setattr(urllib.request, "_opener", None)


def test_each_missing_file_is_named_with_the_cure(there: tuple[str, Path]) -> None:
    name, root = there
    for file in expected_files(name):
        (root / file).rename(root / "away")
        said = _refusal(name, root)
        assert f"'{file}' is not there" in said
        assert "point it to the folder that has this file below it" in said
        assert "`data.download: true`" in said
        (root / "away").rename(root / file)


def test_each_file_that_is_cut_off_is_named_with_the_cure(there: tuple[str, Path]) -> None:
    name, root = there
    for file in expected_files(name):
        whole = (root / file).read_bytes()
        (root / file).write_bytes(whole[: len(whole) // 2])
        said = _refusal(name, root)
        assert f"('{file}' is damaged or another file); delete that file" in said
        (root / file).write_bytes(whole)
        load.cache_clear()


@pytest.mark.parametrize("name", NAMES)
def test_a_root_that_is_missing_empty_or_a_file_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for place in ("nowhere", "empty", "file"):
        assert "is not there" in _refusal(name, tmp_path / place)
    assert not (tmp_path / "nowhere").exists()


def test_the_folder_of_the_files_itself_is_refused_with_the_one_above(
    there: tuple[str, Path],
) -> None:
    name, root = there
    below = Path(next(iter(expected_files(name)))).parent
    if below != Path("."):
        assert "point it to the folder that has this file below it" in _refusal(name, root / below)


@pytest.mark.parametrize("name", NAMES)
def test_a_download_without_a_network_is_one_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _no_network(monkeypatch)
    said = _refusal(name, tmp_path / "new", download=True)
    assert "could not be fetched" in said
    assert "Connection refused" in said
    assert "and its neighbours there yourself" in said


@pytest.mark.parametrize("name", NAMES)
def test_a_download_to_where_nothing_can_be_written_is_one_sentence(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    assert "could not be fetched" in _refusal(name, tmp_path / "file" / "below", download=True)


def test_a_download_that_is_there_needs_no_network(
    there: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, root = there
    _no_network(monkeypatch)
    if name == "svhn":
        assert load(DataConfig(name, root=str(root), download=True)).num_classes == 10
    assert load(DataConfig(name, root=str(root), download=True)).num_classes == 10


RAW = Path("FashionMNIST/raw")
SPOILED: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "fewer labels": (
        "train-labels-idx1-ubyte",
        lambda b: _idx1(b, b[8:-1]),
        "20 training images and 19",
    ),
    "a label too large": (
        "t10k-labels-idx1-ubyte",
        lambda b: b[:-1] + b"\x0a",
        "image of class 10",
    ),
    "not unpacked": ("t10k-images-idx3-ubyte", lambda _: b"\x1f\x8b\x08" + bytes(40), "is damaged"),
    "a page of HTML": (
        "train-images-idx3-ubyte",
        lambda _: b"<html>Moved</html>" * 9,
        "is damaged",
    ),
    "labels as images": ("train-images-idx3-ubyte", lambda b: _idx1(b, b[16:36]), "is damaged"),
    "other sides": (
        "t10k-images-idx3-ubyte",
        lambda b: _sides(b, 14, 56),
        "which must be the same",
    ),
    "none": ("t10k-images-idx3-ubyte", lambda b: b[:4] + bytes(4) + b[8:16], "is damaged"),
}


def _idx1(head: bytes, labels: bytes) -> bytes:
    return b"\0\0\x08\x01" + len(labels).to_bytes(4, "big") + labels


def _sides(data: bytes, height: int, width: int) -> bytes:
    return data[:8] + height.to_bytes(4, "big") + width.to_bytes(4, "big") + data[16:]


@pytest.mark.parametrize("kind", SPOILED)
def test_files_of_fashion_mnist_that_do_not_belong_together_are_refused(
    kind: str, tmp_path: Path
) -> None:
    write_fashion_mnist(tmp_path)
    file, spoil, words = SPOILED[kind]
    path = tmp_path / RAW / file
    path.write_bytes(spoil(path.read_bytes()))
    assert words in _refusal("fashion_mnist", tmp_path)


def test_a_pickle_in_the_place_of_cifar_is_not_opened(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for file in expected_files("cifar10"):
        (tmp_path / file).write_bytes(pickle.dumps({"data": np.zeros((1, 3072), np.uint8)}))
    assert "data_batch_1' is damaged or another file" in _refusal("cifar10", tmp_path)


def test_a_file_that_may_not_be_read_is_named(there: tuple[str, Path], tmp_path: Path) -> None:
    name, root = there
    file = list(expected_files(name))[-1]
    (root / file).chmod(0)
    with as_nobody(root):
        assert f"('{file}' cannot be read: Permission denied)" in _refusal(name, root)


def test_a_folder_in_the_place_of_a_file_is_refused(there: tuple[str, Path]) -> None:
    name, root = there
    file = next(iter(expected_files(name)))
    (root / file).unlink()
    (root / file).mkdir()
    assert f"'{file}' is not there" in _refusal(name, root)


def test_the_home_folder_may_be_written_as_a_tilde(
    there: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, root = there
    monkeypatch.setenv("HOME", str(root.parent))
    assert load(DataConfig(name, root="~/data")).num_classes == 10
    shutil.rmtree(root)
    load.cache_clear()
    assert "`data.root` '~/data' has" in _sentence(name)


def _sentence(name: str) -> str:
    with pytest.raises(DataError) as caught:
        load(DataConfig(name, root="~/data"))
    return str(caught.value)


DIGITS = Path("sklearn/datasets/data/digits.csv.gz")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda whole: None, "not found"),
        (lambda whole: whole[: len(whole) // 2], "end-of-stream marker"),
        (lambda whole: b"<html>Moved</html>", "Not a gzipped file"),
    ],
    ids=["missing", "cut off", "another file"],
)
def test_digits_that_cannot_be_read_are_a_sentence(
    damage: Callable[[bytes], bytes | None],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed = find_spec("sklearn")
    assert installed is not None
    assert installed.origin is not None
    content = damage((Path(installed.origin).parents[1] / DIGITS).read_bytes())
    (tmp_path / DIGITS).parent.mkdir(parents=True)
    (tmp_path / "sklearn/__init__.py").touch()
    if content is not None:
        (tmp_path / DIGITS).write_bytes(content)
    monkeypatch.delitem(sys.modules, "sklearn", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataError, match=said) as caught:
        load(DataConfig("digits"))
    assert str(tmp_path / DIGITS) in str(caught.value)
    assert str(caught.value).endswith("install scikit-learn anew.")


def test_digits_without_scikit_learn_are_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)  # as if it were not installed
    with pytest.raises(DataError, match="install it: `pip install scikit-learn`"):
        load(DataConfig("digits"))
