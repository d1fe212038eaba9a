"""What may be compared with what: refusals, and notes on points that differ in their settings."""

from collections.abc import Iterable

import pandas as pd

from oat.recipe import RULES
from studies.comparison.notes import trial_name
from studies.errors import ComparisonError
from studies.naming import listed, name_point

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

    Returns:
        The points, and the variants of which a model has none by that rule.

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
        raise ComparisonError(f"No model was evaluated with '{rule}' weights; known: {known}.")
    lost = points[~points["run_key"].isin(kept["run_key"])]
    if lost.empty:
        return kept, []
    first = lost.drop_duplicates("run_key")
    first = first.drop(columns="recipe", errors="ignore")  # which is not known yet
    return kept, [f"{name_point(row)} by the rule '{rule}'" for _, row in first.iterrows()]


def check_one_data(points: pd.DataFrame, force: bool) -> list[str]:
    """Refuse points on different images, under whichever attacks, or note them if forced.

    Raises:
        ComparisonError: They differ, and are not forced.
    """
    return check_comparable(points, force, ["data_fingerprint"])


def differing(points: pd.DataFrame) -> list[str]:
    """Name what should agree and does not, among all points or those under one attack."""
    found = {
        what
        for column, what in MUST_AGREE.items()
        for _, some in points.groupby("attack")
        if some[column].nunique(dropna=False) > 1
    }
    if points["data_fingerprint"].nunique() > 1:
        found.add(MUST_AGREE["data_fingerprint"])
    return [what for what in MUST_AGREE.values() if what in found]


def check_comparable(
    points: pd.DataFrame, force: bool, columns: Iterable[str] = tuple(MUST_AGREE)
) -> list[str]:
    """Refuse points of different settings, or note them if forced.

    Args:
        points: A frame of points.
        force: Note it.
        columns: Which settings, of `MUST_AGREE`.

    Raises:
        ComparisonError: They differ, and are not forced.
    """
    notes = []
    for column in columns:
        values, what = points[column].unique(), MUST_AGREE[column]
        if len(values) > 1:
            said = f"The points come from different {what}: {', '.join(sorted(map(str, values)))}"
            if not force:
                raise ComparisonError(f"{said}; compare them apart, or use `--force`.")
            notes.append(f"{said}; compared anyway (`--force`).")
    return notes


def precision_notes(points: pd.DataFrame) -> list[str]:
    """Name the models of each precision, if they were not all trained in one."""
    if "precision" not in points or points["precision"].nunique() < 2:
        return []
    named = (
        f"{kind} ({listed(sorted(set(map(trial_name, rows.to_dict('records')))))})"
        for kind, rows in points.groupby("precision")
    )
    return [f"The models were trained in different precisions: {'; '.join(named)}."]
