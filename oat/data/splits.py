"""Which of the official training images are held out, and which are trained on."""

import torch
from torch import Tensor

from oat.data.errors import DataError

SPLIT_SEED = 2020
"""Seed of the one permutation that holds validation out; the same for every trial."""


def hold_out(labels: Tensor, fraction: float) -> tuple[Tensor, Tensor]:
    """Hold images out at random, but never all of a class.

    The random share is taken as it is, unless it holds every image of a class: then one of them is
    trained on. So the split of all other data sets is a plain random one.

    Args:
        labels: Class indices of the official training images, shape (N,).
        fraction: Share that is held out, in (0, 1).

    Returns:
        Indices of the held-out images, and of the rest.

    Raises:
        DataError: Nothing is left to train on, or nothing to hold out.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SPLIT_SEED))
    count = max(1, round(fraction * len(labels)))
    held, rest = order[:count], order[count:]
    if not len(rest):
        raise DataError(
            f"`data.val_fraction` {fraction:g} of {len(labels)} images leaves none to train on; "
            "lower it."
        )
    back = {
        label: i
        for i, label in enumerate(labels[held].tolist())
        if not (labels[rest] == label).any()
    }
    if back:
        kept = torch.ones(len(held), dtype=torch.bool)
        kept[list(back.values())] = False
        held, rest = held[kept], torch.cat([rest, held[~kept]])
    if not len(held):
        raise DataError(
            f"`data.val_fraction` {fraction:g} of {len(labels)} images would hold out the only "
            "image of a class; add images, or raise it."
        )
    return held, rest


def first(labels: Tensor, rest: Tensor, count: int | None) -> Tensor:
    """Return the first so many of the images to train on; all if None.

    Args:
        labels: Class indices of the official training images, shape (N,).
        rest: Indices of those that are not held out, in their random order.
        count: ``data.train_images``.

    Raises:
        DataError: There are fewer, or so few that a class would have none.
    """
    if count is None:
        return rest
    if count > len(rest):
        raise DataError(
            f"`data.train_images` must be at most {len(rest)} (what is left after validation), "
            f"got {count}."
        )
    ordered = labels[rest]
    firsts = [int((ordered == label).nonzero()[0, 0]) for label in set(ordered.tolist())]
    if max(firsts) >= count:
        raise DataError(
            f"`data.train_images` must be at least {max(firsts) + 1}, so that every class has a "
            f"training image, got {count}."
        )
    return rest[:count]
