"""What a comparison lacks and what its reader must know, a sentence for each."""

import itertools
import math
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from studies.known_methods import ONCE, RIVALS
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
        notes.append(f"Without a whole result: {lacking}.")
    if lacking := listed(_missing_seeds(points, grid)):
        notes.append(f"Without a point under this attack: {lacking}.")
    points = points[~points["method"].isin(RIVALS)]  # their value is no λ
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
        notes.append(f"OAT was not evaluated at {places(theirs - ours)}.")
    widths = points.loc[once, "width_mult"]
    lone = points[~once & points["lam"].isna() & ~points["width_mult"].isin(widths)]
    if len(widths) and len(lone):
        names = listed(name_point(row, seed=False) for _, row in lone.iterrows())
        notes.append(f"OAT was not evaluated at the width of {names}.")
    if theirs and ours - theirs:
        notes.append(
            f"No model was retrained by PGD-AT at {places(ours - theirs)}, where OAT was evaluated."
        )
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


def distance_notes(
    grid: pd.DataFrame,
    points: pd.DataFrame,
    attacks: Collection[str],
    correct: Correct,
    masking: pd.DataFrame,
) -> list[str]:
    """Say how far RA falls under every other attack at the same radius, on the same images.

    Args:
        grid: Points under every attack.
        points: Those that are compared, the worst over some attacks.
        attacks: These attacks.
        correct: Which images each point has right.
        masking: See `studies.results.masking.masking_table`; its strongest attack is told too.
    """
    place = ["run_key", "checkpoint_rule", "lam", "width_mult"]
    mine = points.assign(name=[name_point(row) for row in points.to_dict("records")])
    notes = []
    for other, theirs in grid[~grid["attack"].isin(attacks)].groupby("attack"):
        falls = []
        for row in mine.merge(theirs, on=[*place, "eps"], suffixes=("", "_other")).itertuples():
            own, its = (
                correct.get(f"{key}.robust") for key in (row.point_key, row.point_key_other)
            )
            if own is not None and its is not None:
                images = min(len(own), len(its))
                fall = float(own[:images].mean() - its[:images].mean())
                falls.append(Fall(fall, str(row.name), images))
        notes += _distance(f"'{other}'", falls)
    if any("@" in attack for attack in attacks) or "check_ra_strong" not in masking:
        return notes
    falls = []
    cell = ["variant", "lam", "beta", "width_mult", "recipe", "seed"]
    for row in mine.merge(masking, on=cell, suffixes=("", "_other")).itertuples():
        own = correct.get(f"{row.point_key}.robust")
        if own is None or math.isnan(row.check_images) or math.isnan(row.check_ra_strong):
            continue
        images = int(row.check_images)
        if images <= len(own):
            falls.append(Fall(float(own[:images].mean()) - row.check_ra_strong, row.name, images))
    return notes + _distance("the strongest attack of the masking checks", falls)


class Fall(NamedTuple):
    """How much lower RA is under another attack.

    Attributes:
        fall: As a fraction of the images.
        name: Of the point.
        images: How many images both attacks were run on.
    """

    fall: float
    name: str
    images: int


def _distance(attack: str, falls: Sequence[Fall]) -> list[str]:
    if not falls:
        return []
    worst = max(falls)
    mean = float(np.mean([found.fall for found in falls]))
    images = min(found.images for found in falls)
    several = f"{len(falls)} points" if len(falls) > 1 else "1 point"
    where = f"Under {attack}, on the first {images} images of {several}, RA is"
    if worst.fall <= 0:
        return [f"{where} lower at none (on average {abs(100 * mean):.1f} points higher)."]
    return [
        f"{where} {100 * mean:.1f} points lower on average and {100 * worst.fall:.1f} at most "
        f"({worst.name})."
    ]


def start_notes(fronts: pd.DataFrame) -> list[str]:
    """Say of models that start from others what their price leaves out."""
    return [
        f"The training time and cost of '{name}' count only the epochs after its start; add the "
        "training of the model that it starts from."
        for name in fronts["front"]
        if " start=" in name
    ]


def unequal_note(fronts: pd.DataFrame) -> list[str]:
    """Say so where a hypervolume ratio is between fronts of different numbers of points."""
    notes = []
    for _, here in fronts.groupby("width_mult", dropna=False):
        theirs = here.loc[here["ratio"].isna(), "operating_points"].max()
        odd = here[here["ratio"].notna() & (here["operating_points"] != theirs)]
        if len(odd) and theirs == theirs:  # at all widths together retrained models have no row
            each = [
                f"{row.front} has {row.operating_points:g} operating points"
                for row in odd.itertuples()
            ]
            notes.append(
                f"{', '.join(each)}, the retrained models have {theirs:g}; more points cover more "
                "area. See the matched ratio."
            )
    return notes
