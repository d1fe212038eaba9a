"""What tuning gained for each method, and what it cost: nobody wins by having been tuned more."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from studies.comparison.answer import Comparison
from studies.comparison.gained import Gains
from studies.comparison.resampling import CELL, Resampled
from studies.errors import StudyError
from studies.known_methods import variant_of
from studies.planning.expand import make_plan
from studies.planning.plan import Plan, PlannedTrial
from studies.results.reading import correctness, study_points
from studies.results.worst import worst_case
from studies.statistics.frontier import hypervolume
from studies.statistics.intervals import measured
from studies.storage.folder import Folder
from studies.storage.sealed import ResultError, digest
from studies.study_file.loading import load_study
from studies.study_file.study import Study
from studies.tuning.record import read_record, searches_of
from studies.tuning.winners import Search, area

START, TUNED = "own settings", "tuned"
UNKNOWN = float("nan")
ON_TEST = ("test_start", "test_tuned", "test_gain", "test_gain_low", "test_gain_high")


def gains_of_searches(searches: Sequence[Search]) -> pd.DataFrame:
    """Return what searches say of themselves, a row for each method; see `Gains`."""
    return pd.DataFrame([_row(search) for search in searches])


def _row(search: Search) -> dict[str, Any]:
    states = [trial.state for trial in search.trials]
    start = area(search.started()) if search.started() else UNKNOWN
    tuned = area(search.won()) if search.won() else UNKNOWN
    return {
        "method": search.method,
        "trials": states.count("done") + states.count("diverged"),
        "stopped_early": states.count("stopped early"),
        "failed": states.count("failed"),
        "device_seconds": search.device_seconds,
        "budget_seconds": search.budget,
        "winners": len(search.won()),
        "start": start,
        "tuned": tuned,
        "gain": tuned - start,
    }


def gains_of(study: Study, folder: Folder, attacks: Sequence[str], checkpoint: str) -> Gains | None:
    """Measure what tuning gained for the models of a study.

    Args:
        study: The study whose models are compared.
        folder: Its folder.
        attacks: RA is the worst over these.
        checkpoint: With these weights.

    Returns:
        The gains; None if the study was not tuned, or none of its models has won.

    Raises:
        ResultError: The record is damaged.
        StudyError: The study that was tuned is none of this version's.
    """
    record = read_record(folder)
    if record is None:
        return None
    searches = searches_of(record)
    tuned = make_plan(study, folder)
    planned = {trial.run_key for trial in tuned.trials}
    if not any(key in planned for search in searches for key in search.winners):
        return None
    # judged as the models that are compared, and with as many seeds
    like = {"seeds": study.seeds, "evaluate": study.dump()["evaluate"]}
    start = make_plan(load_study({**record["study"], **like}), folder)
    on_test = []
    for search in searches:
        own = _own_models(start, search.method)
        won = (start, own)
        if search.winners:
            # named, not judged: an attack of the study may need more models than these
            judging = {"evaluate": {"lams": like["evaluate"]["lams"]}}
            entries = [dict(entry) for entry in search.entries()]
            kept = load_study({**record["study"], **like, **judging, "methods": entries})
            won = (tuned, _of(tuned, make_plan(kept, folder)))
        sides = zip((START, TUNED), ((start, own), won), strict=True)
        frames = [
            _of_side(_points(plan, models, folder, attacks, checkpoint), side)
            for side, (plan, models) in sides
        ]
        on_test.append(_on_test(frames, list(attacks)))
    table = pd.concat([gains_of_searches(searches), pd.DataFrame(on_test)], axis=1)
    notes = [f"{search.method}: {note}" for search in searches for note in search.notes]
    early = record["tune"]["early_stopping"]
    if early is not None:
        notes.append(
            "In tuning, trials were stopped early where, after the learning rate had dropped, "
            f"{100 * early['slack']:g} points more of SA and RA would have added no hypervolume."
        )
    return Gains(table, notes)


def with_gains(comparison: Comparison, study: Study, folder: Folder) -> Comparison:
    """Add to a comparison what tuning gained; a note where that cannot be told.

    Args:
        comparison: Of the models of the study.
        study: The study.
        folder: Its folder.
    """
    try:
        found = gains_of(study, folder, comparison.attacks, comparison.checkpoint)
    except (ResultError, StudyError) as error:
        said = " ".join(str(error).split())
        return replace(
            comparison, notes=[*comparison.notes, f"What tuning gained is not known: {said}"]
        )
    return replace(comparison, gains=found)


def _settings(trial: PlannedTrial) -> str:
    """Return a digest that the trials of all seeds of a model share."""
    return digest({**trial.job["config"], "seed": None})


def _own_models(plan: Plan, method: str) -> set[str]:
    """Return the models of a plan that are of a variant."""
    return {_settings(trial) for trial in plan.trials if variant_of(trial.job["config"]) == method}


def _of(plan: Plan, wanted: Plan) -> set[str]:
    """Return the models of a plan that another one lists; none unless it has all of them."""
    there = {_settings(trial) for trial in plan.trials}
    found = {_settings(trial) for trial in wanted.trials}
    return found if found <= there else set()


def _points(
    plan: Plan, models: Collection[str], folder: Folder, attacks: Sequence[str], checkpoint: str
) -> pd.DataFrame:
    """Return the test points of some models; none where one is not finished."""
    part = replace(plan, trials=tuple(t for t in plan.trials if _settings(t) in models))
    table = study_points(part, folder)
    wanted = table["attack"].isin(attacks) & (table["checkpoint_rule"] == checkpoint)
    return table[wanted] if not part.unfinished() else table[:0]


def _of_side(points: pd.DataFrame, side: str) -> pd.DataFrame:
    """Tell the points of a side from the same of the other; variants of one method stay apart."""
    return points.assign(side=side, variant=f"{side} " + points["variant"])


def _on_test(frames: list[pd.DataFrame], attacks: list[str]) -> dict[str, float]:
    """Return the hypervolumes of two sides on test images, and their difference."""
    if any(frame.empty for frame in frames):
        return dict.fromkeys(ON_TEST, UNKNOWN)
    start, tuned = (set(frame["point_key"]) for frame in frames)
    points = pd.concat(frames if start != tuned else frames[:1], ignore_index=True)
    # a model of both sides has the same keys on both
    sides = [worst_case(side, correctness(side), attacks) for _, side in points.groupby("side")]
    points = pd.concat([table for table, _, _ in sides], ignore_index=True)
    if points["data_fingerprint"].nunique() > 1:
        return dict.fromkeys(ON_TEST, UNKNOWN)
    if start == tuned:
        cells = points.groupby(CELL, dropna=False)[["sa", "ra"]].mean()
        same = hypervolume(cells.to_numpy())
        return {**dict.fromkeys(ON_TEST, 0.0), "test_start": same, "test_tuned": same}
    correct = {key: right for _, known, _ in sides for key, right in known.items()}
    draws = Resampled(points, correct)
    values = draws.cells[["sa", "ra"]].to_numpy()
    members = [
        np.flatnonzero(draws.cells["variant"].str.startswith(side)) for side in (START, TUNED)
    ]
    areas = [hypervolume(values[some]) for some in members]
    samples = draws.hypervolumes(members[1]) - draws.hypervolumes(members[0])
    return {
        "test_start": areas[0],
        "test_tuned": areas[1],
        **measured("test_gain", areas[1] - areas[0], samples),
    }
