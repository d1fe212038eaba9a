"""OAT beside the cheap ways to a trade-off: mixed and interpolated models."""

from typing import Any

import numpy as np
import pandas as pd

from studies.comparison.fronts import front_name
from studies.comparison.resampling import Resampled
from studies.statistics.frontier import hypervolume
from studies.statistics.intervals import measured_ratio

LOSES, BEATS, EVEN = "loses to", "beats", "cannot be told from"
"""What OAT does to a rival: by the interval of the ratio of their areas."""


def against_rivals(draws: Resampled, fronts: pd.DataFrame) -> pd.DataFrame:
    """Set the front of each variant of OAT beside that of each rival at the full width.

    Args:
        draws: The cells, and the same under resampling.
        fronts: See `studies.comparison.fronts.measure_fronts`, for the price.

    Returns:
        A row for each pair: ``once`` and ``rival``; ``area``, the hypervolume of OAT's front over
        the rival's, with interval; ``verdict``; ``work`` and ``seconds``, the training of OAT over
        that of the rival's models.
    """
    cells, rows = draws.cells, list[dict[str, Any]]()
    full, several = cells["width_mult"].max(), cells["width_mult"].nunique() > 1
    widest = (cells["width_mult"] == full).to_numpy()
    price = fronts.drop_duplicates("front").set_index("front")
    rival = draws.once & ~draws.conditional & widest
    for ours in cells.loc[draws.conditional & widest, "variant"].unique():
        mine = np.flatnonzero(widest & (cells["variant"] == ours))
        for name in cells.loc[rival, "variant"].unique():
            other = np.flatnonzero(widest & (cells["variant"] == name))
            areas = [hypervolume(cells[["sa", "ra"]].to_numpy()[some]) for some in (mine, other)]
            samples = draws.hypervolumes(other)
            if not areas[1]:
                continue
            names = [front_name(one, full, several) for one in (ours, name)]
            found = measured_ratio("area", areas[0] / areas[1], draws.hypervolumes(mine), samples)
            rows.append(
                {
                    "once": ours,
                    "rival": name,
                    **found,
                    "verdict": _verdict(found["area_low"], found["area_high"]),
                    "work": _share(price["train_cost"], *names),
                    "seconds": _share(price["device_seconds"], *names),
                }
            )
    return pd.DataFrame(rows)


def _verdict(low: float, high: float) -> str:
    return LOSES if high < 1 else BEATS if low > 1 else EVEN


def _share(price: pd.Series, ours: str, other: str) -> float:
    """Return the price of one front over another's; NaN where that has none."""
    return float(price[ours] / price[other]) if price[other] > 0 else float("nan")


def rival_remarks(rivals: pd.DataFrame) -> list[str]:
    """Say how OAT stands to each rival, a sentence for each."""
    said = []
    for row in rivals.to_dict("records"):
        price = (
            ""
            if np.isnan(row["work"])
            else f", and its training {row['work']:.2f} times the cost of the rival's models"
            + ("" if np.isnan(row["seconds"]) else f" ({row['seconds']:.2f} times the device time)")
        )
        area = f"{row['area']:.3f} [{row['area_low']:.3f}, {row['area_high']:.3f}]"
        said.append(
            f"{row['once']} {row['verdict']} {row['rival']}: its front has {area} times the area"
            f"{price}."
        )
    return said
