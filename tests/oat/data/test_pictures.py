"""An image is read as a viewer shows it, or refused by its path."""

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from oat.data.errors import DataError
from oat.data.pictures import read_picture
from tests.oat.data.files import as_nobody, grey_tiff, noise, png

PIXELS = noise(0, 6, 5, 3)
RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
WHITE = [255, 255, 255]


def _read(path: Path, size: int | None = None) -> tuple[NDArray[np.uint8], set[str]]:
    found = read_picture(path, size)
    return found.pixels.permute(1, 2, 0).numpy(), set(found.oddities)


def _of(data: bytes, path: Path) -> tuple[NDArray[np.uint8], set[str]]:
    path.write_bytes(data)
    return _read(path)


def _plain(path: Path) -> NDArray[np.uint8]:
    """What torchvision's `ImageFolder` makes of a file."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize(
    ("ending", "mode"),
    [(e, m) for e in ("png", "bmp", "tif", "webp", "gif") for m in ("RGB", "L", "1", "P")]
    + [(e, m) for e in ("jpg", "jfif", "ppm", "jp2") for m in ("RGB", "L")],
)
def test_an_image_of_eight_bits_or_fewer_is_read_as_before(
    ending: str, mode: str, tmp_path: Path
) -> None:
    path = tmp_path / f"a.{ending}"
    Image.fromarray(PIXELS).convert(mode).save(path)
    pixels, oddities = _read(path)
    assert np.array_equal(pixels, _plain(path))
    assert oddities <= ({"grey"} if mode in {"L", "1"} else set())
    small = read_picture(path, 4).pixels.permute(1, 2, 0).numpy()
    with Image.open(path) as image:
        assert np.array_equal(small, np.asarray(image.convert("RGB").resize((4, 4), 2)))


def test_an_opaque_alpha_channel_changes_nothing(tmp_path: Path) -> None:
    for mode in ("RGBA", "LA"):
        path = tmp_path / f"{mode}.png"
        Image.fromarray(PIXELS).convert(mode).save(path)
        pixels, oddities = _read(path)
        assert np.array_equal(pixels, _plain(path))
        assert oddities == set()


@pytest.mark.parametrize("ending", ["png", "tif", "pgm", "jp2"])
def test_sixteen_bits_are_scaled_to_the_image_of_eight(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{ending}"
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(path)
    pixels, oddities = _read(path)
    assert np.array_equal(pixels, np.stack([RAMP] * 3, axis=2))
    assert "deep" in oddities


def test_sixteen_bits_are_rounded_to_the_nearest_of_eight(tmp_path: Path) -> None:
    values = np.arange(0, 65536, 7, dtype=np.uint16)[None]
    Image.fromarray(values).save(tmp_path / "a.png")
    pixels, _ = _read(tmp_path / "a.png")
    assert np.array_equal(pixels[..., 0], np.round(values / 65535 * 255).astype(np.uint8))


@pytest.mark.parametrize(("bits", "photometric"), [(12, 1), (16, 1), (16, 0)])
def test_the_bits_and_the_white_of_a_grey_tiff_are_its_own(
    bits: int, photometric: int, tmp_path: Path
) -> None:
    top = 2**bits - 1
    values = [0, top]
    data = struct.pack("<2H", *values) if bits == 16 else bytes([0x00, 0x0F, 0xFF])
    pixels, _ = _of(grey_tiff(2, 1, bits, photometric, data), tmp_path / "a.tif")
    black_first = [[0, 0, 0], WHITE]
    assert pixels[0].tolist() == (black_first if photometric == 1 else black_first[::-1])


def test_images_of_twelve_bits_in_sixteen_are_said_to_be_dark(tmp_path: Path) -> None:
    Image.fromarray(RAMP.astype(np.uint16) * 16).save(tmp_path / "a.png")
    assert _read(tmp_path / "a.png")[1] >= {"deep", "dim"}


@pytest.mark.parametrize("kind", [np.float32, np.int32])
@pytest.mark.parametrize("top", [1, 255])
def test_pixels_without_a_scale_are_refused_by_the_files_name(
    kind: type, top: int, tmp_path: Path
) -> None:
    path = tmp_path / "scan.tif"
    Image.fromarray(np.full((4, 4), top, dtype=kind)).save(path)
    with pytest.raises(DataError, match=r"scan\.tif.*which value is white.*8 or 16 bits"):
        read_picture(path, None)


TURNS: dict[int, Any] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "webp", "avif"])
@pytest.mark.parametrize("orientation", TURNS)
def test_an_image_is_turned_once_as_exif_says(
    orientation: int, ending: str, tmp_path: Path
) -> None:
    exact = {"lossless": True} if ending == "webp" else {}
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(PIXELS).save(tmp_path / f"plain.{ending}", **exact)
    Image.fromarray(PIXELS).save(tmp_path / f"turned.{ending}", exif=exif, **exact)
    pixels, oddities = _read(tmp_path / f"turned.{ending}")
    assert np.array_equal(pixels, TURNS[orientation](_plain(tmp_path / f"plain.{ending}")))
    assert oddities == ({"turned"} if orientation > 1 else set())


def test_an_orientation_that_does_not_exist_and_broken_exif_turn_nothing(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 9
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(_read(tmp_path / "a.png")[0], PIXELS)
    Image.fromarray(PIXELS).save(tmp_path / "b.png", exif=b"Exif\0\0nonsense")
    pixels, oddities = _read(tmp_path / "b.png")
    assert np.array_equal(pixels, PIXELS)
    assert oddities == {"exif"}


def _rgba(path: Path) -> None:
    alpha = np.full((6, 5, 1), 255, dtype=np.uint8)
    alpha[0, 0] = 0
    Image.fromarray(np.concatenate([PIXELS, alpha], axis=2)).save(path, lossless=True)


@pytest.mark.parametrize("ending", ["png", "webp", "tif"])
def test_transparent_pixels_are_white_and_the_others_as_they_are(
    ending: str, tmp_path: Path
) -> None:
    path = tmp_path / f"a.{ending}"
    _rgba(path)
    pixels, oddities = _read(path)
    assert pixels[0, 0].tolist() == WHITE
    expected = PIXELS.copy()
    expected[0, 0] = 255
    assert np.array_equal(pixels, expected)
    assert oddities == {"transparent"}


def test_half_transparent_pixels_are_half_white(tmp_path: Path) -> None:
    Image.new("LA", (1, 1), (0, 51)).save(tmp_path / "a.png")  # a fifth black
    pixels, oddities = _read(tmp_path / "a.png")
    assert pixels[0, 0].tolist() == [204] * 3
    assert oddities == {"transparent"}


@pytest.mark.parametrize(("key", "ending"), [(0, "png"), (0, "gif"), (b"\0\xff\x80", "png")])
def test_a_transparent_entry_of_a_palette_is_white(
    key: int | bytes, ending: str, tmp_path: Path
) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / f"a.{ending}", transparency=key)
    pixels, oddities = _read(tmp_path / f"a.{ending}")
    assert pixels[0].tolist() == [WHITE, [40, 50, 60]]
    assert oddities == {"transparent"}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (png(2, 1, 1, 0, [b"\x40"], 0), [255, 255]),
        (png(4, 1, 2, 0, [b"\x1b"], 2), [0, 85, 255, 255]),
        (png(4, 1, 4, 0, [b"\x0f\x3a"], 3), [0, 255, 255, 170]),
        (png(2, 1, 8, 0, [b"\x07\x08"], 7), [255, 8]),
        (png(2, 1, 16, 0, [struct.pack(">2H", 257, 514)], 257), [255, 2]),
        (png(2, 1, 8, 2, [b"\1\1\1\2\2\2"], 1, 1, 1), [255, 2]),
        (png(2, 1, 16, 2, [struct.pack(">6H", *[257] * 3, *[514] * 3)], 257, 257, 257), [255, 2]),
        (png(2, 1, 16, 4, [struct.pack(">4H", 257, 0, 514, 65535)]), [255, 2]),
    ],
    ids=["grey1", "grey2", "grey4", "grey8", "grey16", "rgb8", "rgb16", "la16"],
)
def test_the_transparent_colour_of_a_png_is_white_at_every_depth(
    data: bytes, expected: list[int], tmp_path: Path
) -> None:
    pixels, oddities = _of(data, tmp_path / "a.png")
    assert pixels[0, :, 0].tolist() == expected
    assert "transparent" in oddities


@pytest.mark.parametrize("ending", ["gif", "webp", "tif", "png"])
def test_of_several_frames_the_first_is_read(ending: str, tmp_path: Path) -> None:
    frames = [Image.fromarray(noise(i, 6, 5, 3)).convert("1").convert("RGB") for i in range(3)]
    more = {"lossless": True} if ending == "webp" else {}
    frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:], **more)
    pixels, oddities = _read(tmp_path / f"a.{ending}")
    assert np.array_equal(pixels, np.asarray(frames[0]))
    assert "frames" in oddities


def test_cmyk_is_converted_as_pillow_does_and_said(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).convert("CMYK").save(tmp_path / "a.jpg")
    pixels, oddities = _read(tmp_path / "a.jpg")
    assert np.array_equal(pixels, _plain(tmp_path / "a.jpg"))
    assert oddities == {"cmyk"}


def test_a_pixel_alone_is_an_image(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "a.png")
    assert _read(tmp_path / "a.png")[0].tolist() == [[[1, 2, 3]]]


def test_an_image_in_memory_is_read_as_its_file_is_and_to_any_height_and_width(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(path)
    data, nowhere = path.read_bytes(), tmp_path / "not there.png"
    assert torch.equal(read_picture(nowhere, None, data).pixels, read_picture(path, None).pixels)
    small = read_picture(nowhere, (3, 2), data).pixels.permute(1, 2, 0).numpy()
    assert np.array_equal(small, np.asarray(Image.fromarray(PIXELS).resize((2, 3), 2)))
    for odd, reason in ((b"", "it is empty"), (b"text", "it is none that Pillow knows")):
        assert f"({reason})" in _refusal(nowhere, odd)


def _refusal(path: Path, data: bytes | None = None) -> str:
    with pytest.raises(DataError) as caught:
        read_picture(path, None, data)
    said = str(caught.value)
    assert f"'{path}'" in said
    assert said.count(str(path)) == 1
    assert "\n" not in said
    return said


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "webp", "gif", "bmp", "jp2", "avif"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_a_file_that_is_cut_off_is_refused_by_its_path(
    share: float, ending: str, tmp_path: Path
) -> None:
    path = tmp_path / f"a.{ending}"
    Image.fromarray(noise(0, 40, 40, 3)).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    assert "replace or remove it" in _refusal(path)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "it is empty"),
        (b"A text.", "none that Pillow knows"),
        (b"\0\5\x16\7" + bytes(80), "none that Pillow knows"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "none that Pillow knows"),
    ],
)
def test_a_file_of_something_else_is_refused_by_its_path(
    data: bytes, word: str, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(data)
    assert word in _refusal(tmp_path / "a.png")


def test_a_decompression_bomb_is_refused_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(20_000, 20_000, 8, 2, [b""]))
    assert "make it smaller" in _refusal(tmp_path / "a.png")


def test_a_file_that_may_not_be_read_is_refused_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(path)
    path.chmod(0)
    with as_nobody(tmp_path):
        assert "Permission denied" in _refusal(path)


SEEDS = []
for _ending in ("PNG", "JPEG", "TIFF", "GIF", "WEBP", "AVIF", "BMP"):
    _file = io.BytesIO()
    Image.fromarray(PIXELS).save(_file, _ending)
    SEEDS.append(_file.getvalue())


@given(
    seed=st.sampled_from(SEEDS),
    edits=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6),
)
def test_whatever_bytes_a_file_has_it_is_read_or_refused_by_its_path(
    seed: bytes, edits: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = bytearray(seed)
    for place, value in edits:
        data[place % len(data)] = value
    path = tmp_path_factory.mktemp("fuzz") / "a.png"
    path.write_bytes(data)
    said = str(path)
    try:
        read_picture(path, None)
    except DataError as error:
        said = str(error)
    assert str(path) in said
