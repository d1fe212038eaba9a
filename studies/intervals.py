"""Intervals of accuracies, of their differences, and of what is computed from many of them.

One model, or two models on the same images: closed forms. Several seeds, and whole fronts: one
joint bootstrap, in which test images are drawn once for all points and seeds are drawn where
there are several.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from studies.frontier import hypervolume
from studies.results import Correct

ONCE = ("oat", "oats")
"""Methods of which one model serves every λ; all others are retrained for each value."""

RESAMPLES = 2000
LEVEL = 0.95
CELL = ["variant", "width_mult", "lam", "beta"]
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)


@dataclass(frozen=True)
class Interval:
    """A value with its interval at `LEVEL`."""

    value: float
    low: float
    high: float


def wilson(rate: float, images: int) -> tuple[float, float]:
    """Return Wilson's interval of an accuracy measured on so many images."""
    from scipy.stats import binomtest  # takes seconds to import, and `oat plan` needs none of it

    found = binomtest(round(rate * images), int(images)).proportion_ci(LEVEL, method="wilson")
    return float(found.low), float(found.high)


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


class Resampled:
    """Accuracies of every operating point, and the same under resampled images and seeds.

    Args:
        points: A frame of points under one attack.
        correct: Which images each point has right, where that is known.

    Attributes:
        cells: A row for each operating point: SA and RA, mean over seeds, with intervals.
        once: Which cells belong to a model that serves every λ, shape (cells,).
        seeds: The seeds there are.
        samples: SA and RA of each cell under each draw, shape (`RESAMPLES`, cells, 2).
        notes: What a reader must know of the intervals.
    """

    def __init__(self, points: pd.DataFrame, correct: Correct) -> None:
        self.notes: list[str] = []
        self._correct = correct
        self.seeds = sorted(points["seed"].unique())
        grouped = points.groupby(CELL, dropna=False, sort=True)
        self.cells = grouped.agg(
            method=("method", "first"),
            sa=("sa", "mean"),
            ra=("ra", "mean"),
            seeds=("seed", "nunique"),
            images=("images", "first"),
            train_device_seconds=("train_device_seconds", "mean"),
            train_units=("train_units", "mean"),
            network_bytes=("network_bytes", "mean"),
            flops=("flops", "first"),
            point_key=("point_key", "first"),
        ).reset_index()
        self.once = self.cells["method"].isin(ONCE).to_numpy()
        place = grouped.ngroup().to_numpy()
        self.samples = self._resample(points, place, correct)
        self._intervals()
        if len(self.seeds) == 1:
            self.notes.append("1 seed: the intervals cover the test images, not the training.")

    def _resample(
        self, points: pd.DataFrame, place: NDArray[np.int64], correct: Correct
    ) -> NDArray[np.float64]:
        """Return SA and RA of each cell, shape (`RESAMPLES`, cells, 2)."""
        rng = np.random.default_rng(0)
        images = int(points["images"].iloc[0])
        paired = [
            f"{key}.clean" in correct and len(correct[f"{key}.clean"]) == images
            for key in points["point_key"]
        ]
        by_seed = np.full((RESAMPLES, len(self.cells), len(self.seeds), 2), np.nan)
        known = points[paired]
        if len(known):
            right = np.stack(
                [
                    correct[f"{key}.{kind}"]
                    for key in known["point_key"]
                    for kind in ("clean", "robust")
                ]
            ).astype(np.float32)
            rates = _image_bootstrap(right, rng).reshape(RESAMPLES, len(known), 2)
        for i, (cell, row) in enumerate(
            zip(place[np.array(paired)], known.itertuples(), strict=True)
        ):
            by_seed[:, cell, self.seeds.index(row.seed)] = rates[:, i]
        lone = points[[not p for p in paired]]
        for cell, row in zip(place[~np.array(paired)], lone.itertuples(), strict=True):
            drawn = rng.binomial(row.images, [row.sa, row.ra], size=(RESAMPLES, 2))
            by_seed[:, cell, self.seeds.index(row.seed)] = drawn / row.images
        if len(lone):
            self.notes.append(
                f"No per-image results for {len(lone)} of {len(points)} points "
                f"({', '.join(sorted(set(lone['variant'])))}): their intervals are unpaired."
            )
        return _seed_bootstrap(by_seed, rng)

    def _intervals(self) -> None:
        """Add intervals to the cells: Wilson's for one model, the bootstrap over seeds."""
        for k, name in enumerate(("sa", "ra")):
            low, high = quantiles(self.samples[:, :, k])
            for i, cell in self.cells.iterrows():
                if cell["seeds"] == 1:
                    low[i], high[i] = wilson(cell[name], cell["images"])
            self.cells[f"{name}_low"], self.cells[f"{name}_high"] = low, high

    def hypervolumes(self, members: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the hypervolume of a set of cells under each draw, shape (`RESAMPLES`,)."""
        return np.array([hypervolume(draw) for draw in self.samples[:, members]])

    def difference(self, i: int, j: int, k: int) -> Interval:
        """Return cell ``i`` minus cell ``j`` in SA (``k`` = 0) or RA (1)."""
        name, kind = (("sa", "clean"), ("ra", "robust"))[k]
        one, other = self.cells.iloc[i], self.cells.iloc[j]
        if len(self.seeds) > 1:
            low, high = quantiles(self.samples[:, i, k] - self.samples[:, j, k])
            return Interval(float(one[name] - other[name]), float(low), float(high))
        both = [self._correct.get(f"{cell['point_key']}.{kind}") for cell in (one, other)]
        if both[0] is not None and both[1] is not None and len(both[0]) == len(both[1]):
            return paired_difference(both[0], both[1])
        return unpaired_difference(one[name], other[name], (one["images"], other["images"]))


def _image_bootstrap(right: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the mean of each row of (M, N) under `RESAMPLES` draws of columns, (R, M)."""
    images = right.shape[1]
    rates = np.empty((RESAMPLES, len(right)))
    for first in range(0, RESAMPLES, 100):
        drawn = rng.integers(images, size=(100, images))
        counts = np.stack([np.bincount(row, minlength=images) for row in drawn])
        rates[first : first + 100] = counts.astype(np.float32) @ right.T / images
    return rates


def _seed_bootstrap(by_seed: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Average (R, cells, seeds, 2) over drawn seeds, those a cell lacks left out."""
    resamples, _, seeds, _ = by_seed.shape
    if seeds == 1:
        return by_seed[:, :, 0]
    weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples)
    have = np.isfinite(by_seed[..., 0])
    share = weights[:, None, :] * have
    # a draw that misses all seeds of an incomplete cell uses what there is
    share = np.where(share.sum(axis=2, keepdims=True) > 0, share, have)
    share = share / share.sum(axis=2, keepdims=True)
    mean: NDArray[np.float64] = np.nansum(by_seed * share[..., None], axis=2)
    return mean


def quantiles(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the lower and upper end of the interval over the first axis."""
    tail = (1 - LEVEL) / 2
    quantiles: NDArray[np.float64] = np.quantile(samples, [tail, 1 - tail], axis=0)
    return quantiles
