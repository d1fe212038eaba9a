"""Weights of a trained model: files that say by themselves which network they are of."""

import hashlib
import json
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, NotRequired, TypedDict, cast

from studies.storage.folder import Folder
from studies.storage.sealed import ResultError
from studies.trial.shapes import Fields, TrialConfig, TrialJob
from studies.trial.stored import Trained, Weights

if TYPE_CHECKING:
    from torch import Tensor

    from oat.data import Dataset

KEY = "oat"
"""Key of the metadata in a safetensors file under which `About` stands, as JSON."""


class About(TypedDict):
    """What a weights file says of itself.

    Attributes:
        run_key: Of the trial.
        config: All that decides the weights: network, method, λ set, widths, data, seed, ….
        image_shape: Channels, height and width of the images.
        classes: Names of the classes, by index.
        checkpoint: Rule by which the weights were chosen; not in the files of a trial, so that
            rules that chose the same weights have the same file.
        epoch: That they are of, from 1; likewise.
        point: λ and width of a model that was exported at one operating point.
        alphas: α of the study, of a model that is made of two others; its weights file has none.
    """

    run_key: str
    config: TrialConfig
    image_shape: list[int]
    classes: list[str]
    checkpoint: NotRequired[str]
    epoch: NotRequired[int]
    point: NotRequired[Fields]
    alphas: NotRequired[list[float]]


def about(job: TrialJob, dataset: "Dataset") -> About:
    """Describe the weights of a trial, whatever rule chose them."""
    return {
        "run_key": job["run_key"],
        "config": job["config"],
        "image_shape": list(dataset.image_shape),
        "classes": list(dataset.classes),
    }


def weights_file(rule: str) -> str:
    """Return the name of the file that holds the weights of a checkpoint rule."""
    return "model.safetensors" if rule == "last" else f"model-{rule}.safetensors"


def pack(state: Mapping[str, "Tensor"], said: Mapping[str, object]) -> bytes:
    """Make a safetensors file of a network's state, with what it says of itself."""
    import torch
    from safetensors.torch import save

    # cloned, as no two may share memory: a module that has two places in a network is in it twice
    tensors = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in state.items()
    }
    return save(tensors, {KEY: json.dumps(said)})


def write_weights(
    folder: Folder, rule: str, epoch: int, said: About, state: Mapping[str, "Tensor"]
) -> Weights:
    """Write the weights of a checkpoint rule.

    Args:
        folder: The trial's folder.
        rule: The rule.
        epoch: That they are of, from 1.
        said: What the file says of itself.
        state: The network's state dict.
    """
    data = pack(state, said)
    folder.write(weights_file(rule), data)
    return {"epoch": epoch, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def read_weights(folder: Folder, trained: Trained, rule: str) -> bytes:
    """Read the weights of a checkpoint rule.

    Raises:
        ResultError: They are not those that were written.
    """
    data = folder.read(weights_file(rule))
    if hashlib.sha256(data).hexdigest() != trained["weights"][rule]["sha256"]:
        raise ResultError(f"'{folder.sub(weights_file(rule)).uri}' is not what was written.")
    return data


def said_by(data: bytes) -> dict[str, object] | None:
    """Return what a weights file says of itself; None of one that says nothing.

    Raises:
        ValueError: It is no safetensors file.
    """
    try:
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        told = header.get("__metadata__", {}).get(KEY)
        return None if told is None else cast(dict[str, object], json.loads(told))
    except (struct.error, ValueError, AttributeError, MemoryError) as error:
        raise ValueError("it is no safetensors file") from error
