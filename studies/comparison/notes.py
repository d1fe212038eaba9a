"""What a comparison lacks and what its reader must know, a sentence for each."""

import itertools
from collections.abc import Iterable

import numpy as np
import pandas as pd

from studies.methods import ONCE
from studies.naming import NamedRow, listed, name_point, value_text
from studies.trial.records import Correct


class ModelRow(NamedRow):
    """What names the model of a point.

    Attributes:
        method: Name of the method.
    """

    method: str


def trial_name(row: ModelRow) -> str:
    """Name the model of a point."""
    own = "" if row["method"] in ONCE else f" {value_text(row)}"
    return f"{row['variant']}{own} seed {row['seed']}"


def missing_notes(
    points: pd.DataFrame, grid: pd.DataFrame, unfinished: Iterable[str] = ()
) -> list[str]:
    """Name the cells of the grid that have no point.

    Args:
        points: Points under one attack, of one checkpoint rule.
        grid: Points under every attack, of the same rule.
        unfinished: Trials that are planned and not done, named for people.
    """
    notes = []
    if lacking := listed(unfinished):
        notes.append(f"Planned and not there: {lacking}.")
    if lacking := listed(_missing_seeds(points, grid)):
        notes.append(f"Missing cells: {lacking}.")
    once = points["method"].isin(ONCE)
    several = points["width_mult"].nunique() > 1
    ours, theirs = (
        {(round(lam, 6), width) for lam, width in zip(some["lam"], some["width_mult"], strict=True)}
        for some in (points[once], points[~once & points["lam"].notna()])
    )

    def places(found: set[tuple[float, float]]) -> str:
        return listed(
            f"λ={lam:g}" + (f" width={width:g}" if several else "") for lam, width in sorted(found)
        )

    if ours and theirs - ours:
        notes.append(f"OAT was not judged at {places(theirs - ours)}.")
    widths = points.loc[once, "width_mult"]
    lone = points[~once & points["lam"].isna() & ~points["width_mult"].isin(widths)]
    if len(widths) and len(lone):
        names = listed(name_point(row, seed=False) for _, row in lone.iterrows())
        notes.append(f"OAT was not judged at the width of {names}.")
    if theirs and ours - theirs:
        notes.append(f"No dedicated model of PGD-AT stands beside OAT at {places(ours - theirs)}.")
    return notes


def _missing_seeds(points: pd.DataFrame, grid: pd.DataFrame) -> list[str]:
    """Name what the grid has, an operating point for each seed, and the points have not."""
    cell = ["variant", "lam", "beta", "width_mult", "recipe"]
    seeds = sorted(grid["seed"].unique())
    have = set(map(tuple, points[[*cell, "seed"]].fillna(-1).to_numpy().tolist()))
    cells = grid.drop_duplicates(cell).sort_values(cell)
    places = zip(cells.to_dict("records"), cells[cell].fillna(-1).to_numpy().tolist(), strict=True)
    return [
        f"{name_point(row, seed=False)} seed {seed}"
        for (row, place), seed in itertools.product(places, seeds)
        if (*place, seed) not in have
    ]


def stronger_note(points: pd.DataFrame, chosen: str, correct: Correct) -> list[str]:
    """Say so where another attack breaks more of the images that both were run on."""
    place = ["run_key", "lam", "width_mult"]
    mine = points[points["attack"] == chosen]
    notes = []
    for other, theirs in points[points["attack"] != chosen].groupby("attack"):
        both = mine.merge(theirs, on=[*place, "eps"], suffixes=("", "_other"))
        falls, images = [], 0
        for row in both.itertuples():
            keys = (f"{row.point_key}.robust", f"{row.point_key_other}.robust")
            if all(key in correct for key in keys):
                images = min(len(correct[key]) for key in keys)
                falls.append(np.subtract(*(correct[key][:images].mean() for key in keys)))
        if falls and np.mean(falls) > 0:
            notes.append(
                f"Under '{other}', on the first {images} images, RA is {100 * np.mean(falls):.1f} "
                f"points lower than under '{chosen}' on the same (mean over {len(falls)} points)."
            )
    return notes


def width_note(table: pd.DataFrame, cells: pd.DataFrame, seeds: int, margin: float) -> list[str]:
    """Say so where the intervals are too wide for the margin to be decided."""
    if table.empty:
        return []
    half = float((table["d_sa_high"] - table["d_sa_low"]).median() / 2)
    if half <= margin:
        return []
    images = int(cells["images"].iloc[0])
    return [
        f"With {images} test images and {seeds} seed(s) a difference in SA is known to "
        f"about ±{100 * half:.1f} points, which is more than the margin: use more test images or "
        "seeds to decide."
    ]


def unequal_note(fronts: pd.DataFrame) -> list[str]:
    """Say so where a hypervolume ratio is between fronts of unequally many points."""
    for _, here in fronts.groupby("width_mult", dropna=False):
        ours = set(here.loc[here["ratio"].notna(), "operating_points"])
        theirs = here.loc[here["ratio"].isna(), "operating_points"].max()
        if any(count != theirs for count in ours):
            return [
                "The hypervolume ratios set fronts of unequally many operating points side by "
                "side: a front of more points has more area even where no shared point is better."
            ]
    return []
