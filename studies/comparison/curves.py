"""RA(ε): robust accuracy by the radius of the attack, and the area under it.

The first point of a curve is SA, which is RA at radius 0. The area is by trapezoids from radius 0
to the largest one, divided by that, so that it is the mean accuracy over the radii, in [0, 1]. It
is the mean over the images of an area of each image, so that its variance follows from these.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from studies.comparison.resampling import CELL, luck_of_variants
from studies.naming import listed, name_point, radius_text
from studies.results.points import OPERATING_POINT
from studies.statistics.intervals import (
    Interval,
    mean_interval,
    paired_difference,
    unpaired_difference,
)
from studies.trial.records import Correct

AREA = ("area", "area_low", "area_high")


class Judged(NamedTuple):
    """Points at one radius, one for each operating point and seed.

    Attributes:
        points: A frame of points, RA the worst over the attacks at the radius.
        correct: Which images each has right, where that is known; under all attacks at the radius.
            What it holds of points at other radii is of one attack alone.
    """

    points: pd.DataFrame
    correct: Correct


def radius_curves(cells: Mapping[float, pd.DataFrame]) -> pd.DataFrame:
    """Put what a comparison at each radius says of its operating points into curves.

    Args:
        cells: `studies.comparison.answer.Comparison.cells` at each radius, by rising radius.

    Returns:
        A row for each operating point, named in ``point``, and radius: ``eps`` and ``ra``, the mean
        over seeds, with interval. Those at radius 0 are SA, on the most images that it is known on.
    """
    known = [*CELL, "method", "seeds", "images"]
    ends = ["", "_low", "_high"]
    parts = [
        found[[*known, *(f"ra{end}" for end in ends)]].assign(eps=eps)
        for eps, found in cells.items()
    ]
    clean = pd.concat(cells.values()).sort_values("images", ascending=False, kind="stable")
    first = clean.drop_duplicates(CELL)[[*known, *(f"sa{end}" for end in ends)]]
    parts.append(first.rename(columns={f"sa{end}": f"ra{end}" for end in ends}).assign(eps=0.0))
    table = pd.concat(parts, ignore_index=True)
    table["point"] = [name_point(row, seed=False) for row in table.to_dict("records")]
    columns = ["point", "method", *CELL, "seeds", "images", "eps", "ra", "ra_low", "ra_high"]
    return table[columns].sort_values([*CELL, "eps"], ignore_index=True)


def area_weights(radii: Sequence[float]) -> NDArray[np.float64]:
    """Return what RA at radius 0 and at each radius counts in the area; their sum is 1.

    Args:
        radii: Rising, all above 0.
    """
    steps = np.diff([0.0, *radii])
    weights = np.zeros(len(radii) + 1)
    weights[:-1] += steps / 2
    weights[1:] += steps / 2
    return weights / radii[-1]


def areas_under(at: Mapping[float, Judged], curves: pd.DataFrame) -> pd.DataFrame:
    """Measure the area under RA(ε) of each operating point.

    Args:
        at: The points at each radius, by rising radius.
        curves: See `radius_curves`.

    Returns:
        A row for each operating point, named in ``point``: ``area`` with interval, NaN where a seed
        lacks a radius; ``images`` that it is of; ``by_image``, whether the interval follows from
        which images withstand each radius. Else its ends are the areas under the ends of RA's
        intervals, which is as wide as it can be.
    """
    weights = area_weights(list(at))
    cells = curves.groupby(CELL, dropna=False, as_index=False).agg(
        point=("point", "first"),
        method=("method", "first"),
        seeds=("seeds", "max"),
        images=("images", "min"),
    )
    number = cells[CELL].assign(cell=range(len(cells)))
    curve_of = dict(iter(curves.merge(number, on=CELL).groupby("cell")))
    points = pd.concat([judged.points for judged in at.values()], ignore_index=True)
    correct = dict(chain.from_iterable(map(_own_correct, at.values())))
    found = {
        cell: _areas_of(group, correct, weights)
        for cell, group in points.merge(number, on=CELL).groupby("cell")
    }
    luck = luck_of_variants(_means(found, sorted(points["seed"].unique())), cells)
    rows: list[dict[str, Any]] = []
    for cell, row in cells.to_dict("index").items():
        spread = luck.get(row["variant"])
        share = found[cell].share
        if share is not None:
            spreads = [(float(spread.variance[0]) / row["seeds"], spread.freedom)] if spread else []
            interval = mean_interval(share, spreads)
        elif found[cell].whole:
            ends = (float(weights @ curve_of[cell][name]) for name in ("ra", "ra_low", "ra_high"))
            interval = Interval(*ends)
        else:
            interval = Interval(np.nan, np.nan, np.nan)
        images = row["images"] if share is None else len(share)
        named = dict(zip(AREA, (interval.value, interval.low, interval.high), strict=True))
        rows.append({**row, "images": images, **named, "by_image": share is not None})
    return pd.DataFrame(rows)[["point", "method", *CELL, "seeds", "images", *AREA, "by_image"]]


def _own_correct(judged: Judged) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield what is known of the points at a radius; of those at others its ``correct`` is not."""
    for key in judged.points["point_key"]:
        for name in (f"{key}.clean", f"{key}.robust"):
            if name in judged.correct:
                yield name, judged.correct[name]


class _Areas(NamedTuple):
    """The areas of one operating point.

    Attributes:
        whole: Whether every seed has every radius.
        seeds: Area of each image by seed, shape (N,) each; empty where that is not known.
    """

    whole: bool
    seeds: dict[int, NDArray[np.float64]]

    @property
    def share(self) -> NDArray[np.float64] | None:
        """Area of each image, mean over seeds, shape (N,)."""
        if not self.seeds:
            return None
        mean: NDArray[np.float64] = np.mean(list(self.seeds.values()), axis=0)
        return mean


def _areas_of(points: pd.DataFrame, correct: Correct, weights: NDArray[np.float64]) -> _Areas:
    """Find the area of each image under the curves of one operating point."""
    runs = list(points.groupby(["run_key", "training_id", "checkpoint_rule"]))
    if any(len(own) < len(weights) - 1 for _, own in runs):
        return _Areas(False, {})
    seeds: dict[int, NDArray[np.float64]] = {}
    for _, own in runs:
        keys = own.sort_values("eps")["point_key"]
        names = [f"{keys.iloc[0]}.clean", *(f"{key}.robust" for key in keys)]
        arrays = [correct[name] for name in names if name in correct]
        if len(arrays) < len(names):
            return _Areas(True, {})
        images = min(map(len, arrays))  # those that all radii have
        seeds[int(own["seed"].iloc[0])] = weights @ [right[:images] for right in arrays]
    alike = len(seeds) == len(runs) and len({len(areas) for areas in seeds.values()}) == 1
    return _Areas(True, seeds if alike else {})


def _means(found: Mapping[Any, _Areas], seeds: Sequence[int]) -> NDArray[np.float64]:
    """Return the area of each cell under each seed, NaN where it is not known by image."""
    values = np.full((len(found), len(seeds), 1), np.nan)
    for cell, areas in found.items():
        for seed, own in areas.seeds.items():
            values[cell, seeds.index(seed), 0] = own.mean()
    return values


def area_notes(areas: pd.DataFrame) -> list[str]:
    """Say of which operating points the area, or its interval by image, is not known."""
    notes = []
    lacking, unpaired = (
        listed(some["point"])
        for some in (areas[areas["area"].isna()], areas[areas["area"].notna() & ~areas["by_image"]])
    )
    if lacking:
        notes.append(f"No area, as a radius is missing: {lacking}.")
    if unpaired:
        notes.append(
            f"No per-image results at each radius for {unpaired}, so the intervals of the areas "
            "are as wide as they can be."
        )
    return notes


def area_remark(areas: pd.DataFrame, largest: float) -> str:
    """Say the area under RA(ε) of each variant, at the operating point where it is largest.

    Args:
        areas: See `areas_under`.
        largest: The largest radius.
    """
    known = areas.dropna(subset="area").sort_values("area", ascending=False, kind="stable")
    said = (
        f"{row['point']} {row['area']:.3f} [{row['area_low']:.3f}, {row['area_high']:.3f}]"
        for row in known.drop_duplicates("variant").to_dict("records")
    )
    return (
        f"Area under RA by radius (mean accuracy from 0 to ε={radius_text(largest)}) at the best "
        f"point of each method: {listed(said)}. The points were chosen on the same images, which "
        "favors a method with more points."
    )


def rises(at: Mapping[float, Judged]) -> list[str]:
    """Name the networks that withstand a larger radius better than a smaller one.

    By more than the interval of the difference on the same images; for each point where it is
    clearest.
    """
    clearest: dict[str, tuple[float, str]] = {}
    for (small, one), (large, other) in combinations(at.items(), 2):
        both = one.points.merge(other.points, on=OPERATING_POINT, suffixes=("", "_large"))
        for row in both.to_dict("records"):
            low, *rates = _rise(row, one.correct, other.correct)
            name = name_point(row)
            if low > max(0, clearest.get(name, (0, ""))[0]):
                places = zip(rates, (small, large), strict=True)
                said = ", ".join(f"{100 * r:.1f} at ε={radius_text(eps)}" for r, eps in places)
                clearest[name] = low, f"{name} ({said})"
    if not clearest:
        return []
    return [
        "RA is higher at a larger radius, by more than the interval of the difference: "
        f"{listed(said for _, said in clearest.values())}. This cannot be: an attack there is too "
        "weak, or gradients are masked. Evaluate with more steps, more starts or AutoAttack."
    ]


def _rise(row: Mapping[Any, Any], small: Correct, large: Correct) -> tuple[float, float, float]:
    """Return by how much RA is higher at the larger radius at least, and RA at either."""
    one = small.get(f"{row['point_key']}.robust")
    other = large.get(f"{row['point_key_large']}.robust")
    if one is None or other is None:
        counts = int(row["images_large"]), int(row["images"])
        low = unpaired_difference(row["ra_large"], row["ra"], counts).low
        return low, row["ra"], row["ra_large"]
    images = min(len(one), len(other))
    one, other = one[:images], other[:images]
    return paired_difference(other, one).low, float(one.mean()), float(other.mean())
