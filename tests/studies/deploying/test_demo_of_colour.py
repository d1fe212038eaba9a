"""The demo of a model that takes colour, any λ and two widths; and images of one's own."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

import studies
from oat.data import unit
from studies.deploying.demo_server import DemoPage
from studies.deploying.own_images import bytes_of, own_image, png_of
from studies.study_file.loading import load_study
from tests.oat.data.files import noise
from tests.studies.conftest import TrainAll
from tests.studies.deploying.asking import ask, pixels_of
from tests.studies.pictures import draw


@pytest.fixture(scope="module")
def colour(
    tiny_file: Path, train_all: TrainAll, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[DemoPage, Any]]:
    """The demo of a model that takes colour, any λ and two widths; and the model."""
    folder = tmp_path_factory.mktemp("colour")
    draw(folder / "pictures")
    method = "{name: oats, lambda_choices: [0, 1], width_mults: [0.5, 1], encoding: continuous}"
    changes = [f"methods=[{method}]", f"data={{name: imagefolder, root: {folder / 'pictures'}}}"]
    study = load_study(tiny_file, [*changes, "train.batch_size=8", "train.val_images=4"])
    train_all(study, folder)
    with studies.demo(study, storage=folder, port=0) as found:
        yield found, studies.load_model(study, storage=folder)


def _file(image: Image.Image, kind: str = "PNG", **how: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def test_any_lam_and_width_of_the_model_can_be_asked_for(colour: tuple[DemoPage, Any]) -> None:
    page, model = colour
    for lam, width in ((0.37, 0.5), (1, 1), (0, 0.5)):
        wanted = {"index": 1, "lam": lam, "width": width, "steps": 2}
        told = ask(page, "look", wanted).json
        image = unit(pixels_of(told["image"]))[None]
        with torch.no_grad():
            expected = model.at(lam, width)(image)[0].softmax(0)
        torch.testing.assert_close(torch.tensor(told["probabilities"]), expected)
        assert bool(told["found"]) == (lam in (0, 1))  # the others were not judged
        assert ask(page, "attack", wanted).code == 200


@pytest.mark.parametrize("kind", ["grey", "colour"])
def test_an_image_of_ones_own_is_read_as_image_folders_are_and_then_as_it_is(
    kind: str, page: DemoPage, colour: tuple[DemoPage, Any]
) -> None:
    here = page if kind == "grey" else colour[0]
    photo = Image.fromarray(noise(5, 20, 30, 3))
    turned = Image.Exif()
    turned[274] = 3
    read = ask(here, "image?name=a.png", _file(photo, exif=turned)).json
    assert read["done"] == ["turned or mirrored, as EXIF says"]
    expected = photo.transpose(Image.Transpose.ROTATE_180).resize((8, 8), 2)
    if kind == "grey":
        expected = expected.convert("L")
    assert torch.equal(pixels_of(read["image"]), pil_to_tensor(expected))
    wanted = {"image": read["image"], "lam": 1, "width": 1, "steps": 3}
    told, after = (ask(here, name, wanted).json for name in ("look", "attack"))
    assert told["image"] == read["image"]
    assert told["label"] is None
    # the attack leads away from what the model says of it
    assert after["robust"] == (after["prediction"] == told["prediction"])


def test_a_grey_image_and_its_png_are_the_same() -> None:
    for channels in (1, 3):
        image = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16).expand(channels, -1, -1)
        again, done = own_image(bytes_of(png_of(image)), "a.png", (channels, 16, 16))
        assert torch.equal(again, image)
        assert done == ()
        assert torch.equal(pixels_of(png_of(image / 255)), image)
