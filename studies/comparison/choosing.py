"""Choosing OAT's λ and width for each dedicated model, on images held out of training.

Nobody would deploy a point that another one of the same network beats in both accuracies, and a
choice by test images would select on what is judged afterwards. So the choice looks at held-out
images alone: of the points that no other beats there, it takes the one whose smaller difference
from the dedicated model, of those in SA and RA, is the largest. It serves every dedicated model
alike.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from studies.comparison.resampling import Resampled
from studies.naming import listed, name_point
from studies.results.worst import SAME_RADIUS
from studies.statistics.frontier import pareto_mask

LEAST_IMAGES = 100
"""Held-out images that a choice needs: where models differ on a tenth of 100 images, a difference
is known to about 6 points, and with fewer the choice would be a draw of lots."""


@dataclass(frozen=True)
class HeldOut:
    """Accuracies of the cells of a comparison on held-out images.

    Attributes:
        values: SA and RA of each cell, mean over its seeds; NaN where a seed has none, (cells, 2).
        images: How many images; 0 where there is nothing to choose by.
        attack: The attack that RA is under.
        notes: What a reader must know.
    """

    values: NDArray[np.float64]
    images: int
    attack: str
    notes: list[str]

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which cells have both accuracies, shape (cells,)."""
        finite: NDArray[np.bool_] = np.isfinite(self.values)
        return finite[:, 0] & finite[:, 1]


def held_out_values(draws: Resampled, points: pd.DataFrame, held_out: pd.DataFrame) -> HeldOut:
    """Find what each cell of a comparison achieves on held-out images.

    Args:
        draws: The cells.
        points: The test points that they are of.
        held_out: Points of the same networks on held-out images, under any attacks.
    """
    nothing = np.full((len(draws.cells), 2), np.nan)
    there = _of_the_same(points, held_out)
    if there.empty:
        said = (
            "There are no points on held-out images to choose λ by, so OAT runs at the λ of the "
            "retrained model. `oat run` evaluates them; it trains nothing for that."
        )
        return HeldOut(nothing, 0, "", [said])
    groups = [
        (attack, int(images), _values(draws, points, rows))
        for (attack, _, images), rows in there.groupby(["attack", "attack_settings", "images"])
    ]
    attack, images, values = max(
        groups, key=lambda group: (int(np.isfinite(group[2]).all(axis=1).sum()), group[1], group[0])
    )
    if images < LEAST_IMAGES:
        said = (
            f"Only {images} images are held out of training. At least {LEAST_IMAGES} are needed "
            "to choose λ (`data.val_fraction`, `evaluate.held_out_images`), so OAT runs at the λ "
            "of the retrained model."
        )
        return HeldOut(nothing, 0, "", [said])
    found = HeldOut(values, images, str(attack), [])
    lacking = draws.cells[~found.known].to_dict("records")
    names = listed(name_point(row, seed=False) for row in lacking)
    if names:
        found.notes.append(
            f"Not evaluated on held-out images, so λ was chosen without them: {names}."
        )
    return found


def _of_the_same(points: pd.DataFrame, held_out: pd.DataFrame) -> pd.DataFrame:
    """Return the points on held-out images of the same trainings, data, weights and radius."""
    eps, rules = points["eps"].iloc[0], points["checkpoint_rule"].unique()
    network = ["run_key", "training_id", "data_fingerprint"]
    known = set(map(tuple, points[network].to_numpy()))
    same = [tuple(row) in known for row in held_out[network].to_numpy()]
    near = (held_out["eps"] - eps).abs() < SAME_RADIUS
    return held_out[np.array(same, bool) & near & held_out["checkpoint_rule"].isin(rules)]


Place = tuple[str, str, float, float]


def _place(row: Mapping[Hashable, Any]) -> Place:
    """Return the network, weights, λ and width of a point."""
    lam = -1.0 if np.isnan(row["lam"]) else round(float(row["lam"]), 7)
    return row["run_key"], row["checkpoint_rule"], lam, round(float(row["width_mult"]), 7)


def _values(draws: Resampled, points: pd.DataFrame, rows: pd.DataFrame) -> NDArray[np.float64]:
    """Return SA and RA of each cell, NaN where one of its seeds is missing, (cells, 2)."""
    known = {_place(row): (row["sa"], row["ra"]) for row in rows.to_dict("records")}
    of_key = {row["point_key"]: _place(row) for row in points.to_dict("records")}
    missing = (np.nan, np.nan)
    return np.array(
        [
            np.mean([known.get(of_key[key], missing) for key in keys.split()], axis=0)
            for keys in draws.cells["point_keys"]
        ]
    )


def choose_points(draws: Resampled, held_out: HeldOut) -> list[tuple[int, int]]:
    """Choose for each dedicated cell, and each once-for-all variant, one cell of the latter.

    Of those that are no wider than the dedicated network, since a wider one costs more where it is
    deployed.

    Returns:
        Indices of cells, the once-for-all one first; variant by variant, the widest first.
    """
    cells, pairs = draws.cells, []
    width = cells["width_mult"].to_numpy()
    ours, theirs = draws.once & held_out.known, ~draws.once & held_out.known
    order = np.argsort(-width[theirs], kind="stable")
    for variant in cells.loc[draws.once, "variant"].unique():
        mine = ours & (cells["variant"] == variant).to_numpy()
        for j in np.flatnonzero(theirs)[order]:
            fits = np.flatnonzero(mine & (width <= width[j] + 1e-9))
            if len(fits):
                pairs.append((best_of(held_out.values, fits, int(j)), int(j)))
    return pairs


class Rows(NamedTuple):
    """What stands beside what.

    Attributes:
        pairs: Where λ was chosen by held-out images; empty where OAT has no such pair.
        without: Dedicated cells beside which a variant of OAT has no row though it is no wider,
            named for people.
    """

    pairs: list[tuple[int, int]]
    without: list[str]


def with_those_left(
    pairs: list[tuple[int, int]], knob: list[tuple[int, int]], draws: Resampled
) -> Rows:
    """Add for each variant of OAT the dedicated cells that have no chosen point, at their own λ.

    A model that is not evaluated on the held-out images must not leave the comparison for that,
    neither a dedicated one nor a variant of OAT.

    Args:
        pairs: Those that were chosen; empty where nothing was, so that all are at the same λ.
        knob: The pairs of the same λ and width.
        draws: The cells.
    """
    variant, width = draws.cells["variant"].to_numpy(), draws.cells["width_mult"].to_numpy()
    # a rival's row is none of OAT's
    chosen = {(variant[i], j) for i, j in pairs if draws.conditional[i]}
    every = [*pairs, *((i, j) for i, j in knob if (variant[i], j) not in chosen)]
    paired = {(variant[i], j) for i, j in every if draws.conditional[i]}
    ours, without = dict.fromkeys(variant[draws.conditional]), []
    for name in ours:
        narrowest = width[draws.conditional & (variant == name)].min()
        fits = map(int, np.flatnonzero(~draws.once & (width >= narrowest - 1e-9)))
        left = draws.cells.iloc[[j for j in fits if (name, j) not in paired]].to_dict("records")
        whose = f" ({name})" if len(ours) > 1 else ""
        without += [f"{name_point(row, seed=False)}{whose}" for row in left]
    return Rows(every if chosen else [], without)


def best_of(values: NDArray[np.float64], candidates: NDArray[np.int64], other: int) -> int:
    """Return which candidate to set beside another cell.

    Args:
        values: SA and RA of each cell on held-out images, shape (cells, 2).
        candidates: Cells to choose from, the narrowest first, then by rising λ.
        other: The cell that it is set beside.

    Returns:
        Of the candidates that no other one beats, the one whose smaller difference is the largest;
        of several, the one with the larger sum of both, then the first.
    """
    left = candidates[pareto_mask(values[candidates])]
    ahead = np.round(values[left] - values[other], 12)
    ranks = np.lexsort((-ahead.sum(axis=1), -ahead.min(axis=1)))
    return int(left[ranks[0]])
