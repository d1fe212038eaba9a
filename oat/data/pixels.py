"""The pixels of an image as a viewer shows them: upright, over white, in eight bits of RGB."""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from oat.data.errors import DataError

ODDITIES = {
    "turned": "{n} turned or mirrored, as EXIF says",
    "exif": "{n} with EXIF that cannot be read, taken for upright",
    "transparent": "{n} with transparent pixels, laid over white",
    "deep": "{n} with 16 bits (or more than 8), scaled to 8",
    "dim": "{n} of more than 8 bits that stay below an eighth of their range and so are dark "
    "(if the camera has fewer bits than the file, rescale them)",
    "frames": "{n} with several frames or pages, of which the first is read",
    "cmyk": "{n} in CMYK, converted without a colour profile",
    "grey": "{n} grey, with three equal channels",
}
"""What is done to some images, and how the user is told of so many."""

FAULTS = (
    OSError,
    RuntimeError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    OverflowError,
    struct.error,
    zlib.error,
)
"""What Pillow raises of files that are cut off, damaged or no images."""


def as_rgb(image: Image.Image, path: Path, oddities: set[str]) -> Image.Image:
    """Return what a viewer shows: upright, over white, in eight bits of red, green and blue."""
    layout = _layout(image)  # known until its pixels are loaded
    if getattr(image, "is_animated", False) and image.format != "MPO":  # a phone's JPEG
        oddities.add("frames")
    if getattr(image, "tag_v2", {}).get(ORIENTATION) in TURNED:  # Pillow turns a TIFF as it loads
        oddities.add("turned")
    if ";16" in layout or image.mode.startswith("I;16"):
        oddities.add("deep")
    if image.mode == "F" or (image.mode == "I" and image.format not in {"PNG", "PPM"}):
        kind = "floating-point" if image.mode == "F" else "32-bit or signed"
        raise DataError(
            f"'{path}' has {kind} pixels, and nothing says which value is white; save it with 8 "
            "or 16 bits."
        )
    image.load()
    _settle_key(image, layout)
    found = _upright(image, oddities)
    if found.mode.startswith("I"):
        found = _scaled(found, *_depth(image), oddities)
    if found.mode == "CMYK":
        oddities.add("cmyk")
    if found.has_transparency_data:
        found = _over_white(found, oddities)
    if found.mode in {"1", "L"}:
        oddities.add("grey")
    return found.convert("RGB")


ORIENTATION, BITS, PHOTOMETRIC = 274, 258, 262
"""Numbers of tags in EXIF and TIFF."""
TURNED = range(2, 9)
"""Orientations that are not upright."""


def _upright(image: Image.Image, oddities: set[str]) -> Image.Image:
    """Turn a loaded image as EXIF says."""
    try:
        if image.getexif().get(ORIENTATION) in TURNED:
            oddities.add("turned")
        return ImageOps.exif_transpose(image)
    except FAULTS:  # the pixels have been read: these are of EXIF
        oddities.add("exif")
        return image


def _layout(image: Image.Image) -> str:
    """Return how the file lays out its pixels, in Pillow's words."""
    tiles = getattr(image, "tile", [])
    args = tiles[0].args if tiles else ""
    return str(args[0] if isinstance(args, tuple) and args else args)


def _settle_key(image: Image.Image, layout: str) -> None:
    """Bring a PNG's transparent colour to the scale that Pillow has brought the pixels to."""
    key = image.info.get("transparency")
    if isinstance(key, int) and layout in {"L;2", "L;4"}:
        image.info["transparency"] = key * {"L;2": 85, "L;4": 17}[layout]
    elif isinstance(key, tuple) and layout == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in key)


def _depth(image: Image.Image) -> tuple[int, bool]:
    """Return the bits of a grey image that has more than 8, and whether 0 is its white."""
    tags = getattr(image, "tag_v2", {})
    bits, photometric = tags.get(BITS, (16,)), tags.get(PHOTOMETRIC)
    return int(bits[0]), photometric == 0


def _scaled(image: Image.Image, bits: int, inverted: bool, oddities: set[str]) -> Image.Image:
    """Scale a grey image of more than 8 bits to 8, rounded: its full range to 0 to 255."""
    top = 2**bits - 1
    raw = np.asarray(image).astype(np.int64)
    values = top - raw if inverted else raw
    if values.max() < top // 8:
        oddities.add("dim")
    grey = ((values * 255 + top // 2) // top).astype(np.uint8)
    key = image.info.get("transparency")
    if isinstance(key, int) and (raw == key).any():
        oddities.add("transparent")
        grey[raw == key] = 255
    return Image.fromarray(grey)


def _over_white(image: Image.Image, oddities: set[str]) -> Image.Image:
    image = image.convert("RGBA")
    if np.asarray(image)[..., 3].min() < 255:
        oddities.add("transparent")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
