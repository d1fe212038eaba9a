"""One image file as eight-bit RGB: what a viewer shows of it, or a sentence with its path."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from torch import Tensor

from oat.data.errors import DataError
from oat.data.pixels import FAULTS, as_rgb

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "AVIF", "PPM", "JPEG2000")
"""What a file may hold, whatever its name; not all that Pillow opens: some start Ghostscript."""


@dataclass(frozen=True)
class Picture:
    """One image.

    Attributes:
        pixels: uint8, shape (3, H, W).
        oddities: What was done to it, of `ODDITIES`.
        warnings: What Pillow had to say.
    """

    pixels: Tensor
    oddities: frozenset[str]
    warnings: tuple[str, ...]


def read_picture(
    path: Path, size: int | tuple[int, int] | None, data: bytes | None = None
) -> Picture:
    """Read an image.

    Args:
        path: Its file.
        size: Side, or height and width, to resize to; None keeps its own.
        data: What the file holds, where it is not to be read; sentences name ``path``.

    Raises:
        DataError: The file cannot be read, or its pixels have no scale.
    """
    from torchvision.transforms.functional import pil_to_tensor, resize

    oddities: set[str] = set()
    file = path if data is None else BytesIO(data)
    with _faults(path, data), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Image.init()
        with Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN]) as image:
            found = as_rgb(image, path, oddities)
        if size is not None:
            found = resize(found, [size, size] if isinstance(size, int) else [*size])
        pixels = pil_to_tensor(found)
    return Picture(pixels, frozenset(oddities), tuple(str(one.message) for one in caught))


@contextmanager
def _faults(path: Path, data: bytes | None) -> Iterator[None]:
    """Turn what Pillow raises into a sentence with the file's path."""
    try:
        yield
    except Image.DecompressionBombError:
        raise DataError(
            f"'{path}' has more pixels than Pillow takes for safe; make it smaller."
        ) from None
    except FAULTS as error:
        reason = _reason(path, data, error)
        raise DataError(
            f"'{path}' cannot be read as an image ({reason}); replace or remove it."
        ) from error


def _reason(path: Path, data: bytes | None, error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        size = path.stat().st_size if data is None else len(data)
        return "it is none that Pillow knows" if size else "it is empty"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
