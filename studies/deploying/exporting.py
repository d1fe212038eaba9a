"""A trained model as a file that needs nothing of ours, checked against its network."""

import hashlib
import json
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal, TypedDict, get_args

import torch
from torch import nn

from oat.data import Split
from oat.files import write_atomic
from oat.models import Interpolation
from oat.operating import OperatingPoint
from studies.deploying.agreement import (
    Agreement,
    agree,
    check_knob,
    example_of,
    refuse_if_apart,
    together,
)
from studies.deploying.formats import Run, read_onnx, read_pt2, write_onnx, write_pt2
from studies.deploying.loading import open_file
from studies.deploying.model import TrainedModel
from studies.errors import ModelError
from studies.naming import listed
from studies.trial.shapes import Fields
from studies.trial.weights import pack

Target = Literal["safetensors", "pt2", "onnx", "mlflow"]
TARGETS: tuple[Target, ...] = get_args(Target)


class ExportRecord(TypedDict):
    """All that somebody with the file alone would ask: the JSON beside it.

    Attributes:
        study: Name of the study.
        model: Label of the model.
        seed: Of its training.
        run_key: Of its trial.
        checkpoint: Rule that chose its weights.
        epoch: That they are of, from 1.
        format: One of `TARGETS`.
        sha256: Of the file.
        lam: λ of the point; None of a whole knob, and of a dedicated model.
        width: Share of the channels; None is full width, and in safetensors all widths.
        lams: λ that the knob was trained at; empty of one point.
        any_lam: Whether the knob takes every λ in [0, 1].
        image_shape: Channels, height and width; images are float32 in [0, 1].
        classes: Names of the classes, by index of the logits.
        attack: Fields of the training's attack.
        check: How the file agrees with the network.
        versions: Of the packages that wrote and read it.
    """

    study: str
    model: str
    seed: int
    run_key: str
    checkpoint: str
    epoch: int
    format: Target
    sha256: str
    lam: float | None
    width: float | None
    lams: list[float]
    any_lam: bool
    image_shape: list[int]
    classes: list[str]
    attack: Fields
    check: Agreement
    versions: dict[str, str]


@dataclass(frozen=True)
class Exported:
    """What was exported.

    Attributes:
        path: The file.
        record: Everything that stands in the JSON file beside it.
    """

    path: Path
    record: ExportRecord

    def sentence(self) -> str:
        """Say what was written and what its check has shown."""
        check = self.record["check"]
        return (
            f"{self.path} is written; on {check['images']} held-out images its logits differ from "
            f"the network's by at most {check['largest_difference']:.1g}, and every class is the "
            f"same. {self.path.name}.json says what it is."
        )


def export_to(
    model: TrainedModel,
    target: Target,
    path: Path,
    held_out: Split,
    *,
    lam: float | None,
    width: float | None,
    study: str,
) -> Exported:
    """Write a model, or one point of it, and what the check of it has shown beside it.

    Args:
        model: The model, on the CPU.
        target: The format; not ``mlflow``.
        path: The file.
        held_out: Images of the check.
        lam: λ; None is the whole knob, or the one point of a dedicated model.
        width: Share of the channels; None is full width, and of safetensors all widths.
        study: Name of the study, for the record.

    Raises:
        ModelError: The model has no such point, or the file does not agree with the network.
    """
    whole = model.has_knob and lam is None
    if whole and isinstance(model.network, Interpolation):
        model.knob()  # says why there is none
    if target == "safetensors" and whole and width is not None:
        raise ModelError(
            "The whole knob as safetensors has all widths; name a `lam` too, or leave the width "
            "out."
        )
    try:
        with tempfile.TemporaryDirectory(prefix="oat-export-") as place:
            part = Path(place) / f"part.{target}"
            found = _write_and_check(model, target, part, held_out, lam, width)
            refuse_if_apart(found)
            data = part.read_bytes()
        record = _record(model, target, data, found, study, None if whole else lam, width)
        write_atomic(path, data)
        said = json.dumps(record, indent=1, ensure_ascii=False).encode()
        write_atomic(path.with_name(path.name + ".json"), said)
    except OSError as error:
        raise ModelError(f"'{path}' cannot be written ({error.strerror or error}).") from error
    return Exported(path, record)


def _write_and_check(
    model: TrainedModel,
    target: Target,
    path: Path,
    held_out: Split,
    lam: float | None,
    width: float | None,
) -> Agreement:
    """Write a model, or one point of it; return how what is read back agrees with the network."""
    whole = model.has_knob and lam is None
    if target == "safetensors" and whole:
        path.write_bytes(pack(model.network.state_dict(), model.about))
        again = open_file(path, torch.device("cpu"))
        pairs = [(again.at(*point), model.at(*point)) for point in model.points()]
        return together([agree(a, (b,), held_out, ()) for a, b in pairs], model.lams)
    at = max(model.widths) if width is None else width
    if whole:
        return check_knob(
            model, at, held_out, _write(model, model.knob(at), target, path, held_out)
        )
    module = model.at(lam, at)
    run = _write(model, module, target, path, held_out, OperatingPoint(lam, at))
    return agree(run, (module,), held_out, ())


def _write(
    model: TrainedModel,
    module: nn.Module,
    target: Target,
    path: Path,
    held_out: Split,
    point: OperatingPoint | None = None,
) -> Run:
    """Write a module, of a point or the whole knob; return what is read back."""
    example = example_of(model, held_out, whole=point is None)
    if target == "pt2":
        write_pt2(module, example, path)
        return read_pt2(path)
    if target == "onnx":
        write_onnx(module, example, path)
        return read_onnx(path)
    assert point is not None
    if not hasattr(module, "config"):
        raise ModelError(
            f"{model.label} at {point.lam:g} is two networks that run together; export it to pt2 "
            "or onnx, or leave `lam` out for the weights of both."
        )
    path.write_bytes(pack(module.state_dict(), {**model.about, "point": point._asdict()}))
    return open_file(path, torch.device("cpu")).at()


def _record(
    model: TrainedModel,
    target: Target,
    data: bytes,
    found: Agreement,
    study: str,
    lam: float | None,
    width: float | None,
) -> ExportRecord:
    config = model.about["config"]
    return {
        "study": study,
        "model": model.label,
        "seed": config["seed"],
        "run_key": model.about["run_key"],
        "checkpoint": model.about["checkpoint"],
        "epoch": model.about["epoch"],
        "format": target,
        "sha256": hashlib.sha256(data).hexdigest(),
        "lam": lam,
        "width": width,
        "lams": [] if lam is not None else list(model.lams),
        "any_lam": model.any_lam and lam is None,
        "image_shape": list(model.image_shape),
        "classes": list(model.classes),
        "attack": config["attack"],
        "check": found,
        "versions": {name: version(name) for name in _packages(target)},
    }


def _packages(target: Target) -> list[str]:
    return ["oat-studies", "torch", *(["onnx", "onnxruntime"] if target == "onnx" else [])]


def check_target(name: str) -> Target:
    """Return a target by its name.

    Raises:
        ModelError: There is no such one.
    """
    for target in TARGETS:
        if target == name:
            return target
    raise ModelError(f"`to` must be one of {listed(TARGETS)}, got '{name}'.")
