"""What reads each data set."""

from collections.abc import Callable

from oat.data.config import DataConfig
from oat.data.imagefolder import read_imagefolder
from oat.data.published import (
    read_cifar10,
    read_digits,
    read_fashion_mnist,
    read_stl10,
    read_svhn,
)
from oat.data.tensors import Source

READERS: dict[str, Callable[[DataConfig], Source]] = {
    "digits": read_digits,
    "fashion_mnist": read_fashion_mnist,
    "cifar10": read_cifar10,
    "svhn": read_svhn,
    "stl10": read_stl10,
    "imagefolder": read_imagefolder,
}
