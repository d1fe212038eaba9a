"""That a trial goes on, is judged and starts from others on the data that these were made from.

Run keys do not hold the images, only where they come from: files may change under a study.
"""

import json

from oat.data import DataError, Dataset
from studies.storage.folder import Folder
from studies.storage.sealed import ResultError
from studies.trial.checkpoints import TrainingState, has_checkpoint
from studies.trial.records import read_result, read_trained
from studies.trial.shapes import TrialJob
from studies.trial.stored import Trained

CURE = "put the old data back, or give the study another `name` to start anew on these"


def fingerprint_of(folder: Folder) -> str | None:
    """Return the fingerprint of the data that a trial's weights were made from.

    None where there are neither weights nor a checkpoint, and for records older than this.
    """
    try:
        result = read_result(folder)
        trained = read_trained(folder) if result is None else None
    except ResultError:  # it is made anew
        return None
    if result is not None and result["status"] == "done":
        trained = result["trained"]
    if result is None and trained is None and not has_checkpoint(folder):
        return None
    return recorded(folder, trained)


def recorded(folder: Folder, made: Trained | TrainingState | None) -> str | None:
    """Return the fingerprint that a record tells, or else the trial's provenance.

    Args:
        folder: Of the trial.
        made: The record of its training, or its checkpoint.
    """
    if made is not None and "data_fingerprint" in made:
        return str(made["data_fingerprint"])
    try:
        told = json.loads(folder.read("provenance.json"))["data_fingerprint"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # it has no digest of its own
        return None
    return str(told)


def check_own(
    job: TrialJob, folder: Folder, made: Trained | TrainingState | None, dataset: Dataset
) -> None:
    """Check that a trial goes on with the data that it began with.

    Args:
        job: Of the trial.
        folder: Its folder.
        made: What is known of its weights, or its checkpoint; None where there are none.
        dataset: The data at hand.

    Raises:
        DataError: It was trained on others.
    """
    if made is not None:
        check_same(f"Trial {job['run_key']}", recorded(folder, made), dataset.fingerprint)


def check_same(name: str, then: str | None, now: str) -> None:
    """Check that what is there was made from the data at hand.

    Args:
        name: What it is, for people.
        then: Fingerprint of the data that it was made from; None if that is not known.
        now: Of those at hand.

    Raises:
        DataError: They are others.
    """
    if then is not None and then != now:
        raise DataError(
            f"{name} was trained on data with fingerprint {then}, and `data` has {now} now; {CURE}."
        )
