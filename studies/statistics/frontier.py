"""Fronts in the plane of standard and robust accuracy, both to be maximised; numpy only."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def _points(values: ArrayLike) -> NDArray[np.float64]:
    points = np.asarray(values, dtype=np.float64).reshape(-1, 2)
    if not np.isfinite(points).all():
        raise ValueError("A front takes finite numbers only; leave out models that diverged.")
    return points


def pareto_mask(values: ArrayLike) -> NDArray[np.bool_]:
    """Mark the points that no other point dominates.

    A point dominates another if it is at least as good in both and better in one; equal points
    do not dominate each other.

    Args:
        values: Points, shape (N, 2).

    Returns:
        Mask, shape (N,).

    Raises:
        ValueError: A value is not finite.
    """
    points = _points(values)
    mask = np.zeros(len(points), dtype=bool)
    # by falling x, then falling y: a point survives if its y beats all points of larger x
    order = np.lexsort((-points[:, 1], -points[:, 0]))
    best = -np.inf
    kept = np.array([np.nan, np.nan])
    for i in order:
        x, y = points[i]
        if y > best:
            best, kept, mask[i] = y, points[i], True
        elif x == kept[0] and y == kept[1]:
            mask[i] = True
    return mask


def hypervolume(values: ArrayLike, reference: tuple[float, float] = (0.0, 0.0)) -> float:
    """Compute the area that a set of points dominates, above a reference point.

    Args:
        values: Points, shape (N, 2); those not above the reference add nothing.
        reference: Lower corner of the area.

    Returns:
        The area; 0 for no points.

    Raises:
        ValueError: A value is not finite.
    """
    points = _points(values) - np.asarray(reference)
    points = points[(points > 0).all(axis=1)]
    if not len(points):
        return 0.0
    points = points[np.argsort(-points[:, 0])]
    ceiling = np.maximum.accumulate(points[:, 1])
    steps = points[:, 0] - np.append(points[1:, 0], 0.0)
    return float((steps * ceiling).sum())


def hypervolumes(draws: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute `hypervolume` above the origin for many sets of as many points, bit for bit.

    Args:
        draws: Sets of points, shape (R, N, 2).

    Returns:
        The areas, shape (R,).

    Raises:
        ValueError: A value is not finite.
    """
    _points(draws)
    inside: NDArray[np.bool_] = np.all(draws > 0, axis=2)
    draws, inside = draws[:, inside.any(axis=0)], inside[:, inside.any(axis=0)]
    areas = np.empty(len(draws))
    whole = inside.all(axis=1)
    for i in np.flatnonzero(~whole):
        areas[i] = hypervolume(draws[i])
    x, y = draws[whole, :, 0], draws[whole, :, 1]
    order = np.argsort(-x, axis=1)
    x, y = (np.take_along_axis(values, order, axis=1) for values in (x, y))
    steps = x - np.pad(x[:, 1:], ((0, 0), (0, min(1, x.shape[1]))))
    areas[whole] = (steps * np.maximum.accumulate(y, axis=1)).sum(axis=1)
    return areas


def attainment(values: ArrayLike, at: ArrayLike) -> NDArray[np.float64]:
    """Return the best second value among points whose first is at least ``at``.

    Args:
        values: Points, shape (N, 2).
        at: Levels of the first value, shape (M,).

    Returns:
        Shape (M,); minus infinity where no point reaches the level.

    Raises:
        ValueError: A value is not finite.
    """
    points, levels = _points(values), np.asarray(at, dtype=np.float64)
    reached = points[None, :, 0] >= levels[:, None]
    best: NDArray[np.float64] = np.where(reached, points[None, :, 1], -np.inf).max(
        axis=1, initial=-np.inf
    )
    return best


def largest_gap(ours: ArrayLike, theirs: ArrayLike, margin: float = 0.0) -> tuple[float, float]:
    """Measure how far one attainment curve lies below another at worst.

    The curve of a set of points gives, for each level of the first value, the best second value
    at that level or above; 0 where no point reaches it. Both curves are steps, so the gap is
    largest at the first value of a point of ``theirs``.

    Args:
        ours: Points, shape (N, 2).
        theirs: Points, shape (M, 2), at least one.
        margin: A level that ``ours`` misses by so much counts as reached.

    Returns:
        The gap in the second value, negative where ``ours`` lies above all along; and the level
        of the first value that it is at.

    Raises:
        ValueError: A value is not finite.
    """
    levels = _points(theirs)[:, 0]
    # rounding must not decide between equal values
    reached = attainment(ours, levels - margin - 1e-12).clip(min=0)
    gaps = attainment(theirs, levels) - reached
    worst = int(gaps.argmax())
    return float(gaps[worst]), float(levels[worst])


def coverage(front: ArrayLike, by: ArrayLike, margin: float = 0.0) -> float:
    """Return the share of a set's Pareto points that another set reaches.

    A point is reached if some point of ``by`` is worse by at most ``margin`` in either value.

    Args:
        front: Points, shape (N, 2), at least one.
        by: Points, shape (M, 2).
        margin: How much worse still counts.

    Raises:
        ValueError: A value is not finite.
    """
    points, others = _points(front), _points(by)
    points = points[pareto_mask(points)]
    # rounding must not decide between equal values
    worse = points[:, None] - others[None] > margin + 1e-12
    reached = ~np.any(worse, axis=2).all(axis=1)
    return float(reached.mean())
