"""Points under resampled test images and trainings: intervals of all that is computed from them.

Differences of two cells have intervals in closed form. For whole fronts test images are resampled
once for all points, and where there are several seeds every network is moved by the luck of its
training. Two or three seeds do not tell one network's spread between trainings, so it is pooled
over all networks of a method; methods keep spreads of their own, as they may differ.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from studies.comparison.assumed import Rates
from studies.known_methods import CONDITIONAL, ONCE
from studies.naming import listed, name_point
from studies.statistics.frontier import hypervolumes
from studies.statistics.intervals import (
    Difference,
    Spread,
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


@dataclass(frozen=True)
class Luck:
    """How far trainings of one setting differ, for the networks of one method.

    Attributes:
        variance: Of SA and of RA between trainings, shape (2,); or of what else was measured.
        freedom: Degrees of freedom that it is known with.
        borrowed: Whether it is that of all methods together, as none of its own networks has two
            seeds.
    """

    variance: NDArray[np.float64]
    freedom: int
    borrowed: bool = False


def networks_of(cells: pd.DataFrame) -> NDArray[np.int64]:
    """Number the networks of some cells: all cells of a once-for-all network are of one."""
    once = cells["method"].isin(ONCE)
    names = np.where(once, cells["variant"], np.arange(len(cells)))
    _, network = np.unique(names.astype(str), return_inverse=True)
    return network


def luck_of_variants(values: NDArray[np.float64], cells: pd.DataFrame) -> dict[str, Luck]:
    """Pool the variance between trainings over the networks of each variant.

    A variant of which every network has one seed takes that of all others together.

    Args:
        values: Of each cell under each seed, NaN where there is none, shape (cells, seeds, K).
        cells: The cells.

    Returns:
        By variant; empty where every setting has one seed.
    """
    network = networks_of(cells)
    pooled = Luck(*pooled_variance(values, network), borrowed=True)
    found: dict[str, Luck] = {}
    for variant in cells["variant"].unique() if pooled.freedom else ():
        mine = (cells["variant"] == variant).to_numpy()
        own = Luck(*pooled_variance(values[mine], np.unique(network[mine], False, True)[1]))
        found[variant] = own if own.freedom else pooled
    return found


class Resampled:
    """Accuracies of every operating point, and the same under resampled images and seeds.

    Args:
        points: A frame of points under one attack.
        correct: Which images each point has right, where that is known.

    Attributes:
        cells: A row for each operating point: SA and RA, mean over seeds, with intervals.
        once: Which cells belong to a model that serves every trade-off, shape (cells,).
        conditional: Which of these are of OAT or OATS, shape (cells,).
        seeds: The seeds there are.
        samples: SA and RA of each cell under each draw, shape (`RESAMPLES`, cells, 2).
        luck: Spread between trainings by variant; empty where every setting has one seed.
        unpaired: How many points have no results by image.
        notes: What a reader must know of the intervals.
    """

    def __init__(self, points: pd.DataFrame, correct: Correct) -> None:
        self.notes: list[str] = []
        self.unpaired = 0
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
            eps=("eps", "first"),
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
        self.conditional = self.cells["method"].isin(CONDITIONAL).to_numpy()
        place = grouped.ngroup().to_numpy()
        rng = np.random.default_rng(0)
        self.samples = self._resample(points, place, correct, rng)
        self.luck = self._luck(points, place)
        self._add_trainings(rng)
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
        self.unpaired = len(lone)
        if len(lone):
            in_order = lone.sort_values([*CELL, "seed"])
            names = listed(name_point(row) for _, row in in_order.iterrows())
            self.notes.append(
                f"No per-image results for {len(lone)} of {len(points)} points ({names}): "
                "their intervals are unpaired."
            )
        return samples

    def _luck(self, points: pd.DataFrame, place: NDArray[np.int64]) -> dict[str, Luck]:
        """Find how far trainings of each variant differ, and say so."""
        values = np.full((len(self.cells), len(self.seeds), 2), np.nan)
        for cell, row in zip(place, points.itertuples(), strict=True):
            values[cell, self.seeds.index(row.seed)] = row.sa, row.ra
        found = luck_of_variants(values, self.cells)
        if not found:
            setting = "" if len(self.seeds) == 1 else " per setting"
            self.notes.append(
                f"One seed{setting}: intervals ignore run-to-run variation; use 3 or more for a "
                "paper."
            )
            return {}
        said = []
        for variant, luck in found.items():
            sa, ra = 100 * np.sqrt(luck.variance)
            rest = ", taken from the others" if luck.borrowed else ""
            said.append(f"{variant} {sa:.1f} in SA and {ra:.1f} in RA{rest}")
        self.notes.append(
            f"{len(self.seeds)} seeds: the standard deviation between trainings of one setting, in "
            f"points, is {'; '.join(said)}."
        )
        return found

    def _add_trainings(self, rng: np.random.Generator) -> None:
        """Move every network in each draw by what its seeds may have had of luck."""
        if not self.luck:
            return
        network = networks_of(self.cells)
        moves = np.empty((RESAMPLES, network.max() + 1, 2))
        _, first = np.unique(network, return_index=True)
        for number, variant in enumerate(self.cells["variant"].iloc[first]):
            own = self.luck[variant]
            draws = rng.standard_t(own.freedom, size=(RESAMPLES, 2))
            moves[:, number] = draws * np.sqrt(own.variance)
        seeds = self.cells["seeds"].to_numpy()
        self.samples = (self.samples + moves[:, network] / np.sqrt(seeds)[:, None]).clip(0, 1)

    def _intervals(self) -> None:
        """Add intervals to the cells: those of the draws, Wilson's where no seeds tell a spread."""
        for k, name in enumerate(("sa", "ra")):
            low, high = quantiles(self.samples[:, :, k])
            least, most = np.array([*map(wilson, self.cells[name], self.cells["images"])]).T
            low, high = (low, high) if self.luck else (least, most)
            # images drawn from those that are all right, or all wrong, are so too
            low = np.where(self.cells[name] == 1, np.minimum(low, least), low)
            high = np.where(self.cells[name] == 0, np.maximum(high, most), high)
            self.cells[f"{name}_low"], self.cells[f"{name}_high"] = low, high

    def hypervolumes(self, members: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the hypervolume of a set of cells under each draw, shape (`RESAMPLES`,)."""
        key = members.tobytes()  # the dedicated models stand beside every variant
        if key not in self._areas:
            self._areas[key] = hypervolumes(self.samples[:, members])
        return self._areas[key]

    def difference(self, i: int, j: int, k: int) -> Difference:
        """Return cell ``i`` minus cell ``j`` in SA (``k`` = 0) or RA (1)."""
        name, kind = (("sa", "clean"), ("ra", "robust"))[k]
        one, other = self._rows[i], self._rows[j]
        spreads = [self._spread(cell, k) for cell in (one, other)] if self.luck else []
        both = [self._right(cell, kind) for cell in (one, other)]
        if both[0] is not None and both[1] is not None and len(both[0]) == len(both[1]):
            return paired_difference(both[0], both[1], spreads)
        images = (one["images"], other["images"])
        return unpaired_difference(one[name], other[name], images, spreads)

    def rates(self, pairs: Sequence[tuple[int, int]]) -> Rates:
        """Tell how far models differ: the two of each pair by image, and trainings of a setting.

        What is not known is NaN: the first without results by image, the second with one seed.
        """
        apart = [self._apart(pairs, kind) for kind in ("clean", "robust")]
        clean, robust = (float(np.mean(found)) if found else nan for found in apart)
        own = [luck for luck in self.luck.values() if not luck.borrowed]
        if not own:
            return Rates(clean, robust, nan, nan)
        freedoms = [luck.freedom for luck in own]
        variance = np.average([luck.variance for luck in own], axis=0, weights=freedoms)
        sa, ra = np.sqrt(variance)
        return Rates(clean, robust, float(sa), float(ra))

    def _apart(self, pairs: Sequence[tuple[int, int]], kind: str) -> list[float]:
        """Return for each pair the share of the images that one of the two alone has right.

        Of several seeds it is the mean over all pairs of trainings: of the shares p and q of
        trainings that have an image right, p(1 - q) + q(1 - p).
        """
        found = []
        for i, j in pairs:
            p, q = (self._right(self._rows[cell], kind) for cell in (i, j))
            if p is not None and q is not None and len(p) == len(q):
                found.append(float(np.mean(p + q - 2 * p * q)))
        return found

    def _spread(self, cell: Mapping[Hashable, Any], k: int) -> Spread:
        """Return the variance of a cell's mean by the luck of its trainings."""
        luck = self.luck[cell["variant"]]
        return float(luck.variance[k]) / cell["seeds"], luck.freedom

    def _right(self, cell: Mapping[Hashable, Any], kind: str) -> NDArray[np.float64] | None:
        """Return the share of a cell's trainings that have each image right, shape (N,)."""
        found = [self._correct.get(f"{key}.{kind}") for key in cell["point_keys"].split()]
        arrays = [right for right in found if right is not None]
        if len(arrays) < len(found) or len({len(right) for right in arrays}) > 1:
            return None
        share: NDArray[np.float64] = np.mean(arrays, axis=0)
        return share


def _drawn_images(images: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return how often each image is in each of `RESAMPLES` draws, (R, images)."""
    counts = np.empty((RESAMPLES, images), np.float32)
    for first in range(0, RESAMPLES, 100):
        drawn = rng.integers(images, size=(100, images))
        counts[first : first + 100] = [np.bincount(row, minlength=images) for row in drawn]
    return counts
