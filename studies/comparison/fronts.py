"""Fronts of one model and of retrained ones: their area with intervals, and their price."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from studies.comparison.resampling import CELL, Resampled
from studies.known_methods import CONDITIONAL
from studies.naming import in_points
from studies.statistics.frontier import coverage, hypervolume, largest_gap, pareto_mask
from studies.statistics.intervals import measured, measured_ratio

ALL_WIDTHS = "all widths"
ALL_RETRAINED = "all retrained"
Pairs = Sequence[tuple[int, int]]

SUMMARIES = ("gap", "gap_at", "covered", "break_even", "break_even_seconds")
PRICE_COLUMNS = {
    "device_seconds": "train_device_seconds",
    "train_cost": "train_units",
    "train_gradients": "train_gradients",
    "parameters": "parameters",
    "network_bytes": "network_bytes",
}
"""What a front costs, and the column of a point that it is the sum of."""

Members = NDArray[np.int64]


def front_name(variant: str, width_mult: float | None, several: bool) -> str:
    """Name a front: the variant, with its width (None is all of them) where there are several."""
    if not several:
        return variant
    return f"{variant} {ALL_WIDTHS if width_mult is None else f'width={width_mult:g}'}"


def measure_fronts(
    draws: Resampled, points: pd.DataFrame, pairs: Pairs, margin: float
) -> pd.DataFrame:
    """Measure the front of each variant, and of all dedicated models together, at each width.

    Where there are several widths, what has more than one is measured over all of them as well:
    a once-for-all network is one model there, and the same one at each of its widths.

    Args:
        draws: The cells, and the same under resampling.
        points: The points that the cells are of.
        pairs: Cells that the comparison sets side by side, the once-for-all network's first.
        margin: How much worse still counts as reached.

    Returns:
        A row for each front: its name, models, operating points, hypervolume with interval,
        highest SA (``sa_max``), and price (`train_cost` in forward passes of the plain network,
        with what FiLM adds to them). Those of a once-for-all network also have, against all
        dedicated models there:

        - ``ratio``, with interval: its hypervolume over theirs; ``matched``: the same for paired
          cells alone.
        - ``gap``: how far their attainment curve lies above at worst, in RA, and ``gap_at``, the SA
          where; an SA within the margin counts as reached. See
          `studies.statistics.frontier.largest_gap`.
        - ``covered``: the share of their front that it reaches within the margin.
        - ``break_even``: the number of dedicated models from which it is the cheaper, by the work
          of training in forward passes (FiLM included); ``break_even_seconds``: by device time.

        Gap and share have no interval: both jump with SA, and in simulated studies a bootstrap's
        held the truth in 1 to 88 % of the cases where it said 95.
    """
    cells = draws.cells
    widths = sorted(cells["width_mult"].unique(), reverse=True)
    places: list[float | None] = [*widths, None] if len(widths) > 1 else list(widths)
    rows: list[dict[str, Any]] = []
    prices = _Prices(draws, points)
    paired = np.array(pairs, np.int64).reshape(-1, 2)
    for width in places:
        here = np.ones(len(cells), bool) if width is None else (cells["width_mult"] == width)
        dedicated = np.flatnonzero(here & ~draws.once)
        for name, members in _groups(draws, np.asarray(here), dedicated).items():
            if width is None and cells["width_mult"].iloc[members].nunique() == 1:
                continue
            once = bool(draws.once[members[0]])
            rows.append(
                {
                    "front": front_name(name, width, len(widths) > 1),
                    "width_mult": np.nan if width is None else width,
                    **_front(draws, members, prices),
                    **_against(
                        draws, prices, members, dedicated if once else members[:0], paired, margin
                    ),
                }
            )
    return pd.DataFrame(rows)


def _groups(draws: Resampled, here: NDArray[np.bool_], dedicated: Members) -> dict[str, Members]:
    """Return the cells of each variant among some, and of all dedicated variants together."""
    variants = draws.cells["variant"]
    groups = {
        str(name): np.flatnonzero(here & (variants == name)) for name in variants[here].unique()
    }
    if variants.iloc[dedicated].nunique() > 1:
        groups[ALL_RETRAINED] = dedicated
    return groups


def _front(draws: Resampled, members: Members, prices: "_Prices") -> dict[str, Any]:
    """Measure one front, and what its models cost."""
    cells = draws.cells.iloc[members]
    values = cells[["sa", "ra"]].to_numpy()
    networks = prices.of(members)
    price = {name: networks[column].sum(skipna=False) for name, column in PRICE_COLUMNS.items()}
    return {
        "models": len(networks),
        "operating_points": len(members),
        "on_front": int(pareto_mask(values).sum()),
        **measured("hypervolume", hypervolume(values), draws.hypervolumes(members)),
        "sa_max": values[:, 0].max(),
        **price,
    }


def _work(points: pd.DataFrame) -> pd.Series:
    """Return the work of the training of each point, FiLM included.

    In forward passes of the plain network. A pass of a network that switches λ in place takes more
    operations than one of the plain network; `oat.price.training_units` leaves that out.
    """
    conditional = points[points["method"].isin(CONDITIONAL)]
    widest = conditional.sort_values("width_mult", ascending=False).drop_duplicates("run_key")
    widest = widest.set_index("run_key")
    share = (widest["in_situ_flops"] / widest["flops"]).clip(lower=1).fillna(1)
    return points["train_units"] * points["run_key"].map(share).fillna(1)


class _Prices:
    """What the networks of some cells cost; those of the dedicated models are asked for often."""

    def __init__(self, draws: Resampled, points: pd.DataFrame) -> None:
        self._draws, self._points = draws, points.assign(train_units=_work(points))
        self._known: dict[bytes, pd.DataFrame] = {}

    def of(self, members: Members) -> pd.DataFrame:
        """Return the price of each network that some cells are of, the mean of its seeds."""
        key = members.tobytes()
        if key not in self._known:
            places = self._draws.cells.iloc[members][["variant", "width_mult"]].drop_duplicates()
            runs = self._points.merge(places, on=["variant", "width_mult"])
            own = ["variant"] if self._draws.once[members[0]] else CELL
            grouped = runs.drop_duplicates("run_key").groupby(own, dropna=False)
            self._known[key] = grouped[list(PRICE_COLUMNS.values())].mean()
        return self._known[key]


def _against(
    draws: Resampled,
    prices: _Prices,
    ours: Members,
    theirs: Members,
    pairs: Members,
    margin: float,
) -> dict[str, float]:
    """Return what tells the front of a once-for-all network from the dedicated one."""
    values = draws.cells[["sa", "ra"]].to_numpy()
    there = pairs[np.isin(pairs[:, 0], ours) & np.isin(pairs[:, 1], theirs)]
    mine, other = (np.unique(there[:, k]) for k in (0, 1))
    found = {
        **_ratio(draws, "ratio", ours, theirs),
        **_ratio(draws, "matched", mine, other),
        **dict.fromkeys(SUMMARIES, np.nan),
    }
    if not len(theirs):
        return found
    gap, at = largest_gap(values[ours], values[theirs], margin)
    costs = [prices.of(some) for some in (ours, theirs)]
    return {
        **found,
        "gap": gap,
        "gap_at": at,
        "covered": coverage(values[theirs], values[ours], margin),
        "break_even": _break_even(*(cost["train_units"] for cost in costs)),
        "break_even_seconds": _break_even(*(cost["train_device_seconds"] for cost in costs)),
    }


def _break_even(ours: pd.Series, theirs: pd.Series) -> float:
    """Return from how many dedicated models on a once-for-all network is the cheaper."""
    if not theirs.mean() > 0:  # what was not measured has no price
        return math.nan
    # as many that cost the same are not dearer, nor does rounding make them so
    return float(np.floor(ours.sum() / theirs.mean() + 1e-9) + 1)


def _ratio(draws: Resampled, name: str, ours: Members, theirs: Members) -> dict[str, float]:
    """Return the hypervolume of one front over another's; NaN where that has no area."""
    values = draws.cells[["sa", "ra"]].to_numpy()
    unknown = dict.fromkeys((name, f"{name}_low", f"{name}_high"), np.nan)
    if not len(theirs) or not hypervolume(values[theirs]):
        return unknown
    value = hypervolume(values[ours]) / hypervolume(values[theirs])
    return measured_ratio(name, value, draws.hypervolumes(ours), draws.hypervolumes(theirs))


def front_remark(row: Mapping[Any, Any], margin: float) -> str:
    """Say what else the front of a once-for-all network tells, beside the dedicated models.

    Args:
        row: Of `measure_fronts`.
        margin: How much worse still counts as reached.
    """
    name = row["front"]
    where = f"at SA {100 * row['gap_at']:.1f} %"
    if row["sa_max"] < row["gap_at"] - margin - 1e-12:
        where += (
            f", a level that {name} does not reach (its highest SA: {100 * row['sa_max']:.1f} %)"
        )
    gap = (
        f"The largest gap is {100 * row['gap']:.1f} points of RA, {where}."
        if row["gap"] > 0
        else f"At no level of SA is its RA lower (largest gap {100 * row['gap']:.1f} points)."
    )
    price = f" Training it{clause}." if (clause := price_clause(row)) else ""
    return (
        f"{name} matches {row['covered']:.0%} of the retrained models' front within "
        f"{in_points(margin)} in SA and RA. {gap}{price}"
    )


def price_clause(row: Mapping[Any, Any]) -> str:
    """Say from how many retrained models on a once-for-all network is cheaper; "" if not known.

    Args:
        row: Of `measure_fronts`.
    """
    numbers = {
        "counted in forward passes": row["break_even"],
        "counted in device time": row["break_even_seconds"],
    }
    known = [(what, number) for what, number in numbers.items() if not math.isnan(number)]
    if not known:
        return ""
    (what, number), *rest = known
    first = f"{number:g} retrained model{'' if number == 1 else 's'} ({what})"
    more = [f"{number:g} ({what})" for what, number in rest]
    return f" costs less than training {' or '.join([first, *more])}"
