"""What the user is told of a data set: images of each class, and images that stand twice."""

import hashlib

import torch
from torch import Tensor

from oat.data.tensors import Dataset, Split

LISTED = 20
"""More classes than this are summed up, not listed."""


def count_images(dataset: Dataset) -> str:
    """Say how many images there are, of each class, to train on, held out and to test on."""
    splits = {"training": dataset.train, "held-out": dataset.val, "test": dataset.test}
    sizes = ", ".join(f"{len(split):,} {name}" for name, split in splits.items())
    counts = torch.stack([_of_each(split, dataset.num_classes) for split in splits.values()])
    if dataset.num_classes > LISTED:
        spans = ", ".join(
            f"{int(row.min()):,} to {int(row.max()):,} {name}"
            for name, row in zip(splits, counts, strict=True)
        )
        return f"{sizes} images; {dataset.num_classes:,} classes with {spans} images each"
    names = dataset.classes or tuple(map(str, range(dataset.num_classes)))
    each = ", ".join(
        f"{name} {'/'.join(str(n) for n in column)}"
        for name, column in zip(names, counts.T.tolist(), strict=True)
    )
    return f"{sizes} images; by class (training/held-out/test) {each}"


def _of_each(split: Split, num_classes: int) -> Tensor:
    return torch.bincount(split.labels.cpu(), minlength=num_classes)


def repeated_images(dataset: Dataset) -> list[str]:
    """Say which images stand in two splits, or in two classes, by their pixels.

    Returns:
        Sentences; none where every image stands once.
    """
    train, val, test = map(_digests, (dataset.train, dataset.val, dataset.test))
    trained, seen = set(train), {*train, *val}
    said = []
    if again := sum(one in seen for one in test):
        said.append(
            f"Test images that are also among the training images, pixel by pixel: {again:,} of "
            f"{len(test):,}. They flatter every accuracy; take them out of one of the two."
        )
    if again := sum(one in trained for one in val):
        said.append(
            f"Held-out images that are also trained on, as they stand twice: {again:,} of "
            f"{len(val):,}; keep one of each."
        )
    labels: dict[bytes, set[int]] = {}
    for split, digests in ((dataset.train, train), (dataset.val, val)):
        for one, label in zip(digests, split.labels.tolist(), strict=True):
            labels.setdefault(one, set()).add(label)
    if again := sum(len(found) > 1 for found in labels.values()):
        said.append(
            f"Training images that stand in more than one class: {again:,}; keep the right one."
        )
    return said


def _digests(split: Split) -> list[bytes]:
    images = split.images.cpu().numpy()
    return [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images]
