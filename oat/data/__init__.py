"""Data sets as tensors on the device, and augmentation there, a batch at a time."""

from oat.data.augmentation import augment
from oat.data.config import AUGMENTATION, READERS, DataConfig
from oat.data.counts import count_images, repeated_images
from oat.data.loading import load
from oat.data.tensors import DataError, Dataset, Source, Split, unit

__all__ = [
    "AUGMENTATION",
    "READERS",
    "DataConfig",
    "DataError",
    "Dataset",
    "Source",
    "Split",
    "augment",
    "count_images",
    "load",
    "repeated_images",
    "unit",
]
