"""Points under resampled test images and trainings: intervals of all that is computed from them.

In joint draws test images are resampled once for all points, and where there are several seeds
every network is moved by the luck of its training. With two or three seeds nobody knows one
network's spread, so it is pooled over all networks of the study, and drawn from Student's t.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from studies.frontier import hypervolume
from studies.guards import listed
from studies.intervals import LEVEL, Interval, paired_difference, unpaired_difference, wilson
from studies.methods import ONCE, name_point
from studies.records import Correct

RESAMPLES = 2000
CELL = ["variant", "width_mult", "lam", "beta"]


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
        spread: Standard deviation of SA and RA between trainings, pooled; None with one seed.
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
            deployed_bytes=("deployed_bytes", "first"),
            point_key=("point_key", "first"),
            run_keys=("run_key", " ".join),
            point_keys=("point_key", " ".join),
        ).reset_index()
        self.once = self.cells["method"].isin(ONCE).to_numpy()
        place = grouped.ngroup().to_numpy()
        rng = np.random.default_rng(0)
        self.samples = self._resample(points, place, correct, rng)
        self.spread: tuple[float, float] | None = None
        self._add_trainings(points, place, rng)
        self._intervals()

    def _resample(
        self,
        points: pd.DataFrame,
        place: NDArray[np.int64],
        correct: Correct,
        rng: np.random.Generator,
    ) -> NDArray[np.float64]:
        """Return SA and RA of each cell on drawn images, mean over its seeds, (R, cells, 2)."""
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
            in_order = lone.sort_values([*CELL, "seed"])
            names = listed(name_point(row) for _, row in in_order.iterrows())
            self.notes.append(
                f"No per-image results for {len(lone)} of {len(points)} points ({names}): "
                "their intervals are unpaired."
            )
        return np.asarray(np.nanmean(by_seed, axis=2))

    def _add_trainings(
        self, points: pd.DataFrame, place: NDArray[np.int64], rng: np.random.Generator
    ) -> None:
        """Move every network in each draw by what its seeds may have had of luck.

        All cells of a once-for-all network move together.
        """
        values = np.full((len(self.cells), len(self.seeds), 2), np.nan)
        for cell, row in zip(place, points.itertuples(), strict=True):
            values[cell, self.seeds.index(row.seed)] = row.sa, row.ra
        networks = np.where(self.once, self.cells["variant"], np.arange(len(self.cells)))
        _, network = np.unique(networks.astype(str), return_inverse=True)
        pooled, freedom = pooled_variance(values, network)
        if not freedom:
            setting = "" if len(self.seeds) == 1 else " a setting"
            self.notes.append(
                f"1 seed{setting}: the intervals cover the test images, not the training."
            )
            return
        seeds = self.cells["seeds"].to_numpy()
        luck = rng.standard_t(freedom, size=(RESAMPLES, network.max() + 1, 2)) * np.sqrt(pooled)
        moved = self.samples + luck[:, network] / np.sqrt(seeds)[None, :, None]
        self.samples = moved.clip(0, 1)
        self.spread = float(np.sqrt(pooled[0])), float(np.sqrt(pooled[1]))
        sa, ra = (100 * deviation for deviation in self.spread)
        self.notes.append(
            f"{len(self.seeds)} seeds: trainings of one setting differ by {sa:.1f} points in SA, "
            f"{ra:.1f} in RA (standard deviation, pooled over {network.max() + 1} settings, "
            f"{freedom} degrees of freedom)."
        )

    def _intervals(self) -> None:
        """Add intervals to the cells: those of the draws, Wilson's where no seeds tell a spread."""
        for k, name in enumerate(("sa", "ra")):
            low, high = quantiles(self.samples[:, :, k])
            for i, cell in self.cells.iterrows():
                if self.spread is None:
                    low[i], high[i] = wilson(cell[name], cell["images"])
            self.cells[f"{name}_low"], self.cells[f"{name}_high"] = low, high

    def hypervolumes(self, members: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the hypervolume of a set of cells under each draw, shape (`RESAMPLES`,)."""
        return np.array([hypervolume(draw) for draw in self.samples[:, members]])

    def difference(self, i: int, j: int, k: int) -> Interval:
        """Return cell ``i`` minus cell ``j`` in SA (``k`` = 0) or RA (1)."""
        name, kind = (("sa", "clean"), ("ra", "robust"))[k]
        one, other = self.cells.iloc[i], self.cells.iloc[j]
        if self.spread is not None:
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
