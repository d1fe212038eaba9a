"""A trained model as a file that needs nothing of ours, checked against its network."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal, TypedDict, get_args

import torch
from torch import Tensor, nn

from oat.data import Split, unit
from oat.models import Pair
from oat.operating import OperatingPoint
from studies.deploying.formats import Run, read_onnx, read_pt2, write_onnx, write_pt2
from studies.deploying.loading import open_file
from studies.deploying.model import TrainedModel
from studies.errors import ModelError
from studies.naming import listed
from studies.trial.shapes import Fields
from studies.trial.weights import pack

Target = Literal["safetensors", "pt2", "onnx", "mlflow"]
TARGETS: tuple[Target, ...] = get_args(Target)

TOLERANCE = 1e-4
"""How far logits of a file may be from those of the network, in units of logits of at most 1, else
relative to them."""
CHECK_IMAGES = 256
"""Held-out images that a file is checked on, at most."""
ODD_BATCHES = (1, 7)
"""Numbers of images beside that of the check: a file must take any."""
KNOB_LAMS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Where the knob of a model that knows any λ is checked beside the λ of its training."""


class Agreement(TypedDict):
    """How a file agrees with the network that it was made from, on held-out images.

    Attributes:
        images: How many.
        lams: λ that were set; empty for a file of one point.
        largest_difference: Between logits, relative where these are larger than 1.
        same_class: Share of the images that get the same class.
    """

    images: int
    lams: list[float]
    largest_difference: float
    same_class: float


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
    if target == "safetensors" and whole:
        if width is not None:
            raise ModelError(
                "The whole knob as safetensors has all widths; name a `lam` too, or leave the "
                "width out."
            )
        path.write_bytes(pack(model.network.state_dict(), model.about))
        again = open_file(path, torch.device("cpu"))
        pairs = [(again.at(*point), model.at(*point)) for point in model.points()]
        found = _together([_agree(a, (b,), held_out, ()) for a, b in pairs], model.lams)
    else:
        at = 1.0 if width is None else width
        module = model.knob(at) if whole else model.at(lam, at)
        lams = _lams_to_check(model) if whole else ()
        run = _write(model, module, target, path, held_out, OperatingPoint(lam, at))
        references = tuple(_reference(model, one, at) for one in lams) if whole else (module,)
        found = _agree(run, references, held_out, lams)
    _refuse_if_apart(found, path)
    record = _record(model, target, path, found, study, None if whole else lam, width)
    path.with_name(path.name + ".json").write_text(json.dumps(record, indent=1, ensure_ascii=False))
    return Exported(path, record)


def _write(
    model: TrainedModel,
    module: nn.Module,
    target: Target,
    path: Path,
    held_out: Split,
    point: OperatingPoint,
) -> Run:
    """Write a module; return what is read back."""
    example = example_of(model, held_out, whole=model.has_knob and point.lam is None)
    if target == "pt2":
        write_pt2(module, example, path)
        return read_pt2(path)
    if target == "onnx":
        write_onnx(module, example, path)
        return read_onnx(path)
    assert target == "safetensors"
    if not hasattr(module, "config"):
        raise ModelError(
            f"{model.label} at {point.lam:g} is two networks that run together; export it to pt2 "
            "or onnx, or leave `lam` out for the weights of both."
        )
    said = {**model.about, "point": point._asdict()}
    path.write_bytes(pack(module.state_dict(), said))
    return open_file(path, torch.device("cpu")).at()


def example_of(model: TrainedModel, held_out: Split, *, whole: bool) -> tuple[Tensor, ...]:
    """Return inputs of a module: two images, and a λ for each where it has a knob."""
    images = unit(held_out.images[:2])
    return (images, torch.full((len(images),), model.lams[0])) if whole else (images,)


def _reference(model: TrainedModel, lam: float, width: float) -> nn.Module:
    """Return what a whole knob must be at one λ; that of a mixture gives log-probabilities."""
    network = model.at(lam, width)
    return nn.Sequential(network, nn.LogSoftmax(1)) if isinstance(model.network, Pair) else network


def _lams_to_check(model: TrainedModel) -> tuple[float, ...]:
    return tuple(sorted({*model.lams, *(KNOB_LAMS if model.any_lam else ())}))


@torch.no_grad()
def _agree(
    run: Callable[..., Tensor],
    references: Sequence[nn.Module],
    held_out: Split,
    lams: Sequence[float],
) -> Agreement:
    """Hold a file against networks: at each λ, or at its one point."""
    images = unit(held_out.images[:CHECK_IMAGES])
    largest, same = 0.0, 1.0
    for i, reference in enumerate(references):
        expected = reference(images)
        for count in (len(images), *ODD_BATCHES):
            few = images[:count]
            given = (few, torch.full((len(few),), lams[i])) if lams else (few,)
            logits, wanted = run(*given), expected[:count]
            if logits.shape != wanted.shape:
                raise ModelError(
                    f"The exported model returns {tuple(logits.shape)} for {count} images, "
                    f"not {tuple(wanted.shape)}."
                )
            apart = (logits - wanted).abs() / wanted.abs().clamp(min=1)
            largest = max(largest, apart.max().item())
            same = min(same, (logits.argmax(1) == wanted.argmax(1)).double().mean().item())
    return {
        "images": len(images),
        "lams": list(lams),
        "largest_difference": largest,
        "same_class": same,
    }


def _together(found: Sequence[Agreement], lams: Sequence[float]) -> Agreement:
    return {
        "images": found[0]["images"],
        "lams": list(lams),
        "largest_difference": max(one["largest_difference"] for one in found),
        "same_class": min(one["same_class"] for one in found),
    }


def _refuse_if_apart(found: Agreement, path: Path) -> None:
    """Remove a file that does not agree with its network, and say so; NaN does not agree."""
    if found["largest_difference"] <= TOLERANCE and found["same_class"] == 1:
        return
    path.unlink()
    raise ModelError(
        f"The exported model does not agree with the network: logits differ by up to "
        f"{found['largest_difference']:.2g} (at most {TOLERANCE:g}), and "
        f"{100 * found['same_class']:.1f} % of {found['images']} held-out images get the same "
        f"class; '{path}' was not kept."
    )


def _record(
    model: TrainedModel,
    target: Target,
    path: Path,
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
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
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
