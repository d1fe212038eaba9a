"""Which models of trials MLflow has: told by the SHA-256 of the weights that they are of."""

from collections.abc import Mapping
from typing import Any

from studies.tracking.experiment import Experiment, Run, refusals

WEIGHTS = "oat.model_sha256"
"""Tag of a trial's run and of the model logged with it: the SHA-256 of the weights."""
MODEL = "oat.model"
"""Tag of a trial's run: the address by which MLflow loads its model."""


def runs_without(experiment: Experiment, weights: Mapping[str, str]) -> dict[str, Run]:
    """Return the runs of trials whose model is not logged yet.

    Args:
        experiment: Of the study.
        weights: SHA-256 of the weights of each trial, by run key.

    Returns:
        The runs, by run key, in the order of ``weights``; a trial that has none is left out.

    Raises:
        TrackingError: MLflow does not answer.
    """
    with refusals(experiment.uri):
        found = experiment.search("tags.`oat.kind` = 'trial'")
    runs = {run.data.tags["oat.key"]: run for run in reversed(found)}  # the oldest counts
    return {
        key: runs[key]
        for key, sha256 in weights.items()
        if key in runs and runs[key].data.tags.get(WEIGHTS) != sha256
    }


def whole_model(experiment: Experiment, run_id: str, sha256: str) -> str | None:
    """Return the id of the model of some weights that a run has, and delete what was cut off.

    A kill may come after a model is logged and before its run says so.

    Raises:
        TrackingError: MLflow does not answer.
    """
    whole = None
    with refusals(experiment.uri):
        for model in _models_of(experiment, run_id):
            if model.tags[WEIGHTS] == sha256 and str(model.status) == "READY":
                whole = str(model.model_id)
            elif str(model.status) != "READY":
                experiment.client.delete_logged_model(model.model_id)
    return whole


def say_logged(experiment: Experiment, run_id: str, model_id: str, sha256: str) -> None:
    """Write into a trial's run which model it has.

    Raises:
        TrackingError: MLflow does not take it.
    """
    with refusals(experiment.uri):
        experiment.client.set_tag(run_id, MODEL, f"models:/{model_id}")
        experiment.client.set_tag(run_id, WEIGHTS, sha256)


def delete_models_of(experiment: Experiment, run_id: str) -> None:
    """Delete what was logged with a trial's run, unless a version of the registry is made of it."""
    models = _models_of(experiment, run_id)
    if models:
        versions = experiment.client.search_model_versions(f"run_id = '{run_id}'")
        registered = {version.source for version in versions}
        for model in models:
            if not registered & {model.model_uri, model.artifact_location}:
                experiment.client.delete_logged_model(model.model_id)


def _models_of(experiment: Experiment, run_id: str) -> list[Any]:
    """Return the `LoggedModel`s that `oat run` and `oat sync` have logged with a run."""
    found = experiment.client.search_logged_models(
        [experiment.experiment_id], f"source_run_id = '{run_id}'"
    )
    return [model for model in found if WEIGHTS in model.tags]
