"""Points as a data frame: the one shape that every table, front and figure derives from."""

import json
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import asdict
from itertools import chain
from typing import Any

import pandas as pd

from oat.training import EpochRecord
from studies.choosing import UNKNOWN_PRECISION
from studies.intervals import wilson
from studies.masking import CHECK_COLUMNS, masking_columns
from studies.methods import recipe
from studies.planning import Plan
from studies.records import Correct, ResultError, read_checks, read_points, read_result
from studies.storage import Folder, in_threads, open_folder

COLUMNS: dict[str, str] = {
    "point_key": "str",
    "run_key": "str",
    "training_id": "str",
    "method": "str",
    "variant": "str",
    "lam": "float64",
    "beta": "float64",
    "width_mult": "float64",
    "recipe": "str",
    "seed": "int64",
    "attack": "str",
    "attack_settings": "str",
    "eps": "float64",
    "step_size": "float64",
    "sa": "float64",
    "sa_low": "float64",
    "sa_high": "float64",
    "ra": "float64",
    "ra_low": "float64",
    "ra_high": "float64",
    "images": "int64",
    "warnings": "str",
    "masking": "str",
    **dict.fromkeys(CHECK_COLUMNS, "float64"),
    "dataset": "str",
    "data_fingerprint": "str",
    "model": "str",
    "epochs": "int64",
    "precision": "str",
    "budget": "str",
    "checkpoint_rule": "str",
    "checkpoint_epoch": "int64",
    "results_version": "int64",
    "flops": "int64",
    "deployed_bytes": "int64",
    "in_situ_flops": "int64",
    "in_situ_parameters": "int64",
    "network_bytes": "int64",
    "parameters": "int64",
    "train_device_seconds": "float64",
    "train_units": "float64",
    "train_gradients": "float64",
}
"""Columns of a point and their types. SA, RA are fractions with Wilson's 95 % intervals; λ is NaN
for TRADES, β elsewhere. ``precision`` is that of the training, ``not recorded`` for older ones.
``recipe``: see `studies.methods.recipe`. ``masking`` and the checks: see `studies.masking`."""

DERIVED = ("sa_low", "sa_high", "ra_low", "ra_high", "recipe", "masking", *CHECK_COLUMNS)
"""Columns that are not stored: they follow from what is."""

TAGS = {"masking": "oat.masking"}
"""Columns that are tags of a point's MLflow run and not params: they may change."""

ORDER = [
    "variant",
    "width_mult",
    "lam",
    "beta",
    "seed",
    "checkpoint_rule",
    "attack",
    "point_key",
]

OPERATING_POINT = [
    "run_key",
    "training_id",
    "checkpoint_rule",
    "lam",
    "beta",
    "width_mult",
]
"""What two points share that differ by their attack alone."""


def frame(rows: Iterable[Mapping[str, Any]], also: Iterable[str] = ()) -> pd.DataFrame:
    """Make the data frame of points from flat rows, typed and in a fixed order.

    Args:
        rows: A mapping for each point.
        also: Columns of numbers to have beyond `COLUMNS`.
    """
    types = {**COLUMNS, **dict.fromkeys(also, "float64")}
    table = pd.DataFrame(list(rows), columns=list(types))
    return table.astype(types).sort_values(ORDER, ignore_index=True)


def attack_column(label: str) -> str:
    """Return the column of RA under an attack: ``ra_pgd20_0_05`` for ``pgd20@0.05``."""
    return "ra_" + re.sub("[^A-Za-z0-9_]", "_", label)


def with_attack_columns(table: pd.DataFrame) -> pd.DataFrame:
    """Add a column for each attack: RA of the row's own operating point under that attack.

    It is NaN where the operating point was not judged by it. Where it was judged so several times,
    the lowest RA on the most images counts.
    """
    place = table.groupby(OPERATING_POINT, dropna=False).ngroup()
    ranked = table.sort_values(["images", "ra"], ascending=[False, True])
    columns = {}
    for column, points in ranked.groupby(table["attack"].map(attack_column)):
        first = points["ra"].groupby(place[points.index]).first()
        columns[str(column)] = place.map(first).astype("float64")
    return table.assign(**columns)


def study_points(plan: Plan, folder: Folder) -> pd.DataFrame:
    """Read the points of a study from its folder.

    Returns:
        The frame, with one column more: ``folder``, the URI of the point's trial.
    """
    places = {trial.run_key: folder.sub(f"trials/{trial.run_key}") for trial in plan.trials}
    read = in_threads(lambda trial: read_planned(places[trial.run_key], trial.job), plan.trials)
    uris = {run_key: place.uri for run_key, place in places.items()}
    table = frame(chain.from_iterable(read))
    return table.assign(folder=table["run_key"].map(uris).astype("str"))


def correctness(table: pd.DataFrame) -> Correct:
    """Read which images each point of a frame has right, from its ``folder`` column.

    Points whose folder is not there are left out.
    """
    if "folder" not in table:
        return {}
    wanted = set(table["point_key"])

    def read(place: str) -> Correct:
        _, correct, _ = _read_sound(open_folder(place))
        return {key: right for key, right in correct.items() if key.partition(".")[0] in wanted}

    places = sorted(map(str, table["folder"].unique()))
    return dict(chain.from_iterable(found.items() for found in in_threads(read, places)))


def read_planned(folder: Folder, job: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Read the points and checks that a job asks for; see `read_trial`."""
    points = {point["point_key"]: point for point in job["points"]}
    rows, _ = read_trial(folder, points, {check["check_key"] for check in job["checks"]})
    # the same weights may be part of another study, whose budget is then another
    own = {"budget": job["budget"], "recipe": recipe(job["config"]["train"])}
    # a point judged before settings were kept has the same key, and so the same settings
    settings = {key: point["attack_settings"] for key, point in points.items()}
    return [{**row, **own, "attack_settings": settings[row["point_key"]]} for row in rows]


def read_trial(
    folder: Folder, wanted: Iterable[str], checks: Container[str] | None = None
) -> tuple[list[dict[str, Any]], Correct]:
    """Read the wanted points of a trial, and which images each has right.

    Signs of masked gradients are looked for in all points of the trial, wanted or not.

    Args:
        folder: The trial's folder.
        wanted: Point keys.
        checks: Check keys to heed; None is the latest check of each operating point.

    Returns:
        Rows, with intervals and checks added, and boolean arrays (N,) under
        ``<point_key>.clean`` and ``<point_key>.robust``. Both are empty for a trial that is not
        finished.
    """
    rows, correct, training_id = _read_sound(folder)
    if training_id is None:
        return [], {}
    keys, known = set(wanted), read_checks(folder, training_id)
    heeded = [check for check in known if checks is None or check["check_key"] in checks]
    masking = masking_columns(rows, correct, heeded)
    rows = [row for row in rows if row["point_key"] in keys]
    correct = {key: value for key, value in correct.items() if key.partition(".")[0] in keys}
    before = {"precision": UNKNOWN_PRECISION}
    return [{**before, **row, **_wilson(row), **masking[row["point_key"]]} for row in rows], correct


def _read_sound(folder: Folder) -> tuple[list[dict[str, Any]], Correct, str | None]:
    """Read all points of a trial, and its training; nothing of one that is not finished."""
    try:
        result = read_result(folder)
    except ResultError:
        result = None
    if result is None or result["status"] != "done":
        return [], {}, None
    training_id = str(result["trained"]["training_id"])
    return *read_points(folder, training_id), training_id


def _wilson(row: Mapping[str, Any]) -> dict[str, float]:
    """Return Wilson's intervals of a point's accuracies."""
    columns = {}
    for name in ("sa", "ra"):
        columns[f"{name}_low"], columns[f"{name}_high"] = wilson(row[name], row["images"])
    return columns


def read_epochs(folder: Folder) -> list[dict[str, Any]]:
    """Read the epochs of a trial; those from a damaged line on are left out."""
    try:
        lines = folder.read("epochs.jsonl").splitlines()
    except FileNotFoundError:
        return []
    epochs = []
    for line in lines:
        try:
            epochs.append(asdict(EpochRecord(**json.loads(line))))
        except (ValueError, TypeError):
            break
    return epochs
