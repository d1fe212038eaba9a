"""Read a data set, check it, and split it."""

import hashlib
from functools import lru_cache

from oat.data.config import DataConfig
from oat.data.errors import DataError, printable
from oat.data.own import read_own
from oat.data.readers import READERS
from oat.data.splits import first, hold_out
from oat.data.tensors import Dataset, Source, Split
from oat.own_code import is_own


@lru_cache(maxsize=1)
def load(config: DataConfig) -> Dataset:
    """Read a data set and split it; the last one read is kept in memory.

    Raises:
        DataError: The data are missing, or unfit; the sentence says where and what to do.
    """
    source = READERS.get(config.name, read_own)(config)
    _check(config, source)
    remarks = (*source.remarks, *_without_images(source))
    # noise is drawn in the order of memory, so that images in another one would be judged otherwise
    images, test = source.train.images.contiguous(), source.test.images.contiguous()
    labels = source.train.labels
    val, rest = hold_out(labels, config.val_fraction)
    rest = first(labels, rest, config.train_images)
    return Dataset(
        Split(images[rest], labels[rest]),
        Split(images[val], labels[val]),
        Split(test, source.test.labels),
        len(source.classes),
        _fingerprint(config, source),
        tuple(map(printable, source.classes)),
        tuple(map(printable, remarks)),
    )


def _without_images(source: Source) -> list[str]:
    """Say which classes no model can learn, as there is no training image of them."""
    there = set(source.train.labels.tolist())
    lacking = [name for label, name in enumerate(source.classes) if label not in there]
    if not lacking:
        return []
    shown = ", ".join(f"'{name}'" for name in lacking[:5]) + (", …" if len(lacking) > 5 else "")
    return [
        f"{len(lacking)} of {len(source.classes)} classes have no training image, so that no model "
        f"can learn them: {shown}."
    ]


def _fingerprint(config: DataConfig, source: Source) -> str:
    digest = hashlib.sha256()
    if is_own(config.name):  # of ours the name says it: the same bytes may be other images
        images = source.train.images
        digest.update(repr((images.shape[1:], images.dtype, source.classes)).encode())
    for split in (source.train, source.test):
        digest.update(split.images.contiguous().numpy().tobytes())
        digest.update(split.labels.numpy().tobytes())
    return digest.hexdigest()[:12]


def _check(config: DataConfig, source: Source) -> None:
    """Check that images and labels belong together.

    Raises:
        DataError: They do not, as of a file that is another data set's.
    """
    where, classes = f"`data.root` '{config.root}' has", len(source.classes)
    cure = "give it the files of one download."
    if is_own(config.name):
        where, cure = f"The data '{config.name}' have", "mend what the function returns."
    halves = {"training": source.train, "test": source.test}
    for half, split in halves.items():
        images, labels = split.images, split.labels
        if not len(images) or len(images) != len(labels):
            raise DataError(f"{where} {len(images)} {half} images and {len(labels)} labels; {cure}")
        if labels.min() < 0 or labels.max() >= classes:
            odd = int(labels.max() if labels.max() >= classes else labels.min())
            raise DataError(
                f"{where} a {half} image of class {odd}, but there are classes 0 to "
                f"{classes - 1}; {cure}"
            )
    if len(set(source.train.labels.tolist())) < 2:
        raise DataError(f"{where} training images of one class alone; there is nothing to learn.")
    shapes = {half: tuple(split.images.shape[1:]) for half, split in halves.items()}
    if shapes["training"] != shapes["test"]:
        said = ", ".join(f"{half} images of shape {shape}" for half, shape in shapes.items())
        raise DataError(f"{where} {said}, which must be the same; {cure}")
