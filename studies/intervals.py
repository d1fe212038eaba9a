"""Intervals in closed form: of an accuracy, and of the difference of two.

Those of several seeds, and of whole fronts, are in `studies.resampling`.
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
