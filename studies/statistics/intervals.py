"""Intervals in closed form: of an accuracy, and of the difference of two.

Those of several seeds, and of whole fronts, are in `studies.comparison.resampling`.
"""

import math
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)


@dataclass(frozen=True)
class Interval:
    """A value with its interval at `LEVEL`."""

    value: float
    low: float
    high: float


def wilson(rate: float, images: int) -> tuple[float, float]:
    """Return Wilson's interval of an accuracy measured on so many images.

    Source: Newcombe, Statistics in Medicine 1998, method 3. The operations are in the order of
    `scipy.stats.binomtest`, so that the numbers are its own bit for bit; it makes a test of each
    proportion besides, which took most of the time of reading a study's points.
    """
    right, total = round(rate * images), int(images)
    share = right / total
    z = _quantile()
    denominator = 2 * (total + z**2)
    centre = (2 * total * share + z**2) / denominator
    spread = z / denominator * math.sqrt(4 * total * share * (1 - share) + z**2)
    return (
        0.0 if right == 0 else centre - spread,
        1.0 if right == total else centre + spread,
    )


@cache
def _quantile() -> float:
    """Return scipy's quantile of the normal distribution: `Z` is another in its last digit."""
    from scipy.special import ndtri

    return float(ndtri(0.5 + 0.5 * LEVEL))


def paired_difference(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Interval:
    """Return the difference of two accuracies on the same images.

    The interval keeps a width where the models agree on every image, which a bootstrap would
    not.

    Args:
        first: Which images the first model has right, shape (N,).
        second: The same of the second.

    Source: Agresti and Min, Statistics in Medicine 2005: Wald's with half an image added to each
    of the four cells of the paired table.
    """
    images = len(first)
    gained = float((first & ~second).sum())
    lost = float((second & ~first).sum())
    total = images + 2
    centre = (gained - lost) / total
    spread = np.sqrt(gained + lost + 1 - (gained - lost) ** 2 / total) / total
    value = (gained - lost) / images
    return Interval(value, float(centre - Z * spread), float(centre + Z * spread))


def unpaired_difference(first: float, second: float, images: tuple[int, int]) -> Interval:
    """Return the difference of two accuracies of which only the rates are known.

    Args:
        first: Accuracy of the first model.
        second: Accuracy of the second.
        images: Test images of each.

    Source: Agresti and Caffo, The American Statistician 2000.
    """
    totals = [n + 2 for n in images]
    rates = [(p * n + 1) / (n + 2) for p, n in zip((first, second), images, strict=True)]
    spread = np.sqrt(sum(p * (1 - p) / n for p, n in zip(rates, totals, strict=True)))
    centre = rates[0] - rates[1]
    return Interval(first - second, float(centre - Z * spread), float(centre + Z * spread))


def measured(name: str, value: float, samples: NDArray[np.float64]) -> dict[str, float]:
    """Return a value and its interval: percentiles of the draws, widened to hold the value.

    A front of drawn points lies a little further out than the front itself, so that where points
    are nearly equal the percentiles alone may miss it.
    """
    low, high = quantiles(samples)
    ends = (min(float(low), value), max(float(high), value))
    return {name: value, f"{name}_low": ends[0], f"{name}_high": ends[1]}


def pooled_variance(
    values: NDArray[np.float64], network: NDArray[np.int64]
) -> tuple[NDArray[np.float64], int]:
    """Pool the variance between seeds over networks, in which cells of one network count once.

    Args:
        values: Of each cell under each seed, NaN where there is none, shape (cells, seeds, 2).
        network: Which network a cell is of, from 0, shape (cells,).

    Returns:
        The variance of each of the two values, and the degrees of freedom; zeros if no cell has
        two seeds.
    """
    total, freedom = np.zeros(2), 0
    for number in range(network.max() + 1):
        own = values[network == number]
        seeds = np.isfinite(own[..., 0]).sum(axis=1)
        own = own[seeds > 1]
        if len(own):
            least = int(seeds[seeds > 1].min()) - 1
            total += least * np.nanvar(own, axis=1, ddof=1).mean(axis=0)
            freedom += least
    return (total / freedom if freedom else total), freedom


def quantiles(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the lower and upper end of the interval over the first axis."""
    tail = (1 - LEVEL) / 2
    quantiles: NDArray[np.float64] = np.quantile(samples, [tail, 1 - tail], axis=0)
    return quantiles
