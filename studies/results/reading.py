"""Points read from storage as a data frame, with which images each has right."""

from collections.abc import Container, Iterable
from itertools import chain
from typing import Literal, NamedTuple, TypedDict

import pandas as pd

from studies.known_methods import recipe, variant_of
from studies.planning.plan import Plan
from studies.results.masking import MaskingColumns, masking_columns
from studies.results.points import frame
from studies.statistics.intervals import wilson
from studies.storage.folder import Folder
from studies.storage.opening import in_threads, open_folder
from studies.storage.sealed import ResultError
from studies.trial.evaluated import Point
from studies.trial.records import Correct, read_checks, read_points, read_result
from studies.trial.shapes import TrialJob
from studies.trial.stored import UNKNOWN_PRECISION

Which = Literal["points", "held_out"]
"""Points on test images, or those on held-out images by which a comparison chooses λ."""


MODELS = "models"
"""In the ``attrs`` of a study's frame: the name of each of its models, by run key."""


class IntervalColumns(TypedDict):
    """Wilson's 95 % intervals of a point's accuracies, as fractions.

    Attributes:
        sa_low: Lower end of Wilson's 95 % interval of SA. Unit: fraction.
        sa_high: Its upper end. Unit: fraction.
        ra_low: Lower end of Wilson's 95 % interval of RA. Unit: fraction.
        ra_high: Its upper end. Unit: fraction.
    """

    sa_low: float
    sa_high: float
    ra_low: float
    ra_high: float


class PointRow(Point, IntervalColumns, MaskingColumns):
    """A point with the columns that follow from what its trial has stored."""


class PlannedPointRow(PointRow):
    """A point that a plan's job asks for, with the budget of that plan.

    Attributes:
        recipe: Training settings of the model's own that are not at their default, such as
            `lr=0.2`; empty if there are none. See `studies.known_methods.recipe`.
    """

    recipe: str


def study_points(plan: Plan, folder: Folder, which: Which = "points") -> pd.DataFrame:
    """Read the points of a study from its folder.

    Args:
        plan: Its plan.
        folder: Its folder.
        which: Which points.

    Returns:
        The frame, with one column more: ``folder``, the URI of the point's trial. Its attribute
        `MODELS` names all models of the plan, so that a part of it is known to be one.
    """
    places = {trial.run_key: folder.sub(f"trials/{trial.run_key}") for trial in plan.trials}
    read = in_threads(
        lambda trial: read_planned(places[trial.run_key], trial.job, which), plan.trials
    )
    uris = {run_key: place.uri for run_key, place in places.items()}
    table = frame(chain.from_iterable(read))
    table = table.assign(folder=table["run_key"].map(uris).astype("str"))
    table.attrs[MODELS] = {t.run_key: f"{t.label} seed {t.seed}" for t in plan.trials}
    return table


class Stored(NamedTuple):
    """What the folders of a frame of points hold beside it.

    Attributes:
        correct: Which images each point has right.
        held_out: Points of the same trainings on images held out of training; a frame.
    """

    correct: Correct
    held_out: pd.DataFrame


def stored_beside(table: pd.DataFrame) -> Stored:
    """Read what the folders of a frame of points hold beside it, from its ``folder`` column.

    Points whose folder is not there are left out.
    """
    if "folder" not in table:
        return Stored({}, frame([]))
    wanted = set(table["point_key"])

    def read(place: str) -> tuple[Correct, list[Point]]:
        rows, correct, _ = _read_sound(open_folder(place))
        mine = {key: right for key, right in correct.items() if key.partition(".")[0] in wanted}
        return mine, [row for row in rows if "split" in row]

    found = in_threads(read, sorted(map(str, table["folder"].unique())))
    return Stored(
        dict(chain.from_iterable(correct.items() for correct, _ in found)),
        frame(chain.from_iterable(rows for _, rows in found)),
    )


def correctness(table: pd.DataFrame) -> Correct:
    """Read which images each point of a frame has right; see `stored_beside`."""
    return stored_beside(table).correct


def read_planned(folder: Folder, job: TrialJob, which: Which = "points") -> list[PlannedPointRow]:
    """Read the points and checks that a job asks for; see `read_trial`.

    Args:
        folder: The trial's folder.
        job: What was asked for.
        which: Which of its points.
    """
    points = {point["point_key"]: point for point in job[which]}
    rows, _ = read_trial(folder, points, {check["check_key"] for check in job["checks"]})
    # the same weights may be part of another study, whose budget is then another
    budget, said = job["budget"], recipe(job["config"]["train"])
    # names and shared settings are those of the plan: a title, the label of a source or the radius
    # of training may be another one by now, which changes neither weights nor numbers
    variant = variant_of(job["config"])
    return [
        {
            **row,
            "budget": budget,
            "recipe": said,
            "variant": variant,
            "attack": points[row["point_key"]]["attack_label"],
            "attack_settings": points[row["point_key"]]["attack_settings"],
        }
        for row in rows
    ]


def read_trial(
    folder: Folder, wanted: Iterable[str], checks: Container[str] | None = None
) -> tuple[list[PointRow], Correct]:
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
    # an older row does not say its precision
    found: list[PointRow] = [
        {"precision": UNKNOWN_PRECISION, **row, **_wilson(row), **masking[row["point_key"]]}
        for row in rows
    ]
    return found, correct


def stored_keys(folder: Folder) -> set[str]:
    """Return the keys of all points that a trial has, asked for or not."""
    return {row["point_key"] for row in _read_sound(folder)[0]}


def _read_sound(folder: Folder) -> tuple[list[Point], Correct, str | None]:
    """Read all points of a trial, and its training; nothing of one that is not finished."""
    try:
        result = read_result(folder)
    except ResultError:
        result = None
    if result is None or result["status"] != "done":
        return [], {}, None
    training_id = str(result["trained"]["training_id"])
    return *read_points(folder, training_id), training_id


def _wilson(row: Point) -> IntervalColumns:
    """Return Wilson's intervals of a point's accuracies."""
    sa_low, sa_high = wilson(row["sa"], row["images"])
    ra_low, ra_high = wilson(row["ra"], row["images"])
    return {"sa_low": sa_low, "sa_high": sa_high, "ra_low": ra_low, "ra_high": ra_high}
