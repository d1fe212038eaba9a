"""Folders of images: what is a class, what is left out and said, what is refused with a cure."""

import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from oat.data import DataConfig, DataError, Dataset, count_images, load, repeated_images
from oat.data.folders import find_images
from oat.data.imagefolder import read_imagefolder
from tests.oat.data.files import as_nobody, folder_of, noise, save


@pytest.fixture(autouse=True)
def _nothing_in_memory() -> None:
    load.cache_clear()


def _load(root: Path, image_size: int | None = None) -> Dataset:
    return load(DataConfig("imagefolder", root=str(root), image_size=image_size))


def _refusal(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        _load(root)
    said = str(caught.value)
    assert str(root) in said
    assert "\n" not in said
    return said


def test_images_and_classes_are_in_the_order_of_torchvision(tmp_path: Path) -> None:
    for number, place in enumerate(["b", "a b", "C", "a b/x", "a b/x y", "a b/x/y", "é"]):
        for i in (10, 2):
            save(tmp_path / "train" / place / f"{i}.png", 10 * number + i)
    found = find_images(tmp_path, "train").files
    known = ImageFolder(str(tmp_path / "train"))
    assert list(found) == known.classes
    numbered = [(str(path), i) for i, paths in enumerate(found.values()) for path in paths]
    assert numbered == known.samples


@pytest.mark.parametrize("half", ["train", "test"])
def test_the_first_so_many_images_have_all_classes_in_their_shares(
    half: str, tmp_path: Path
) -> None:
    root = folder_of(tmp_path, ("ant", "bee", "cow"))
    for i in range(50):
        save(root / half / "bee" / f"more-{i}.png", 20_000 + i)
    source = read_imagefolder(DataConfig("imagefolder", root=str(root)))
    labels = (source.train if half == "train" else source.test).labels
    share = labels.bincount() / len(labels)
    for count in range(1, len(labels)):
        found = labels[:count].bincount(minlength=3)
        assert (found - count * share).abs().max() < 1.5
    assert (labels == 1).sum() > 50


def _same_without(root: Path, *more: Callable[[Path], object]) -> Dataset:
    """Load a folder with something more in it that must not count."""
    plain = _load(folder_of(root / "plain"))
    for add in more:
        add(folder_of(root / "more"))
    found = _load(root / "more")
    assert found.fingerprint == plain.fingerprint
    assert found.classes == ("cat", "dog")
    return found


HIDDEN: dict[str, Callable[[Path], object]] = {
    "checkpoints as a class": lambda root: save(root / "train/.ipynb_checkpoints/0.png"),
    "checkpoints in a class": lambda root: save(root / "train/cat/.ipynb_checkpoints/0.png"),
    "macOS": lambda root: save(root / "train/__MACOSX/cat/0.png"),
    "git": lambda root: save(root / "train/.git/objects/0.png"),
    "AppleDouble": lambda root: (root / "train/cat/._0.png").write_bytes(b"\0\5\x16\7"),
    "Thumbs.db": lambda root: (root / "train/cat/Thumbs.db").write_bytes(b"x"),
    "DS_Store": lambda root: (root / "train/.DS_Store").write_bytes(b"x"),
    "Synology": lambda root: save(root / "train/cat/@eaDir/0.png"),
}


@pytest.mark.parametrize("kind", HIDDEN)
def test_hidden_and_system_files_are_left_out_and_counted(kind: str, tmp_path: Path) -> None:
    (remark,) = _same_without(tmp_path, HIDDEN[kind]).remarks
    assert remark == f"Left out below '{tmp_path}/more/train': 1 hidden or system."


def test_what_is_no_image_is_left_out_and_counted_by_its_ending(tmp_path: Path) -> None:
    def add(root: Path) -> None:
        for name in ("a.HEIC", "b.heic", "notes.txt", "README"):
            (root / "train" / "cat" / name).write_bytes(b"x")
        save(root / "test" / "loose.png")

    train, test = _same_without(tmp_path, add).remarks
    assert train.endswith("train': 2 .heic, 1 .txt, 1 without an extension.")
    assert test.endswith("test': 1 in no class folder.")


@pytest.mark.parametrize("ending", [".jfif", ".gif", ".avif", ".jpe", ".JPG"])
def test_images_of_other_endings_are_read(ending: str, tmp_path: Path) -> None:
    folder_of(tmp_path)
    kind = "JPEG" if ending.startswith(".j") or ending == ".JPG" else None
    path = tmp_path / "train" / "cat" / f"new{ending}"
    Image.fromarray(noise(99, 6, 5, 3)).save(path, kind)
    found = _load(tmp_path)
    assert len(found.train) + len(found.val) == 11
    assert found.remarks == ()


def test_other_folders_beside_the_two_are_named(tmp_path: Path) -> None:
    folder_of(tmp_path)
    save(tmp_path / "val" / "cat" / "0.png")
    assert _load(tmp_path).remarks == (
        f"Not read: 'val' beside train/ and test/ below '{tmp_path}'.",
    )


def test_one_class_folder_with_classes_in_it_is_refused_with_a_hint_at_the_level(
    tmp_path: Path,
) -> None:
    folder_of(tmp_path / "x")
    for half in ("train", "test"):
        (tmp_path / half).mkdir()
        (tmp_path / "x" / half).rename(tmp_path / half / "data")
    said = _refusal(tmp_path)
    assert "two class folders or more" in said
    assert "'data', with 'cat', 'dog' in it" in said
    assert "one level too deep" in said


def test_several_folders_with_the_same_classes_in_each_are_told(tmp_path: Path) -> None:
    for half in ("train", "test"):
        for part in ("part1", "part2"):
            for number, name in enumerate(("cat", "dog")):
                save(tmp_path / half / part / name / "0.png", number)
    train, test = _load(tmp_path).remarks
    assert "sub-folders 'cat', 'dog'" in train
    assert "if these are the classes, move them up" in train
    assert "test'" in test


def test_classes_with_one_folder_of_images_each_are_fine(tmp_path: Path) -> None:
    for i, name in enumerate(("cat", "dog")):
        for half in ("train", "test"):
            for k in range(3):
                save(
                    tmp_path / half / name / "images" / f"{k}.png",
                    10 * i + k + 100 * (half == "test"),
                )
    assert _load(tmp_path).remarks == ()


def test_images_in_no_class_folder_are_refused_with_a_hint(tmp_path: Path) -> None:
    for half in ("train", "test"):
        for i in range(3):
            save(tmp_path / half / f"{i}.png", i)
    assert "its images (3) lie in none: sort them into a folder for each class" in _refusal(
        tmp_path
    )


def test_one_class_and_none_are_refused(tmp_path: Path) -> None:
    assert "it has one, 'cat'" in _refusal(folder_of(tmp_path / "one", ("cat",)))
    for half in ("train", "test"):
        (tmp_path / "none" / half).mkdir(parents=True)
    assert "it has none" in _refusal(tmp_path / "none")


def test_a_class_without_an_image_is_refused_with_what_is_an_image(tmp_path: Path) -> None:
    folder_of(tmp_path)
    (tmp_path / "train" / "bird").mkdir()
    (tmp_path / "train" / "bird" / "0.heic").write_bytes(b"x")
    said = _refusal(tmp_path)
    assert f"'{tmp_path}/train/bird' has no image" in said
    assert ".jpeg" in said


@pytest.mark.parametrize(
    "other", ["Cat", "cat ", unicodedata.normalize("NFD", "café")], ids=["case", "space", "NFD"]
)
def test_classes_that_read_the_same_are_told(other: str, tmp_path: Path) -> None:
    first = "café" if "caf" in other else "cat"
    folder_of(tmp_path, (first, "dog"))
    save(tmp_path / "train" / other / "0.png", 77)
    save(tmp_path / "test" / other / "0.png", 78)
    found = _load(tmp_path)
    assert found.num_classes == 3
    for remark, half in zip(found.remarks, ("train", "test"), strict=True):
        assert f"below '{tmp_path}/{half}' are classes of their own" in remark
        assert f"'{first}'" in remark
        assert f"'{other}'" in remark


def test_halves_of_other_classes_are_refused_with_which_has_which(tmp_path: Path) -> None:
    folder_of(tmp_path, ("cat", "dog", "eel"))
    shutil.rmtree(tmp_path / "test" / "eel")
    assert "must have the same classes, but only train/ has 'eel'" in _refusal(tmp_path)
    (tmp_path / "test" / "dog").rename(tmp_path / "test" / "Dog")
    assert "only train/ has 'dog', 'eel' and only test/ has 'Dog'" in _refusal(tmp_path)


MISSES: dict[str, tuple[Callable[[Path], object], str]] = {
    "nowhere": (shutil.rmtree, "is not there, or may not be entered"),
    "a file": (lambda r: (shutil.rmtree(r), r.write_bytes(b"PK")), "archive, unpack it"),
    "empty": (lambda r: [shutil.rmtree(r / h) for h in ("train", "test")], "it is empty"),
    "no test": (
        lambda r: (r / "test").rename(r / "other"),
        "has no 'test'; it has 'other', 'train'",
    ),
    "val": (lambda r: (r / "test").rename(r / "val"), "no 'test'; if 'val' is meant, rename it"),
    "Test": (lambda r: (r / "test").rename(r / "Test"), "if 'Test' is meant, rename it"),
    "training": (lambda r: (r / "train").rename(r / "training"), "if 'training' is meant"),
    "a level above": (
        lambda r: (r.rename(r.parent / "x"), r.mkdir(), (r.parent / "x").rename(r / "pets")),
        "'pets' in it has 'train': give",
    ),
    "classes alone": (
        lambda r: (
            [(r / "train" / c).rename(r / c) for c in ("cat", "dog")] + [shutil.rmtree(r / "train")]
        ),
        "has no 'train'; it has 'cat', 'dog', 'test'",
    ),
    "train is a file": (
        lambda r: (shutil.rmtree(r / "train"), (r / "train").write_bytes(b"x")),
        "'train' in it is a file",
    ),
}


@pytest.mark.parametrize("kind", MISSES)
def test_another_layout_is_refused_with_what_may_be_meant(kind: str, tmp_path: Path) -> None:
    spoil, words = MISSES[kind]
    spoil(folder_of(tmp_path / "root"))
    said = _refusal(tmp_path / "root")
    assert said.startswith("`data.root` '")
    assert "train/<class>/<image>" in said
    assert words in said


def test_the_train_folder_itself_is_refused_with_the_one_above(tmp_path: Path) -> None:
    assert "give the folder above" in _refusal(folder_of(tmp_path) / "train")


def test_links_are_followed_but_not_in_a_circle(tmp_path: Path) -> None:
    def add(root: Path) -> None:
        for name, above in (("x", "."), ("y", ".."), ("z", "../..")):
            (root / "train" / "cat" / name).symlink_to(above, target_is_directory=True)
        (root / "train" / "dog").rename(root / "elsewhere")
        (root / "train" / "dog").symlink_to("../elsewhere", target_is_directory=True)

    remarks = _same_without(tmp_path, add).remarks
    assert remarks[0].endswith("train': 3 looped link.")


def test_a_broken_link_and_a_pipe_are_refused_by_their_path(tmp_path: Path) -> None:
    folder_of(tmp_path)
    path = tmp_path / "train" / "cat" / "z.png"
    path.symlink_to("nowhere.png")
    assert f"'{path}' is no file" in _refusal(tmp_path)
    path.unlink()
    os.mkfifo(path)
    assert f"'{path}' is no file" in _refusal(tmp_path)


def test_a_folder_named_like_an_image_is_a_folder(tmp_path: Path) -> None:
    folder_of(tmp_path)
    (tmp_path / "train" / "cat" / "more.jpg").mkdir()
    (tmp_path / "train" / "cat" / "0.png").rename(tmp_path / "train/cat/more.jpg/0.png")
    assert len(_load(tmp_path).train) == 9


def test_a_folder_that_may_not_be_read_is_refused_by_its_path(tmp_path: Path) -> None:
    folder_of(tmp_path)
    (tmp_path / "train" / "cat").chmod(0)
    try:
        with as_nobody(tmp_path):
            assert f"'{tmp_path}/train/cat' cannot be read (Permission denied)" in _refusal(
                tmp_path
            )
    finally:
        (tmp_path / "train" / "cat").chmod(0o755)


def test_a_broken_image_is_refused_by_its_path_whichever_it_is(tmp_path: Path) -> None:
    folder_of(tmp_path)
    path = tmp_path / "test" / "dog" / "1.png"
    path.write_bytes(path.read_bytes()[:60])
    assert f"'{path}' cannot be read as an image" in _refusal(tmp_path)


def test_sizes_must_agree_across_the_halves_as_well(tmp_path: Path) -> None:
    folder_of(tmp_path)
    for path in (tmp_path / "test").rglob("*.png"):
        Image.fromarray(noise(1, 9, 8, 3)).save(path)
    with pytest.raises(DataError, match=r"cat/0\.png' is 5x6, '.*test/cat/0\.png' is 8x9; set"):
        _load(tmp_path)
    assert _load(tmp_path, 4).image_shape == (3, 4, 4)


def test_what_was_done_to_images_is_told_with_their_number(tmp_path: Path) -> None:
    folder_of(tmp_path)
    Image.fromarray(noise(1, 6, 5)).save(tmp_path / "train/cat/grey.png")
    Image.fromarray(noise(2, 6, 5, 4)).save(tmp_path / "test/dog/glass.png")
    for i in range(2):
        image = Image.fromarray(noise(3 + i, 6, 5).astype(np.uint16) * 200)
        image.save(tmp_path / f"train/dog/deep{i}.png")
    (remark,) = _load(tmp_path).remarks
    assert remark == (
        "Of 18 images: 1 with transparent pixels, laid over white; 2 with 16 bits (or more than "
        "8), scaled to 8; 3 grey, with three equal channels."
    )


def test_a_grey_folder_is_not_told_to_be_grey(tmp_path: Path) -> None:
    for half in ("train", "test"):
        for number, name in enumerate(("cat", "dog")):
            for i in range(3):
                path = save(tmp_path / half / name / f"{i}.png")
                Image.fromarray(noise(100 * number + i + (half == "test") * 50, 6, 5)).save(path)
    assert _load(tmp_path).remarks == ()


def test_what_pillow_warns_of_is_told_with_the_first_path(tmp_path: Path) -> None:
    folder_of(tmp_path)
    path = tmp_path / "train" / "cat" / "0.png"
    path.write_bytes(path.read_bytes())
    image = Image.fromarray(noise(7, 6, 5, 3))
    image.save(path.with_suffix(".tif"), compression="tiff_lzw")
    data = bytearray(path.with_suffix(".tif").read_bytes())
    data += b"\0"  # the directory of a second page begins nowhere
    place = int.from_bytes(data[4:8], "little")
    entries = int.from_bytes(data[place : place + 2], "little")
    end = place + 2 + 12 * entries
    data[end : end + 4] = (len(data) - 1).to_bytes(4, "little")
    path.with_suffix(".tif").write_bytes(data)
    found = _load(tmp_path)
    assert torch.is_tensor(found.train.images)
    assert all("\n" not in remark for remark in found.remarks)


def test_images_of_every_class_are_counted_for_every_split(tmp_path: Path) -> None:
    found = _load(folder_of(tmp_path))
    columns = [
        f"{name} " + "/".join(str(int((part.labels == i).sum())) for part in parts)
        for i, name in enumerate(("cat", "dog"))
        for parts in [(found.train, found.val, found.test)]
    ]
    assert count_images(found) == (
        f"9 training, 1 held-out, 4 test images; by class (training/held-out/test) "
        f"{', '.join(columns)}"
    )


def test_many_classes_are_summed_up(tmp_path: Path) -> None:
    names = tuple(f"{i:03d}" for i in range(25))
    found = _load(folder_of(tmp_path, names, train=2))
    said = count_images(found)
    assert "25 classes with 1 to 2 training, 0 to 1 held-out, 2 to 2 test images each" in said


def test_images_that_stand_twice_are_counted(tmp_path: Path) -> None:
    folder_of(tmp_path)
    assert repeated_images(_load(tmp_path)) == []
    load.cache_clear()
    shutil.copy(tmp_path / "train/cat/0.png", tmp_path / "test/cat/copy.png")
    shutil.copy(tmp_path / "train/cat/1.png", tmp_path / "train/dog/copy.png")
    leaked, wrong = repeated_images(_load(tmp_path))
    assert leaked.endswith(
        "training images, pixel by pixel: 1 of 5. They flatter every accuracy; take them out of "
        "one of the two."
    )
    assert wrong.startswith("Training images that stand in more than one class: 1;")


def test_a_test_folder_that_is_the_training_folder_is_told(tmp_path: Path) -> None:
    folder_of(tmp_path)
    shutil.rmtree(tmp_path / "test")
    (tmp_path / "test").symlink_to("train", target_is_directory=True)
    (leaked,) = repeated_images(_load(tmp_path))
    assert ": 10 of 10. " in leaked


def test_held_out_images_that_are_trained_on_are_counted(tmp_path: Path) -> None:
    folder_of(tmp_path, train=1)
    for name in ("cat", "dog"):
        for i in range(20):
            shutil.copy(tmp_path / f"train/{name}/0.png", tmp_path / f"train/{name}/c{i}.png")
    (twice,) = repeated_images(_load(tmp_path))
    assert twice.endswith("as they stand twice: 4 of 4; keep one of each.")


def test_names_that_are_not_utf8_are_told_as_they_can_be_printed(tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9")
    folder_of(tmp_path, (odd, "dog"))
    assert "caf\\udce9 " in count_images(_load(tmp_path)).encode().decode()
    (tmp_path / "train" / odd / "0.png").write_bytes(b"")
    load.cache_clear()
    assert "caf\\udce9/0.png' cannot be read" in _refusal(tmp_path)


def test_a_link_to_itself_is_refused_by_its_path(tmp_path: Path) -> None:
    folder_of(tmp_path)
    (tmp_path / "train" / "cat" / "self.png").symlink_to("self.png")
    assert "cat/self.png' is no file" in _refusal(tmp_path)
    (tmp_path / "train" / "cat" / "self.png").unlink()
    (tmp_path / "train" / "self").symlink_to("self")
    assert _load(tmp_path).remarks[0].endswith("1 without an extension.")
