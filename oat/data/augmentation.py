"""Augmentation of a batch, on the device where it lies."""

import torch
from torch import Tensor
from torch.nn import functional


def augment(images: Tensor, crop: int, flip: bool, *, generator: torch.Generator) -> Tensor:
    """Crop from a zero-padded image and mirror, each image by its own draw.

    Args:
        images: Shape (N, C, H, W).
        crop: Padding in pixels; 0 for none.
        flip: Whether half of the images are mirrored.
        generator: On the device of ``images``.

    Returns:
        Images of the same shape.
    """
    n, _, height, width = images.shape
    device = images.device
    if crop:
        padded = functional.pad(images, (crop, crop, crop, crop))
        top, left = torch.randint(2 * crop + 1, (2, n, 1), generator=generator, device=device)
        rows = (top + torch.arange(height, device=device))[:, None, :, None]
        columns = (left + torch.arange(width, device=device))[:, None, None, :]
        row = torch.arange(n, device=device)[:, None, None, None]
        channel = torch.arange(images.shape[1], device=device)[None, :, None, None]
        images = padded[row, channel, rows, columns]
    if flip:
        mirrored = torch.rand(n, 1, 1, 1, generator=generator, device=device) < 0.5
        images = torch.where(mirrored, images.flip(3), images)
    return images
