"""Data that a function of the user's reads."""

from typing import Any

import torch

from oat.data.config import DataConfig
from oat.data.errors import DataError
from oat.data.tensors import Source, Split
from oat.own_code import OwnCodeError, failure, imported
from oat.paths import local_path

KIND = "data"
"""What such a function is called in sentences."""
CHANNELS = (1, 3, 4)
"""Channels that pictures have, and no width of a picture."""


def read_own(config: DataConfig) -> Source:
    """Call the user's function with the folder ``root`` and ``args``, and check what it returns.

    Raises:
        DataError: It is not there, it fails, or it returns something else than a `Source` of
            images (N, C, H, W), uint8 or float32 in [0, 1], and labels (N,), int64.
    """
    try:
        read = imported(config.name, KIND)
    except OwnCodeError as error:
        raise DataError(str(error)) from error
    try:
        found = read(local_path(config.root), **config.args)
    except (Exception, SystemExit) as error:  # whatever theirs does
        raise DataError(str(failure(config.name, KIND, error))) from error
    if said := _fault(found):
        raise DataError(f"The {KIND} '{config.name}' {said}.")
    own: Source = found
    return own


def _fault(found: Any) -> str:
    """Say what is wrong with what the user's function returned; empty if nothing is."""
    if not isinstance(found, Source):
        return f"must return an `oat.data.Source`, got {type(found).__name__}"
    if not found.classes or not all(isinstance(name, str) for name in found.classes):
        return f"must name its classes, a text each, got {found.classes!r:.80}"
    for half, split in (("train", found.train), ("test", found.test)):
        if said := _fault_of(split):
            return f"must have {said} in `{half}`"
    return ""


def _fault_of(split: Any) -> str:
    if not isinstance(split, Split):
        return f"an `oat.data.Split`, got {type(split).__name__}"
    images, labels = split.images, split.labels
    if not isinstance(images, torch.Tensor) or images.ndim != 4:
        return f"`images` of shape (N, C, H, W), got {_shape(images)}"
    if images.shape[3] in CHANNELS and images.shape[1] not in CHANNELS:
        return f"`images` of shape (N, C, H, W), got {_shape(images)}, which may be (N, H, W, C)"
    if 0 in images.shape[1:]:
        return f"`images` with channels and pixels, got {_shape(images)}"
    if images.requires_grad:
        return "`images` without gradients"
    if images.dtype not in (torch.uint8, torch.float32):
        return f"`images` in uint8, or in float32 from 0 to 1, got {images.dtype}"
    if images.dtype == torch.float32 and not bool(((images >= 0) & (images <= 1)).all()):
        return (
            f"`images` in float32 from 0 to 1, got values from {images.min():g} to {images.max():g}"
        )
    if not isinstance(labels, torch.Tensor) or labels.ndim != 1 or labels.dtype != torch.int64:
        return f"`labels` of shape (N,) in int64, got {_shape(labels)}"
    return ""


def _shape(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"shape {tuple(value.shape)} in {value.dtype}"
    return type(value).__name__
