"""Intervals in closed form: of an accuracy, and of the difference of two.

Those of several seeds, and of whole fronts, are in `studies.comparison.resampling`.
"""

import math
from collections.abc import Sequence
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


@dataclass(frozen=True)
class Difference(Interval):
    """A difference of two accuracies, with what its interval rests on.

    Attributes:
        centre: The middle of the interval; near the value, a little nearer to 0.
        sampling: Variance by the choice of the test images.
        training: Variance by the luck of the trainings; 0 where one training of each is compared.
        freedom: Degrees of freedom, after Welch and Satterthwaite; infinite without trainings.
    """

    centre: float
    sampling: float
    training: float = 0.0
    freedom: float = math.inf

    @property
    def error(self) -> float:
        """Standard error."""
        return math.sqrt(self.sampling + self.training)

    def p_not_below(self, bound: float) -> float:
        """Return the one-sided p-value of the claim that the true difference is below a bound."""
        return t_below((self.centre - bound) / self.error, self.freedom)


def t_below(value: float, freedom: float) -> float:
    """Return Student's cumulative probability; the normal one at infinite freedom."""
    from scipy.special import ndtr, stdtr

    return float(ndtr(value) if math.isinf(freedom) else stdtr(freedom, value))


def t_quantile(probability: float, freedom: float) -> float:
    """Return Student's quantile; the normal one at infinite freedom."""
    from scipy.special import stdtrit

    if math.isinf(freedom):
        return NormalDist().inv_cdf(probability)
    return float(stdtrit(freedom, probability))


Spread = tuple[float, float]
"""Variance of a mean by the luck of its trainings, and the degrees of freedom it is known with."""


def difference_of(
    value: float, centre: float, sampling: float, spreads: Sequence[Spread] = ()
) -> Difference:
    """Return a difference of two accuracies with its interval at `LEVEL`, within [-1, 1].

    Args:
        value: As measured.
        centre: Middle of the interval.
        sampling: Variance by the choice of the test images.
        spreads: Of each side; none where trainings are not told apart from their luck.

    Source: Welch, Biometrika 1947; Satterthwaite, Biometrics Bulletin 1946. The variance by images
    is known from hundreds of them and costs no freedom.
    """
    training = sum(variance for variance, _ in spreads)
    total, freedom = sampling + training, math.inf
    if training > 0:
        freedom = total**2 / sum(variance**2 / known for variance, known in spreads)
    half = t_quantile((1 + LEVEL) / 2, freedom) * math.sqrt(total)
    low, high = max(centre - half, -1.0), min(centre + half, 1.0)
    return Difference(value, low, high, centre, sampling, training, freedom)


def paired_difference(
    first: NDArray[np.generic], second: NDArray[np.generic], spreads: Sequence[Spread] = ()
) -> Difference:
    """Return the difference of two accuracies on the same images.

    The interval keeps a width where the models agree on every image, which a bootstrap would
    not.

    Args:
        first: Which images the first model has right, shape (N,); or the share of its trainings
            that have.
        second: The same of the second.
        spreads: See `difference_of`.

    Source: Agresti and Min, Statistics in Medicine 2005: Wald's with half an image added to each
    of the four cells of the paired table.
    """
    images = len(first)
    apart = first.astype(float) - second.astype(float)
    total, squares, more = float(apart.sum()), float((apart**2).sum()), images + 2
    sampling = (squares + 1 - total**2 / more) / more**2
    return difference_of(total / images, total / more, sampling, spreads)


def unpaired_difference(
    first: float, second: float, images: tuple[int, int], spreads: Sequence[Spread] = ()
) -> Difference:
    """Return the difference of two accuracies of which only the rates are known.

    Args:
        first: Accuracy of the first model.
        second: Accuracy of the second.
        images: Test images of each.
        spreads: See `difference_of`.

    Source: Agresti and Caffo, The American Statistician 2000.
    """
    totals = [n + 2 for n in images]
    rates = [(p * n + 1) / (n + 2) for p, n in zip((first, second), images, strict=True)]
    sampling = sum(p * (1 - p) / n for p, n in zip(rates, totals, strict=True))
    return difference_of(first - second, rates[0] - rates[1], sampling, spreads)


def mean_interval(values: NDArray[np.float64], spreads: Sequence[Spread] = ()) -> Interval:
    """Return the mean of one value in [0, 1] for each image, with its interval at `LEVEL`.

    The interval keeps a width where the values agree on every image.

    Args:
        values: Shape (N,).
        spreads: Of the trainings behind the mean; see `difference_of`.

    Source: Agresti and Coull, The American Statistician 1998, of which this is the interval where
    all values are 0 or 1: half of z² images are added at either end, then Wald's.
    """
    images, ends = len(values) + Z**2, Z**2 / 2
    centre = (float(values.sum()) + ends) / images
    sampling = ((float((values**2).sum()) + ends) / images - centre**2) / images
    found = difference_of(float(values.mean()), centre, sampling, spreads)
    return Interval(found.value, max(found.low, 0.0), min(found.high, 1.0))


def holm(p_values: NDArray[np.float64], level: float = 1 - LEVEL) -> NDArray[np.bool_]:
    """Return which hypotheses are rejected, so that any true one is with at most this chance.

    Args:
        p_values: Shape (N,).
        level: The chance that a family of true hypotheses has any rejection.

    Source: Holm, Scandinavian Journal of Statistics 1979; holds for any dependence.
    """
    order = np.argsort(p_values, kind="stable")
    steps = level / (len(p_values) - np.arange(len(p_values)))
    passed = np.logical_and.accumulate(p_values[order] <= steps)
    rejected = np.zeros(len(p_values), bool)
    rejected[order] = passed
    return rejected


def measured(name: str, value: float, samples: NDArray[np.float64]) -> dict[str, float]:
    """Return a value and its interval: percentiles of the draws, widened to hold the value.

    A front of drawn points lies a little further out than the front itself, so that where points
    are nearly equal the percentiles alone may miss it.
    """
    low, high = quantiles(samples)
    ends = (min(float(low), value), max(float(high), value))
    return {name: value, f"{name}_low": ends[0], f"{name}_high": ends[1]}


def measured_ratio(
    name: str,
    value: float,
    samples: NDArray[np.float64],
    others: NDArray[np.float64],
) -> dict[str, float]:
    """Return a ratio and its interval, of areas above 0 of which a drawn one may be 0.

    Few seeds spread widely, so that a draw of the denominator may be cut at 0: the ratio is
    infinite there, and 1 where both are 0.

    Args:
        name: Key of the ratio; its ends have ``_low`` and ``_high`` behind it.
        value: The ratio that was measured.
        samples: Draws of the numerator.
        others: Draws of the denominator.
    """
    beyond = np.where(samples > 0, np.inf, 1.0)
    ratios = np.divide(samples, others, out=beyond, where=others > 0)
    if np.isfinite(ratios).all():
        return measured(name, value, ratios)
    tail = (1 - LEVEL) / 2  # the outer of two neighbours, as nothing lies between one and infinity
    low = float(np.quantile(ratios, tail, method="lower"))
    high = float(np.quantile(ratios, 1 - tail, method="higher"))
    return {name: value, f"{name}_low": min(low, value), f"{name}_high": max(high, value)}


def pooled_variance(
    values: NDArray[np.float64], network: NDArray[np.int64]
) -> tuple[NDArray[np.float64], int]:
    """Pool the variance between seeds over networks, in which cells of one network count once.

    Args:
        values: Of each cell under each seed, NaN where there is none, shape (cells, seeds, K).
        network: Which network a cell is of, from 0, shape (cells,).

    Returns:
        The variance of each of the K values, and the degrees of freedom; zeros if no cell has two
        seeds.
    """
    total, freedom = np.zeros(values.shape[-1]), 0
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
