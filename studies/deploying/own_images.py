"""Images on their way into a demo and out of it: a file of the user's, and PNG for a browser."""

import base64
import binascii
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from oat.data.pictures import read_picture
from oat.data.pixels import ODDITIES
from studies.errors import ModelError
from studies.naming import one_line

PNG = "data:image/png;base64,"
"""How the address of an image begins that holds the image itself."""
LONGEST_NAME = 80
"""Characters of a file's name that a sentence shows."""


def own_image(
    data: bytes, name: str, image_shape: tuple[int, int, int]
) -> tuple[Tensor, tuple[str, ...]]:
    """Read an image as the files of an image folder are read, in the shape of a model's images.

    Args:
        data: What the file holds.
        name: Its name, for sentences.
        image_shape: Channels (1 or 3), height and width.

    Returns:
        The image, uint8 (C, H, W), and what was done to it.

    Raises:
        DataError: It is no image, is damaged, or has too many pixels.
    """
    channels, height, width = image_shape
    shown = Path(one_line(name)[-LONGEST_NAME:] or "image")
    picture = read_picture(shown, (height, width), data)
    pixels = picture.pixels
    if channels == 1:
        pixels = _pixels(_image(pixels).convert("L"))
    done = [
        ODDITIES[kind].format(n="").strip()
        for kind in ODDITIES
        if kind in picture.oddities and not (kind == "grey" and channels == 1)
    ]
    return pixels, (*done, *picture.warnings)


def png_of(image: Tensor) -> str:
    """Return the address of an image that holds it as PNG.

    Args:
        image: uint8, or float in [0, 1] that is rounded to 8 bits; shape (C, H, W).
    """
    if image.dtype != torch.uint8:
        image = (image * 255).round().to(torch.uint8)
    buffer = BytesIO()
    _image(image).save(buffer, "PNG")
    return PNG + base64.b64encode(buffer.getvalue()).decode()


def bytes_of(address: str) -> bytes:
    """Return the file that an address of `png_of` holds.

    Raises:
        ModelError: It is none.
    """
    try:
        if not address.startswith(PNG):
            raise ValueError(f"it does not begin with '{PNG}'")
        return base64.b64decode(address[len(PNG) :], validate=True)
    except (ValueError, binascii.Error) as error:
        raise ModelError(f"`image` must be a PNG as a data URL ({error}).") from error


def _image(pixels: Tensor) -> Image.Image:
    array = pixels.permute(1, 2, 0).numpy()
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)


def _pixels(image: Image.Image) -> Tensor:
    from torchvision.transforms.functional import pil_to_tensor

    found: Tensor = pil_to_tensor(image)
    return found
