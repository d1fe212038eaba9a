import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from oat.data import AUGMENTATION, READERS, DataConfig, DataError, Split, augment, load, unit
from oat.data.splits import SPLIT_SEED, hold_out
from tests.oat.data.written import WRITERS, write_cifar10, write_fashion_mnist, write_imagefolder


@pytest.fixture(autouse=True)
def _nothing_in_memory() -> None:
    load.cache_clear()


def _pairs(images: Any, labels: Any) -> list[tuple[bytes, int]]:
    """Return each image with its label, in an order of their own."""
    return sorted(
        (np.ascontiguousarray(image).tobytes(), int(label))
        for image, label in zip(np.asarray(images), np.asarray(labels), strict=True)
    )


@pytest.mark.parametrize("name", WRITERS)
def test_files_in_the_real_format_are_read_as_they_were_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = WRITERS[name](tmp_path / "data", monkeypatch)
    dataset = load(DataConfig(name, root=str(tmp_path / "data")))
    assert dataset.test.images.dtype == torch.uint8
    assert dataset.test.labels.dtype == torch.int64
    assert np.array_equal(dataset.test.images.numpy(), truth["test"])
    assert np.array_equal(dataset.test.labels.numpy(), truth["test_labels"])
    assert dataset.image_shape == truth["test"].shape[1:]
    assert dataset.num_classes == (2 if name == "imagefolder" else 10)
    assert (len(dataset.train), len(dataset.val)) == (18, 2)
    images = torch.cat([dataset.train.images, dataset.val.images])
    labels = torch.cat([dataset.train.labels, dataset.val.labels])
    assert images.dtype == torch.uint8
    assert labels.dtype == torch.int64
    assert _pairs(images, labels) == _pairs(truth["train"], truth["train_labels"])


@pytest.mark.parametrize("name", WRITERS)
def test_missing_data_are_an_error_that_names_the_key(name: str, tmp_path: Path) -> None:
    missing = str(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"`data\.root`.*nowhere"):
        load(DataConfig(name, root=missing))
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("keep", [4, 400])
def test_file_that_is_cut_off_is_an_error_that_names_the_key(keep: int, tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path)
    path = tmp_path / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"`data\.root`"):
        load(DataConfig("fashion_mnist", root=str(tmp_path)))


def test_changed_file_of_cifar_is_an_error_that_names_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar10(tmp_path, monkeypatch)
    with (tmp_path / "cifar-10-batches-py" / "data_batch_3").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(DataError, match=r"`data\.root`"):
        load(DataConfig("cifar10", root=str(tmp_path)))


def test_digits_are_all_of_scikit_learns() -> None:
    dataset = load(DataConfig("digits"))
    assert dataset.image_shape == (1, 8, 8)
    assert dataset.num_classes == 10
    parts = (dataset.train, dataset.val, dataset.test)
    assert [len(part) for part in parts] == [1213, 135, 449]
    images = torch.cat([part.images for part in parts])
    labels = torch.cat([part.labels for part in parts])
    assert images.min() == 0
    assert images.max() == 1
    bunch = load_digits()
    assert _pairs(images[:, 0] * 16, labels) == _pairs(
        bunch.images.astype(np.float32), bunch.target
    )
    for part in parts:
        assert set(part.labels.tolist()) == set(range(10))


def test_split_is_the_same_for_every_call(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path)
    config = DataConfig("fashion_mnist", root=str(tmp_path), val_fraction=0.25)
    first = load(config)
    load.cache_clear()
    torch.manual_seed(123)
    second = load(config)
    assert second is not first
    for half in ("train", "val", "test"):
        a, b = getattr(first, half), getattr(second, half)
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)
    assert first.fingerprint == second.fingerprint


@pytest.mark.parametrize(("fraction", "held_out"), [(0.1, 20), (0.5, 100), (0.001, 1)])
def test_validation_is_disjoint_from_training(
    fraction: float, held_out: int, tmp_path: Path
) -> None:
    truth = write_fashion_mnist(tmp_path, train=200)
    dataset = load(DataConfig("fashion_mnist", root=str(tmp_path), val_fraction=fraction))
    val = _pairs(dataset.val.images, dataset.val.labels)
    train = _pairs(dataset.train.images, dataset.train.labels)
    assert len(val) == held_out
    assert not set(val) & set(train)
    assert set(val) | set(train) == set(_pairs(truth["train"], truth["train_labels"]))


def test_fewer_training_images_keep_validation_and_are_a_part_of_the_more(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path, train=200)
    config = DataConfig("fashion_mnist", root=str(tmp_path))
    whole, part = load(config), load(replace(config, train_images=70))
    assert len(part.train) == 70
    assert torch.equal(part.val.images, whole.val.images)
    assert torch.equal(part.train.images, whole.train.images[:70])
    with pytest.raises(DataError, match=r"`data\.train_images` must be at most 180.*got 181"):
        load(replace(config, train_images=181))


def test_so_few_training_images_that_a_class_has_none_are_refused_with_how_many_it_takes(
    tmp_path: Path,
) -> None:
    write_fashion_mnist(tmp_path, train=200)
    config = DataConfig("fashion_mnist", root=str(tmp_path))
    with pytest.raises(DataError, match="every class has a training image, got 9") as caught:
        load(replace(config, train_images=9))
    enough = int(re.findall(r"at least (\d+)", str(caught.value))[0])
    assert len(load(replace(config, train_images=enough)).train.labels.unique()) == 10
    with pytest.raises(DataError, match=f"at least {enough}"):
        load(replace(config, train_images=enough - 1))


@given(
    counts=st.lists(st.integers(1, 6), min_size=2, max_size=8),
    fraction=st.floats(0.01, 0.6),
)
def test_images_are_held_out_at_random_but_never_all_of_a_class(
    counts: list[int], fraction: float
) -> None:
    labels = torch.cat([torch.full((n,), i) for i, n in enumerate(counts)])
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SPLIT_SEED))
    plain = order[: max(1, round(fraction * len(labels)))]
    try:
        held, rest = hold_out(labels, fraction)
    except DataError:
        assert all(counts[label] == 1 for label in labels[plain].tolist())
        return
    assert sorted(torch.cat([held, rest]).tolist()) == list(range(len(labels)))
    assert set(labels[rest].tolist()) == set(range(len(counts)))
    assert set(held.tolist()) <= set(plain.tolist())
    left = set(labels[order[len(plain) :]].tolist())
    if left == set(range(len(counts))):  # nothing to mend: the plain random split
        assert torch.equal(held, plain)
        assert torch.equal(rest, order[len(plain) :])


def test_validation_that_leaves_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path)
    with pytest.raises(DataError, match="val_fraction"):
        load(DataConfig("fashion_mnist", root=str(tmp_path), val_fraction=0.99))


def test_fingerprint_tells_one_changed_byte(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path / "a")
    write_fashion_mnist(tmp_path / "b")
    path = tmp_path / "b" / "FashionMNIST" / "raw" / "t10k-images-idx3-ubyte"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    first = load(DataConfig("fashion_mnist", root=str(tmp_path / "a")))
    other_split = load(DataConfig("fashion_mnist", root=str(tmp_path / "a"), val_fraction=0.5))
    changed = load(DataConfig("fashion_mnist", root=str(tmp_path / "b")))
    assert len(first.fingerprint) == 12
    int(first.fingerprint, 16)
    assert first.fingerprint == other_split.fingerprint
    assert first.fingerprint != changed.fingerprint


def test_images_of_different_sizes_need_image_size(tmp_path: Path) -> None:
    write_imagefolder(tmp_path)
    Image.fromarray(np.full((9, 9), 100, dtype=np.uint8)).save(tmp_path / "train/cat/grey.png")
    config = DataConfig("imagefolder", root=str(tmp_path))
    with pytest.raises(DataError, match=r"`data\.image_size`"):
        load(config)
    dataset = load(replace(config, image_size=4))
    assert dataset.image_shape == (3, 4, 4)
    assert dataset.train.images.shape[1:] == (3, 4, 4)
    images = torch.cat([dataset.train.images, dataset.val.images])
    grey = (images == 100).flatten(1).all(dim=1)
    assert grey.sum() == 1


def test_folders_that_differ_in_their_classes_are_refused(tmp_path: Path) -> None:
    write_imagefolder(tmp_path)
    (tmp_path / "test" / "dog").rename(tmp_path / "test" / "wolf")
    with pytest.raises(DataError, match="only train/ has 'dog' and only test/ has 'wolf'"):
        load(DataConfig("imagefolder", root=str(tmp_path)))


def _crops(image: Tensor, crop: int, flip: bool) -> dict[tuple[int, int, bool], Tensor]:
    """Cut every crop out of one zero-padded image by plain slicing."""
    _, height, width = image.shape
    padded = torch.zeros(image.shape[0], height + 2 * crop, width + 2 * crop)
    padded[:, crop : crop + height, crop : crop + width] = image
    crops = {}
    for top in range(2 * crop + 1):
        for left in range(2 * crop + 1):
            cut = padded[:, top : top + height, left : left + width]
            crops[top, left, False] = cut
            if flip:
                crops[top, left, True] = torch.stack([row.flip(-1) for row in cut])
    return crops


@given(
    crop=st.integers(0, 2),
    flip=st.booleans(),
    channels=st.integers(1, 3),
    height=st.integers(3, 5),
    width=st.integers(3, 5),
    seed=st.integers(0, 2**31),
)
def test_augmented_image_is_one_of_its_own_crops(
    crop: int, flip: bool, channels: int, height: int, width: int, seed: int
) -> None:
    source = torch.Generator().manual_seed(seed)
    images = torch.rand(5, channels, height, width, generator=source)
    out = augment(images, crop, flip, generator=source)
    assert out.shape == images.shape
    for image, result in zip(images, out, strict=True):
        matches = [k for k, v in _crops(image, crop, flip).items() if torch.equal(v, result)]
        assert len(matches) == 1


def test_every_offset_and_both_sides_are_drawn_equally_often(generator: torch.Generator) -> None:
    image = torch.rand(1, 3, 3, generator=generator)
    out = augment(image.expand(1800, 1, 3, 3), 1, True, generator=generator)
    crops = _crops(image, 1, True)
    counts = [int((out == crop).flatten(1).all(dim=1).sum()) for crop in crops.values()]
    assert len(counts) == 18
    assert sum(counts) == 1800
    deviation = (1800 * (1 / 18) * (17 / 18)) ** 0.5
    assert all(abs(count - 100) < 5 * deviation for count in counts)


def test_augmentation_repeats_with_its_generator_and_leaves_its_input_alone() -> None:
    images = torch.rand(8, 3, 6, 6)
    before = images.clone()

    def run(seed: int) -> Tensor:
        return augment(images, 2, True, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
    assert torch.equal(images, before)


def test_without_crop_and_flip_images_are_unchanged(generator: torch.Generator) -> None:
    images = torch.rand(4, 3, 6, 6)
    assert torch.equal(augment(images, 0, False, generator=generator), images)


def test_bytes_become_numbers_in_the_unit_interval() -> None:
    images = torch.tensor([0, 51, 255], dtype=torch.uint8)
    assert unit(images).tolist() == pytest.approx([0.0, 0.2, 1.0])
    assert unit(images).dtype == torch.float32
    floats = torch.rand(3)
    assert torch.equal(unit(floats), floats)


def test_head_of_a_split_is_its_first_images() -> None:
    split = Split(torch.arange(5.0).view(5, 1, 1, 1), torch.arange(5))
    assert split.head(2).labels.tolist() == [0, 1]
    assert split.head(2).images.flatten().tolist() == [0.0, 1.0]
    assert len(split.head(None)) == len(split.head(9)) == 5


def test_augmentation_is_the_data_sets_custom_unless_it_is_given() -> None:
    resolved = DataConfig("cifar10").resolved()
    assert (resolved.crop, resolved.flip) == (4, True)
    resolved = DataConfig("svhn").resolved()
    assert (resolved.crop, resolved.flip) == (0, False)
    resolved = DataConfig("stl10", crop=0, flip=False).resolved()
    assert (resolved.crop, resolved.flip) == (0, False)
    assert AUGMENTATION.keys() <= READERS.keys()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("val_fraction", 0.0),
        ("val_fraction", 1.0),
        ("train_images", 0),
        ("image_size", 0),
        ("image_size", 32),
        ("crop", -1),
    ],
)
def test_data_config_refuses_values_out_of_range_by_name(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"`{key}`"):
        DataConfig("digits", **{key: value})  # type: ignore[arg-type]


def test_unknown_data_set_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match="'cifar'; did you mean 'cifar10'"):
        DataConfig("cifar")
