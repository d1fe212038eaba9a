"""Data sets as tensors on the device, and augmentation there, a batch at a time.

What is named here is loaded on first use: configs are read where nothing needs torch.
"""

from typing import TYPE_CHECKING

from oat.lazy import on_first_use

if TYPE_CHECKING:  # for type checkers and editors; a test holds it against the table
    from oat.data.augmentation import augment as augment
    from oat.data.config import AUGMENTATION as AUGMENTATION
    from oat.data.config import DATA_SETS as DATA_SETS
    from oat.data.config import DataConfig as DataConfig
    from oat.data.counts import count_images as count_images
    from oat.data.counts import repeated_images as repeated_images
    from oat.data.errors import DataError as DataError
    from oat.data.loading import load as load
    from oat.data.readers import READERS as READERS
    from oat.data.tensors import Dataset as Dataset
    from oat.data.tensors import Source as Source
    from oat.data.tensors import Split as Split
    from oat.data.tensors import unit as unit

HOMES = {
    "augment": "augmentation",
    "AUGMENTATION": "config",
    "DATA_SETS": "config",
    "DataConfig": "config",
    "READERS": "readers",
    "count_images": "counts",
    "repeated_images": "counts",
    "load": "loading",
    "DataError": "errors",
    "Dataset": "tensors",
    "Source": "tensors",
    "Split": "tensors",
    "unit": "tensors",
}
"""Module below this one in which a name lives."""

__all__ = list(HOMES)

__getattr__ = on_first_use(__name__, HOMES)
