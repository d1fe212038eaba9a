"""Fronts of one model and of retrained ones: their area with intervals, and their price."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from studies.frontier import hypervolume, pareto_mask
from studies.resampling import Resampled, quantiles

ALL_WIDTHS = "all widths"
RATIO = ("ratio", "ratio_low", "ratio_high")

Members = NDArray[np.int64]


def front_name(variant: str, width_mult: float | None, several: bool) -> str:
    """Name a front: the variant, with its width (None is all of them) where there are several."""
    if not several:
        return variant
    return f"{variant} {ALL_WIDTHS if width_mult is None else f'width={width_mult:g}'}"


def measure_fronts(draws: Resampled, points: pd.DataFrame) -> pd.DataFrame:
    """Measure the front of each variant, and of all dedicated models together, at each width.

    Where there are several widths, what has more than one is measured over all of them as well:
    a once-for-all network is one model there, and the same one at each of its widths.

    Args:
        draws: The cells, and the same under resampling.
        points: The points that the cells are of.

    Returns:
        A row for each front; see `studies.comparison.Comparison`.
    """
    cells = draws.cells
    widths = sorted(cells["width_mult"].unique(), reverse=True)
    places: list[float | None] = [*widths, None] if len(widths) > 1 else list(widths)
    rows: list[dict[str, Any]] = []
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
                    **_front(draws, members, points),
                    **_ratio(draws, members, dedicated if once else members[:0]),
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
        groups["all dedicated"] = dedicated
    return groups


def _front(draws: Resampled, members: Members, points: pd.DataFrame) -> dict[str, Any]:
    """Measure one front, and what its models cost."""
    cells = draws.cells.iloc[members]
    places = cells[["variant", "width_mult"]].drop_duplicates()
    runs = points.merge(places, on=["variant", "width_mult"]).drop_duplicates("run_key")
    low, high = quantiles(draws.hypervolumes(members))
    values = cells[["sa", "ra"]].to_numpy()
    seeds = runs["seed"].nunique()
    return {
        "models": len(runs) / seeds,
        "operating_points": len(members),
        "on_front": int(pareto_mask(values).sum()),
        "hypervolume": hypervolume(values),
        "hypervolume_low": low,
        "hypervolume_high": high,
        "device_seconds": runs["train_device_seconds"].sum() / seeds,
        "train_units": runs["train_units"].sum() / seeds,
        "network_bytes": runs["network_bytes"].sum() / seeds,
    }


def _ratio(draws: Resampled, ours: Members, theirs: Members) -> dict[str, float]:
    """Return the hypervolume of one front over another's; NaN where that has no area."""
    values = draws.cells[["sa", "ra"]].to_numpy()
    samples = draws.hypervolumes(theirs)
    if not len(theirs) or not samples.all() or not hypervolume(values[theirs]):
        return dict.fromkeys(RATIO, np.nan)
    low, high = quantiles(draws.hypervolumes(ours) / samples)
    value = hypervolume(values[ours]) / hypervolume(values[theirs])
    return dict(zip(RATIO, (value, float(low), float(high)), strict=True))
