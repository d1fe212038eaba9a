"""Which operating points stand beside each other, and how far apart they are.

Each function takes the cells of a comparison under resampled images and trainings; differences are
of a once-for-all model minus what stands beside it, with their intervals.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from oat.lambdas import SAME_LAM
from studies.comparison.resampling import Resampled
from studies.comparison.verdict import verdict_of
from studies.statistics.intervals import Interval

DIFFERENCES = [f"{name}{end}" for name in ("d_sa", "d_ra") for end in ("", "_low", "_high")]
"""Columns of differences in SA and RA, as fractions, with the ends of their intervals."""


def pair_cells(draws: Resampled) -> list[tuple[int, int]]:
    """Pair every dedicated cell with OAT's: at the same λ, or for TRADES at the nearest SA.

    Of several points equally near, the one with the highest RA.

    Returns:
        Indices of cells, OAT's first; variant by variant, the widest first.
    """
    cells, pairs = draws.cells, []
    lam, width, sa, ra = (cells[name].to_numpy() for name in ("lam", "width_mult", "sa", "ra"))
    dedicated = _widest_first(draws, ~draws.once)
    for variant in cells.loc[draws.once, "variant"].unique():
        mine = np.flatnonzero(cells["variant"] == variant)
        for j in dedicated:
            candidates = mine[np.isclose(width[mine], width[j])]
            if not np.isnan(lam[j]):
                candidates = candidates[np.abs(lam[candidates] - lam[j]) < SAME_LAM]
            if len(candidates):
                away = np.abs(sa[candidates] - sa[j])
                # few images make ties, of which a user would deploy the more robust
                nearest = candidates[away < away.min() + 1e-9]
                pairs.append((int(nearest[ra[nearest].argmax()]), j))
    return pairs


def pair_table(pairs: list[tuple[int, int]], draws: Resampled, margin: float) -> pd.DataFrame:
    """Set the two of each pair side by side, with the verdict; see `Comparison.table`."""
    rows: list[dict[str, Any]] = []
    cells = draws.cells.to_dict("records")
    for i, j in pairs:
        ours, dedicated = cells[i], cells[j]
        sa, ra = draws.difference(i, j, 0), draws.difference(i, j, 1)
        rows.append(
            {
                "once": ours["variant"],
                "dedicated": dedicated["variant"],
                "lam": dedicated["lam"],
                "beta": dedicated["beta"],
                "recipe": dedicated["recipe"],
                "width_mult": dedicated["width_mult"],
                "oat_lam": ours["lam"],
                "sa_oat": ours["sa"],
                "sa_dedicated": dedicated["sa"],
                **_columns("d_sa", sa),
                "ra_oat": ours["ra"],
                "ra_dedicated": dedicated["ra"],
                **_columns("d_ra", ra),
                "verdict": verdict_of(sa, ra, margin),
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
    names = list(cells.loc[draws.once, "variant"].unique())
    if len(names) < 2:
        return None, pd.DataFrame()
    # OAT before OATS, then the one with the fewest options
    reference = min(names, key=lambda name: (name.split()[0], name.count(" "), name))
    of_reference = (cells["variant"] == reference).to_numpy()
    lam, width = cells["lam"].to_numpy(), cells["width_mult"].to_numpy()
    rows: list[dict[str, Any]] = []
    for i in _widest_first(draws, draws.once & ~of_reference):
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
