"""A model in MLflow: logged with a trial's run, and registered under the study's name."""

import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
from mlflow.models import Model, ModelSignature
from mlflow.models.model import ModelInfo
from mlflow.tracking import MlflowClient
from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec
from numpy.typing import NDArray

from studies.tracking.experiment import refusals

TRACKING_URI = "MLFLOW_TRACKING_URI"
NOT_IN_A_NAME = re.compile(r"""[/:.%"']""")


@dataclass(frozen=True)
class ModelToLog:
    """What MLflow is given.

    Attributes:
        name: Of the model, for people; MLflow takes no ``/ : . % " '``, which become ``_``.
        script: What it runs to serve the model.
        folder: Its files.
        example: Images (N, C, H, W), as a request has them.
        classes: Number of classes.
        params: What a request may set, with its default; None where the model takes no value.
        requirements: Packages, pinned.
        said: What the model's page shows beside it.
    """

    name: str
    script: Path
    folder: Path
    example: NDArray[np.float32]
    classes: int
    params: Mapping[str, float | None]
    requirements: list[str]
    said: Mapping[str, object]


@dataclass(frozen=True)
class Registered:
    """A version of a registered model.

    Attributes:
        name: Of the registered model.
        version: Of it, from 1.
        uri: By which MLflow loads it.
    """

    name: str
    version: str
    uri: str

    def sentence(self) -> str:
        """Say what there is now, and how to serve it."""
        return (
            f"{self.uri} is registered; `mlflow models serve -m {self.uri}` serves it, with "
            "MLFLOW_TRACKING_URI set to where it lies."
        )


def register(uri: str, run_id: str, name: str, model: ModelToLog, alias: str | None) -> Registered:
    """Log a model with a run and register it.

    Args:
        uri: Tracking URI.
        run_id: Run of the trial that trained it.
        name: Of the registered model; a new version of it is made.
        model: What is logged.
        alias: Points to the new version; None for none.

    Raises:
        TrackingError: MLflow does not take it.
    """
    with refusals(uri), _asking(uri):
        logged = _log(uri, run_id, model, {}, registered_model_name=name)
        made = str(logged.registered_model_version)
        if alias is not None:
            MlflowClient(tracking_uri=uri).set_registered_model_alias(name, alias, made)
    return Registered(name, made, f"models:/{name}/{made}")


def log_unregistered(uri: str, run_id: str, model: ModelToLog, tags: Mapping[str, str]) -> str:
    """Log a model with a run alone.

    Args:
        uri: Tracking URI.
        run_id: Run of the trial that trained it.
        model: What is logged.
        tags: Of the logged model; it has them before it is whole.

    Returns:
        The id of the logged model.

    Raises:
        TrackingError: MLflow does not take it.
    """
    with refusals(uri), _asking(uri):
        return str(_log(uri, run_id, model, tags).model_id)


def _log(
    uri: str, run_id: str, model: ModelToLog, tags: Mapping[str, str], **more: object
) -> ModelInfo:
    """Log a model with a run, which may have ended, in the experiment of that run."""
    client = MlflowClient(tracking_uri=uri)
    run = client.get_run(run_id)
    # `Model.log` would make it in the experiment that is set for the process, the default one
    begun = client.create_logged_model(
        run.info.experiment_id,
        NOT_IN_A_NAME.sub("_", model.name),
        run_id,
        tags=dict(tags),
        params=run.data.params,
    )
    classes = TensorSpec(np.dtype(np.float32), (-1, model.classes))
    images = TensorSpec(np.dtype(np.float32), (-1, *model.example.shape[1:]))
    params = [ParamSpec(key, "double", default) for key, default in model.params.items()]
    signature = ModelSignature(Schema([images]), Schema([classes]), ParamSchema(params))
    # not `mlflow.pyfunc.log_model`, which would open the finished run again
    return Model.log(
        None,
        mlflow.pyfunc,
        run_id=run_id,
        model_id=begun.model_id,
        python_model=str(model.script),
        artifacts={"model": str(model.folder)},
        signature=signature,
        input_example=(model.example, {k: v for k, v in model.params.items() if v is not None}),
        pip_requirements=model.requirements,
        metadata=dict(model.said),
        **more,
    )


@contextmanager
def _asking(uri: str) -> Iterator[None]:
    """Let MLflow's functions ask a store, and leave things afterwards as if they had not.

    They keep it for the process, and in the environment for others. What they say meanwhile is
    about their insides.
    """
    there = os.environ.get(TRACKING_URI)  # also after the user has called `set_tracking_uri`
    mlflow.set_tracking_uri(uri)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        mlflow.set_tracking_uri(None)
        if there is not None:
            os.environ[TRACKING_URI] = there
