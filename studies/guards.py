"""What may be compared with what, what a comparison lacks, and what its reader must know."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from oat.recipe import RULES
from studies.errors import ComparisonError
from studies.methods import ONCE, name_point, value_text
from studies.records import Correct

MUST_AGREE = {
    "data_fingerprint": "data",
    "images": "numbers of test images",
    "eps": "ε of the evaluation",
    "step_size": "step sizes of the evaluation attack",
    "attack_settings": "settings of the evaluation attack",
    "budget": "training settings (data, model, train, attack)",
    "checkpoint_rule": "checkpoint rules",
    "results_version": "versions of the results",
}
MANY = 8
"""Points that a note names; of more it names these and says how many there are."""


def listed(names: Iterable[str]) -> str:
    """List names, the first few of many."""
    known = list(dict.fromkeys(names))
    more = len(known) - MANY
    return ", ".join(known[:MANY]) + (f" and {more} more" if more > 0 else "")


def finite_points(points: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Leave out points whose accuracy is not a number from 0 to 1, and say which.

    Raises:
        ComparisonError: There are no points, or none is left.
    """
    if points.empty:
        raise ComparisonError("There are no points to compare yet; `oat run` makes them.")
    sound = points["sa"].between(0, 1) & points["ra"].between(0, 1)
    if sound.all():
        return points, []
    bad = listed(name_point(row) for _, row in points[~sound].iterrows())
    if not sound.any():
        raise ComparisonError(f"No point has an accuracy from 0 to 1 ({bad}).")
    return points[sound], [f"Left out, as their accuracy is not a number from 0 to 1: {bad}."]


def one_checkpoint(points: pd.DataFrame, rule: str | None) -> tuple[pd.DataFrame, list[str]]:
    """Keep the points of one checkpoint rule; all of them where no rule serves every model.

    Raises:
        ComparisonError: No model has the rule asked for; or a point's rule is none of ours, so
            that its weights may have been chosen on test data.
    """
    if foreign := sorted(set(points["checkpoint_rule"]) - set(RULES)):
        raise ComparisonError(
            f"The checkpoint rule '{foreign[0]}' is unknown ({', '.join(RULES)}): its weights may "
            "have been chosen on test data, which is never compared, `--force` or not."
        )
    rules = points.groupby("run_key")["checkpoint_rule"].agg(set)
    common = set.intersection(*rules)
    if rule is None:
        if not common:
            return points, []  # refused later, unless forced
        rule = "last" if "last" in common else min(common)
    kept = points[points["checkpoint_rule"] == rule]
    if kept.empty:
        known = ", ".join(sorted(set(points["checkpoint_rule"])))
        raise ComparisonError(f"No model was judged with '{rule}' weights; there are {known}.")
    lost = points[~points["run_key"].isin(kept["run_key"])]
    if lost.empty:
        return kept, []
    names = ", ".join(sorted(set(lost["variant"])))
    return kept, [f"{lost['run_key'].nunique()} models ({names}) have no '{rule}' weights."]


def check_comparable(points: pd.DataFrame, force: bool) -> list[str]:
    """Refuse points of different settings, or note them if forced.

    Raises:
        ComparisonError: They differ, and are not forced.
    """
    notes = []
    for column, what in MUST_AGREE.items():
        values = points[column].unique()
        if len(values) > 1:
            said = f"The points come from different {what}: {', '.join(sorted(map(str, values)))}"
            if not force:
                raise ComparisonError(f"{said}; compare them apart, or use `--force`.")
            notes.append(f"{said}; compared all the same.")
    return notes


def precision_notes(points: pd.DataFrame) -> list[str]:
    """Name the models of each precision, if they were not all trained in one."""
    if "precision" not in points or points["precision"].nunique() < 2:
        return []
    named = (
        f"{kind} ({listed(sorted(set(map(_trial_name, rows.to_dict('records')))))})"
        for kind, rows in points.groupby("precision")
    )
    return [f"The models were trained in different precisions: {'; '.join(named)}."]


def _trial_name(row: Mapping[Any, Any]) -> str:
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
