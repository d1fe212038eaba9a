"""The trained models of other trials of the study, whose weights a trial is made from."""

import json
from dataclasses import dataclass
from typing import cast

from torch import Tensor

from oat.data import Dataset
from studies.storage.folder import Folder
from studies.storage.opening import open_folder
from studies.storage.sealed import ResultError
from studies.trial.checkpoints import TrainingState
from studies.trial.records import read_result
from studies.trial.same_data import check_same, recorded
from studies.trial.shapes import TrialConfig, TrialJob
from studies.trial.stored import Trained
from studies.trial.weights import About, read_weights, said_by


class SourceError(Exception):
    """A model that a trial is made from cannot be had."""


@dataclass(frozen=True)
class SourceModel:
    """A trained model of another trial.

    Attributes:
        run_key: Of its trial.
        folder: Of its trial.
        trained: The record of its training.
    """

    run_key: str
    folder: Folder
    trained: Trained

    @property
    def training_id(self) -> str:
        """Of its training."""
        return self.trained["training_id"]

    def config(self) -> TrialConfig:
        """Read all that decides its weights; they say it as well, should its file be damaged."""
        try:
            config: TrialConfig = json.loads(self.folder.read("config.json"))
        except ValueError:
            rule = next(iter(self.trained["weights"]))
            said = said_by(read_weights(self.folder, self.trained, rule))
            if said is None:
                raise
            config = cast(About, said)["config"]
        return config

    def weights(self, rule: str) -> dict[str, Tensor]:
        """Read the weights of a checkpoint rule, on the CPU.

        Raises:
            ResultError: They are not those that were written.
        """
        from safetensors.torch import load

        return load(read_weights(self.folder, self.trained, rule))


def read_sources(job: TrialJob, dataset: Dataset) -> list[SourceModel]:
    """Return the models that a trial is made from, in the order of its job; none of most trials.

    Args:
        job: Of the trial.
        dataset: Its data.

    Raises:
        SourceError: One is not trained, has diverged or is damaged.
        DataError: One was trained on other data.
    """
    found = []
    for label, run_key in job.get("sources", {}).items():
        source = _read(job, label, run_key)
        then = recorded(source.folder, source.trained)
        check_same(f"{label} ({run_key})", then, dataset.fingerprint)
        found.append(source)
    return found


def read_all_behind(job: TrialJob, sources: list[SourceModel]) -> list[SourceModel]:
    """Return the models that a trial is made from, those that these are made from, and so on.

    Each is there once.

    Args:
        job: Of the trial.
        sources: See `read_sources`.

    Raises:
        SourceError: See `read_sources`.
    """
    found: dict[str, SourceModel] = {}
    left = [*sources]
    while left:
        source = left.pop()
        if source.run_key not in found:
            found[source.run_key] = source
            left += [_read(job, key, key) for key in source.trained.get("sources", {})]
    return list(found.values())


def _read(job: TrialJob, label: str, run_key: str) -> SourceModel:
    folder = _folder(job, run_key)
    try:
        result = read_result(folder)
    except ResultError as error:
        raise SourceError(f"It cannot start: {label} ({run_key}) is damaged: {error}") from error
    if result is None:
        raise SourceError(f"It cannot start: {label} ({run_key}) is not trained.")
    if result["status"] == "diverged":
        raise SourceError(f"It cannot start: {label} ({run_key}) has diverged.")
    return SourceModel(run_key, folder, result["trained"])


def check_still_there(job: TrialJob, made: Trained | TrainingState | None) -> None:
    """Check that the models that weights were made from were not trained anew since.

    One that is not there at the moment, or is damaged, is no reason to throw weights away.

    Args:
        job: Of the trial.
        made: What is known of the weights; None where there are none.

    Raises:
        ResultError: One has another training by now.
    """
    for run_key, training_id in ({} if made is None else made.get("sources", {})).items():
        try:
            result = read_result(_folder(job, run_key))
        except ResultError:
            continue
        if result is None or result["status"] == "diverged":
            continue
        if result["trained"]["training_id"] != training_id:
            raise ResultError(f"'{run_key}', which the weights were made from, was trained anew.")


def _folder(job: TrialJob, run_key: str) -> Folder:
    return open_folder(job["siblings"]).sub(run_key)
