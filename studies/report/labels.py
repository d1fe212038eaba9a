"""Where labels stand beside their marks, so that none hides another label or a mark."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

DIRECTIONS = np.array(
    [
        *[(1, 1), (1, -1), (-1, 1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1)],
        *[(1, 0.5), (1, -0.5), (-1, 0.5), (-1, -0.5), (0.5, 1), (0.5, -1), (-0.5, 1), (-0.5, -1)],
    ]
)
"""From a mark to its label; the best come first."""

STEPS = (0.3, 1, 2, 3.5, 5, 7, 10)
"""Distances from a mark to its label, in heights of the label."""

NEAR = 1.0
"""At a larger distance, in the same unit, a label needs a line to its mark."""

ON_A_BAR, BY_ANOTHER = 1.2, 1.5
"""What it counts that a label stands on a bar, or nearer to another mark; in steps further away."""


def place_labels(
    marks: Array, sizes: Array, frame: Sequence[float], bars: Array, radius: float
) -> list[tuple[float, float, bool] | None]:
    """Find a place for the label of each mark.

    All lengths are in pixels. The first labels have the first choice. A label overlaps no other
    label, no mark and not the frame; if it can, it also stands on no bar and nearest to its mark.

    Args:
        marks: Centres of the marks, shape (N, 2).
        sizes: Widths and heights of the labels, shape (N, 2).
        frame: Left, bottom, right and top of what the labels must lie in.
        bars: Left, bottom, right and top of each error bar, shape (M, 4).
        radius: Half the size of a mark.

    Returns:
        For each label its centre minus the mark, and whether it needs a line to its mark; None
        where there is no room.
    """
    around = np.concatenate([marks - radius, marks + radius], axis=1)
    taken, found = np.empty((0, 4)), list[tuple[float, float, bool] | None]()
    for mark, size in zip(marks, sizes, strict=True):
        steps = np.repeat(STEPS, len(DIRECTIONS))
        away = np.tile(DIRECTIONS, (len(STEPS), 1))
        offsets = away * (size / 2 + radius + steps[:, None] * size[1])
        places = np.concatenate([mark + offsets - size / 2, mark + offsets + size / 2], axis=1)
        inside = (places[:, :2] >= frame[:2]).all(axis=1) & (places[:, 2:] <= frame[2:]).all(axis=1)
        free = inside & ~_overlaps(places, np.concatenate([around, taken])).any(axis=1)
        if not free.any():
            found.append(None)
            continue
        cost = np.repeat(np.arange(len(STEPS)), len(DIRECTIONS)).astype(float)
        confusing = _nearer_to_another(mark, mark + offsets, marks)
        cost += ON_A_BAR * _overlaps(places, bars).sum(axis=1) + BY_ANOTHER * confusing
        best = int(np.where(free, cost, np.inf).argmin())
        taken = np.concatenate([taken, places[best : best + 1]])
        x, y = map(float, offsets[best])
        found.append((x, y, bool(steps[best] > NEAR or confusing[best])))
    return found


def _nearer_to_another(mark: Array, centres: Array, marks: Array) -> NDArray[np.bool_]:
    """Return which centres are about as near to another mark as to their own."""
    others = marks[np.hypot(*(marks - mark).T) > 1]
    own = np.hypot(*(centres - mark).T)
    away = np.hypot(*np.moveaxis(centres[:, None] - others[None], 2, 0))
    nearer: NDArray[np.bool_] = (away < 1.3 * own[:, None]).any(axis=1)
    return nearer


def _overlaps(some: Array, others: Array) -> NDArray[np.bool_]:
    """Return which rectangles overlap which others, shape (len(some), len(others))."""
    low = np.maximum(some[:, None, :2], others[None, :, :2])
    high = np.minimum(some[:, None, 2:], others[None, :, 2:])
    overlapping: NDArray[np.bool_] = np.all(low < high, axis=2)
    return overlapping
