"""What is stored of one trial: its state, its epochs, its error with the traceback."""

from dataclasses import dataclass

from oat.names import unknown
from studies.errors import QueryError
from studies.naming import listed
from studies.planning.plan import Plan
from studies.storage.folder import Folder
from studies.storage.sealed import ResultError
from studies.trial.records import read_epochs, read_failed
from studies.trial.stored import Epoch, Failed

SHORTEST = 4
"""Characters of a run key that may stand for all of it."""


@dataclass(frozen=True)
class TrialLog:
    """What a trial has said, as storage has it now.

    Attributes:
        run_key: Of the trial.
        name: Label and seed; the run key of one that is not in the plan.
        state: As in the plan; ``not in the plan`` of one of tuning or of other settings.
        reason: Why it is in that state, if that is not clear.
        folder: Path or URI of its folder.
        epochs: What each epoch did.
        failure: How its last try failed; None if it did not, or the record is damaged.
        remarks: What else its folder says: a damaged record, a checkpoint that could not be read.
    """

    run_key: str
    name: str
    state: str
    reason: str | None
    folder: str
    epochs: tuple[Epoch, ...]
    failure: Failed | None
    remarks: tuple[str, ...]


def read_trial_log(current: Plan, folder: Folder, trial: str) -> TrialLog:
    """Read what is stored of a trial.

    Args:
        current: The plan of the study.
        folder: The study's folder.
        trial: A run key or how it begins, or a label, with ``seed N`` where there are several.

    Raises:
        QueryError: There is no such trial, or there are several.
    """
    run_key = _find(current, folder, trial)
    place = folder.sub(f"trials/{run_key}")
    planned = next((one for one in current.trials if one.run_key == run_key), None)
    remarks, failure = [], None
    try:
        failure = read_failed(place)
    except ResultError:
        remarks.append("failure.json is damaged, so the traceback is lost.")
    if place.size("checkpoint.error") is not None:
        said = place.read("checkpoint.error").decode(errors="replace")
        remarks.append(f"A checkpoint was not used: {said}")
    return TrialLog(
        run_key,
        run_key if planned is None else f"{planned.label} seed {planned.seed}",
        "not in the plan" if planned is None else planned.state,
        None if planned is None else planned.reason,
        place.uri,
        tuple(read_epochs(place)),
        failure,
        tuple(remarks),
    )


def _find(current: Plan, folder: Folder, trial: str) -> str:
    """Return the run key of the trial that is meant."""
    names = {one.run_key: f"{one.label} seed {one.seed}" for one in current.trials}
    found = [
        one.run_key
        for one in current.trials
        if trial in {one.run_key, one.label, names[one.run_key]}
    ]
    if not found and len(trial) >= SHORTEST:
        others = (key for key in folder.sub("trials").names() if key not in names)
        found = [key for key in (*names, *others) if key.startswith(trial)]
    if not found:
        said = unknown("trial", trial, {one.label for one in current.trials})
        raise QueryError(
            f"`--trial`: {said} Or give a run key, of which {SHORTEST} characters may do; "
            "`oat plan` lists them."
        )
    if len(found) > 1:
        which = listed(f"{names.get(key, 'not in the plan')} ({key})" for key in found)
        raise QueryError(
            f"`--trial` must name one trial, and '{trial}' may be {which}; give more of the run "
            "key, or the label with its seed."
        )
    return found[0]
