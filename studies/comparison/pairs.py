"""Which operating points stand beside each other, and how far apart they are.

Each function takes the cells of a comparison under resampled images and trainings; differences are
of a once-for-all model minus what stands beside it, with their intervals.
"""

import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from oat.lambdas import SAME_LAM
from studies.comparison.resampling import Resampled
from studies.comparison.verdict import to_decide, verdicts_of
from studies.statistics.intervals import Interval

DIFFERENCES = [f"{name}{end}" for name in ("d_sa", "d_ra") for end in ("", "_low", "_high")]
"""Columns of differences in SA and RA, as fractions, with the ends of their intervals."""


Pairs = list[tuple[int, int]]
"""Indices of cells that stand beside each other, the once-for-all network's first."""


def same_knob(draws: Resampled) -> Pairs:
    """Set OAT beside every dedicated cell that has a λ, at the same λ and width.

    Returns:
        Variant by variant, the widest first.
    """
    cells, pairs = draws.cells, []
    lam, width = cells["lam"].to_numpy(), cells["width_mult"].to_numpy()
    for variant in cells.loc[draws.conditional, "variant"].unique():
        mine = (cells["variant"] == variant).to_numpy()
        for j in _widest_first(draws, ~draws.once & ~np.isnan(lam)):
            twin = np.flatnonzero(
                mine & np.isclose(width, width[j]) & (np.abs(lam - lam[j]) < SAME_LAM)
            )
            pairs += [(int(i), j) for i in twin[:1]]
    return pairs


def pair_table(pairs: Pairs, draws: Resampled, margin: float) -> pd.DataFrame:
    """Set the two of each pair side by side, with the verdict; see `Comparison.table`."""
    cells = draws.cells.to_dict("records")
    found = [(draws.difference(i, j, 0), draws.difference(i, j, 1)) for i, j in pairs]
    verdicts = verdicts_of(found, margin)
    rows: list[dict[str, Any]] = []
    for (i, j), (sa, ra), verdict in zip(pairs, found, verdicts, strict=True):
        ours, dedicated = cells[i], cells[j]
        images, seeds = math.nan, math.nan
        if verdict == "undecided":
            fewest = min(ours["seeds"], dedicated["seeds"])
            images, seeds = to_decide((sa, ra), margin, dedicated["images"], fewest, 2 * len(pairs))
        rows.append(
            {
                "once": ours["variant"],
                "dedicated": dedicated["variant"],
                "lam": dedicated["lam"],
                "beta": dedicated["beta"],
                "recipe": dedicated["recipe"],
                "width_mult": dedicated["width_mult"],
                "oat_lam": ours["lam"],
                "oat_width_mult": ours["width_mult"],
                "sa_oat": ours["sa"],
                "sa_dedicated": dedicated["sa"],
                **_columns("d_sa", sa),
                "ra_oat": ours["ra"],
                "ra_dedicated": dedicated["ra"],
                **_columns("d_ra", ra),
                "verdict": verdict,
                "images_to_decide": images,
                "seeds_to_decide": seeds,
                "seeds": dedicated["seeds"],
                "seconds_oat": ours["train_device_seconds"],
                "seconds_dedicated": dedicated["train_device_seconds"],
            }
        )
    columns = rows[0].keys() if rows else ["verdict"]
    return pd.DataFrame(rows, columns=list(columns))


def nearest_dedicated(draws: Resampled) -> pd.DataFrame:
    """Set every once-for-all cell beside the dedicated one of its width that is nearest.

    Nearest in SA and RA, of all methods; see `Comparison.nearest`.
    """
    accuracies = draws.cells[["sa", "ra"]].to_numpy()
    width = draws.cells["width_mult"].to_numpy()
    rows = []
    for i in np.flatnonzero(draws.once):
        candidates = np.flatnonzero(~draws.once & np.isclose(width, width[i]))
        if len(candidates):
            away = np.linalg.norm(accuracies[candidates] - accuracies[i], axis=1)
            j = int(candidates[away.argmin()])
            rows.append({"once": int(i), "dedicated": j, **_differences(draws, int(i), j)})
    return pd.DataFrame(rows, columns=["once", "dedicated", *DIFFERENCES])


def against_plainest(draws: Resampled) -> tuple[str | None, pd.DataFrame]:
    """Set every once-for-all variant beside the plainest, at the same λ and width.

    Returns:
        The plainest variant, None if there are not two; see `Comparison.variants` for the table.
    """
    cells = draws.cells
    names = list(cells.loc[draws.conditional, "variant"].unique())
    if len(names) < 2:
        return None, pd.DataFrame()
    # OAT before OATS, then the one with the fewest options
    reference = min(names, key=lambda name: (name.split()[0], name.count(" "), name))
    of_reference = (cells["variant"] == reference).to_numpy()
    lam, width = cells["lam"].to_numpy(), cells["width_mult"].to_numpy()
    rows: list[dict[str, Any]] = []
    for i in _widest_first(draws, draws.conditional & ~of_reference):
        near = of_reference & (np.abs(lam - lam[i]) < SAME_LAM) & np.isclose(width, width[i])
        twin = np.flatnonzero(near)
        own = cells.loc[i, ["variant", "lam", "width_mult", "sa", "ra"]].to_dict()
        rows.append(own | (_differences(draws, i, int(twin[0])) if len(twin) else {}))
    return reference, pd.DataFrame(rows)


def _differences(draws: Resampled, i: int, j: int) -> dict[str, float]:
    """Return `DIFFERENCES`, cell ``i`` minus cell ``j``."""
    sa, ra = draws.difference(i, j, 0), draws.difference(i, j, 1)
    return _columns("d_sa", sa) | _columns("d_ra", ra)


def _columns(name: str, found: Interval) -> dict[str, float]:
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def _widest_first(draws: Resampled, which: NDArray[np.bool_]) -> list[int]:
    """Return the places of cells, the widest first."""
    own = draws.cells[which].sort_values("width_mult", ascending=False, kind="stable")
    return [int(str(place)) for place in own.index]
