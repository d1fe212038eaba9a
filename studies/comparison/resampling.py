"""Points under resampled test images and trainings: intervals of all that is computed from them.

In joint draws test images are resampled once for all points, and where there are several seeds
every network is moved by the luck of its training. With two or three seeds nobody knows one
network's spread, so it is pooled over all networks of the study, and drawn from Student's t.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from studies.methods import ONCE
from studies.naming import listed, name_point
from studies.statistics.frontier import hypervolumes
from studies.statistics.intervals import (
    Interval,
    paired_difference,
    pooled_variance,
    quantiles,
    unpaired_difference,
    wilson,
)
from studies.trial.records import Correct

RESAMPLES = 2000
CELLS_AT_A_TIME = 32
CELL = ["variant", "width_mult", "lam", "beta", "recipe"]


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
        self._areas: dict[bytes, NDArray[np.float64]] = {}
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
        self._rows = self.cells.to_dict("records")

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
        known, lone = points[paired], points[[not p for p in paired]]
        counts = _drawn_images(images, rng) if len(known) else np.empty((RESAMPLES, 0))
        number = points["seed"].map({seed: i for i, seed in enumerate(self.seeds)}).to_numpy()
        told = np.array(paired)
        cell, seed, keys = place[told], number[told], known["point_key"].to_numpy()
        drawn = [
            rng.binomial(row.images, [row.sa, row.ra], size=(RESAMPLES, 2))
            for row in lone.itertuples()
        ]
        samples = np.empty((RESAMPLES, len(self.cells), 2))
        # every point under every draw at once would be gigabytes
        for first in range(0, len(self.cells), CELLS_AT_A_TIME):
            last = min(first + CELLS_AT_A_TIME, len(self.cells))
            by_seed = np.full((RESAMPLES, last - first, len(self.seeds), 2), np.nan)
            here = np.flatnonzero((first <= cell) & (cell < last))
            if len(here):
                right = np.stack(
                    [correct[f"{key}.{kind}"] for key in keys[here] for kind in ("clean", "robust")]
                ).astype(np.float32)
                # sums of whole numbers: exact in any order
                rates = (counts @ right.T / images).reshape(RESAMPLES, len(here), 2)
                by_seed[:, cell[here] - first, seed[here]] = rates
            for i, row, found in zip(np.flatnonzero(~told), lone.itertuples(), drawn, strict=True):
                if first <= place[i] < last:
                    by_seed[:, place[i] - first, number[i]] = found / row.images
            samples[:, first:last] = np.nanmean(by_seed, axis=2)
        if len(lone):
            in_order = lone.sort_values([*CELL, "seed"])
            names = listed(name_point(row) for _, row in in_order.iterrows())
            self.notes.append(
                f"No per-image results for {len(lone)} of {len(points)} points ({names}): "
                "their intervals are unpaired."
            )
        return samples

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
            if self.spread is None:
                rates = zip(self.cells[name], self.cells["images"], strict=True)
                low, high = np.array([wilson(*rate) for rate in rates]).T
            self.cells[f"{name}_low"], self.cells[f"{name}_high"] = low, high

    def hypervolumes(self, members: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the hypervolume of a set of cells under each draw, shape (`RESAMPLES`,)."""
        key = members.tobytes()  # the dedicated models stand beside every variant
        if key not in self._areas:
            self._areas[key] = hypervolumes(self.samples[:, members])
        return self._areas[key]

    def difference(self, i: int, j: int, k: int) -> Interval:
        """Return cell ``i`` minus cell ``j`` in SA (``k`` = 0) or RA (1)."""
        name, kind = (("sa", "clean"), ("ra", "robust"))[k]
        one, other = self._rows[i], self._rows[j]
        if self.spread is not None:
            low, high = quantiles(self.samples[:, i, k] - self.samples[:, j, k])
            return Interval(float(one[name] - other[name]), float(low), float(high))
        both = [self._correct.get(f"{cell['point_key']}.{kind}") for cell in (one, other)]
        if both[0] is not None and both[1] is not None and len(both[0]) == len(both[1]):
            return paired_difference(both[0], both[1])
        return unpaired_difference(one[name], other[name], (one["images"], other["images"]))


def _drawn_images(images: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return how often each image is in each of `RESAMPLES` draws, (R, images)."""
    counts = np.empty((RESAMPLES, images), np.float32)
    for first in range(0, RESAMPLES, 100):
        drawn = rng.integers(images, size=(100, images))
        counts[first : first + 100] = [np.bincount(row, minlength=images) for row in drawn]
    return counts
