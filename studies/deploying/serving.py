"""A trained model in MLflow: served over HTTP, with λ and width in each request."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from oat.data import Split, unit
from oat.models import Interpolation
from studies.deploying.agreement import agree, check_knob, example_of, refuse_if_apart
from studies.deploying.formats import read_pt2, write_pt2
from studies.deploying.model import TrainedModel
from studies.errors import ModelError
from studies.tracking.experiment import Experiment
from studies.tracking.model_registry import ModelToLog, Registered, register

SCRIPT = Path(__file__).with_name("served_model.py")
PACKAGES = ("torch", "numpy", "mlflow")


def serve_by(
    experiment: Experiment,
    model: TrainedModel,
    held_out: Split,
    *,
    lam: float | None,
    width: float | None,
    alias: str | None,
) -> Registered:
    """Log a model with the run that trained it, and register it under the study's name.

    Args:
        experiment: Of the study.
        model: The model, on the CPU.
        held_out: One of its images is the example of a request.
        lam: The λ of a request that names none; None is the first of the model.
        width: The width of such a request; None is the widest.
        alias: Points to the new version; None for none.

    Raises:
        ModelError: The trial has no run in MLflow, the model has no such point, or what was
            written does not agree with the network.
        TrackingError: MLflow does not take it.
    """
    _point_of(model, lam, width)
    run_id = _run_of(experiment, model)
    with to_log(model, held_out, study=experiment.study, lam=lam, width=width) as logged:
        return register(experiment.uri, run_id, experiment.study, logged, alias)


@contextmanager
def to_log(
    model: TrainedModel,
    held_out: Split,
    *,
    study: str,
    lam: float | None = None,
    width: float | None = None,
) -> Iterator[ModelToLog]:
    """Write what MLflow is given of a model to files, which are there until the block is left.

    Args:
        model: The model, on the CPU.
        held_out: One of its images is the example of a request.
        study: Name of the study.
        lam: The λ of a request that names none; None is the first of the model.
        width: The width of such a request; None is the widest.

    Raises:
        ModelError: The model has no such point, cannot be exported, or what was written does not
            agree with the network.
    """
    if isinstance(model.network, Interpolation):
        raise ModelError(
            f"{model.label} cannot be served, as it has other weights at each α; export it at one "
            "α as pt2 or onnx (`--at-lam`, in Python `at_lam`)."
        )
    first, widest = _point_of(model, lam, width)
    # what the model does not have is refused; without the parameter MLflow would ignore it
    defaults = {"lam": first, "width_mult": widest}
    with tempfile.TemporaryDirectory(prefix="oat-export-") as place:
        folder = Path(place) / "model"
        folder.mkdir()
        _write(model, held_out, folder, first)
        yield ModelToLog(
            name=f"{model.label} seed {model.about['config']['seed']}",
            script=SCRIPT,
            folder=folder,
            example=unit(held_out.images[:1]).numpy(),
            classes=len(model.classes),
            params=defaults,
            requirements=[f"{name}=={version(name).partition('+')[0]}" for name in PACKAGES],
            said={
                "study": study,
                "model": model.label,
                "run_key": model.about["run_key"],
                "checkpoint": model.about["checkpoint"],
                "lams": list(model.lams),
                "any_lam": model.any_lam,
                "widths": list(model.widths),
                "classes": list(model.classes),
            },
        )


def _point_of(
    model: TrainedModel, lam: float | None, width: float | None
) -> tuple[float | None, float]:
    """Return the λ and width of a request that names none, which the model has."""
    first = model.lams[0] if model.has_knob and lam is None else lam
    widest = max(model.widths) if width is None else width
    model.check(first, widest)
    return first, widest


def _run_of(experiment: Experiment, model: TrainedModel) -> str:
    key = model.about["run_key"]
    runs = experiment.trial_runs(key)
    if not runs:
        raise ModelError(
            f"MLflow at '{experiment.uri}' has no run of {model.label} ({key}); `oat sync` brings "
            "it from storage."
        )
    return runs[0]


def _write(model: TrainedModel, held_out: Split, folder: Path, default: float | None) -> None:
    """Write a network for each width, each checked, and what they know."""
    files = {}
    for width in model.widths:
        module = model.knob(width) if model.has_knob else model.at(None, width)
        name = f"width-{width:g}.pt2"
        write_pt2(module, example_of(model, held_out, whole=model.has_knob), folder / name)
        run = read_pt2(folder / name)
        if model.has_knob:
            refuse_if_apart(check_knob(model, width, held_out, run))
        else:
            refuse_if_apart(agree(run, (module,), held_out, ()))
        files[f"{width:g}"] = name
    record = {
        "files": files,
        "image_shape": list(model.image_shape),
        "lams": list(model.lams),
        "any_lam": model.any_lam,
        "trained": {"0": model.has_trained(0.0), "above 0": model.has_trained(1.0)},
        "default_lam": default,
        "classes": list(model.classes),
    }
    (folder / "record.json").write_text(json.dumps(record, indent=1))
