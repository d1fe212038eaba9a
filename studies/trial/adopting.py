"""Take a network from outside into a trial's folder: in the place of a training."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baselines import Checkpoint
from oat.data import DataError, Dataset, unit
from oat.models import ModelConfig, Network, build, count_parameters, stored_bytes
from oat.own_code import OwnCodeError
from oat.recipe import RULES
from studies.errors import StudyError
from studies.own_code import model_of
from studies.storage.folder import Folder
from studies.storage.sealed import digest
from studies.trial.shapes import TrialJob
from studies.trial.stored import Trained, Weights
from studies.trial.weights import about, write_weights

NESTED = ("state_dict", "model_state_dict", "model", "net")
"""Keys under which others keep the state dict in their files."""
OBJECTS = "Weights only load failed"
"""What torch says of a file whose objects would have to be run."""
PREFIXES = ("module.", "model.", "_orig_mod.")
"""What wrappers put before the names of tensors."""


def adopt(job: TrialJob, method: Checkpoint, dataset: Dataset, folder: Folder) -> Trained:
    """Write the weights of a network from outside, as those of every checkpoint rule.

    Its training id follows from them. What its training took is not known.

    Args:
        job: See `studies.trial.run.run_trial`.
        method: Where its weights are.
        dataset: Its data.
        folder: The trial's folder.

    Raises:
        DataError: Its file is none, or does not fit the network: which tensor. Or the network does
            not fit the data.
        StudyError: The file is not there, or not the one of the plan.
    """
    _check_file(job, method)
    network = filled(method, model_of(job["config"]), job["config"]["seed"], dataset)
    _check_logits(network, dataset, method)
    state, told = network.state_dict(), about(job, dataset)
    weights: dict[str, Weights] = {  # of every rule, as a later study may ask for another
        rule: write_weights(folder, rule, 0, told, state) for rule in RULES
    }
    return {
        "training_id": digest({"run_key": job["run_key"], "weights": weights}),
        "weights": weights,
        "device_seconds": 0.0,
        "train_units": 0.0,
        "parameters": count_parameters(network),
        "network_bytes": stored_bytes(network),
    }


def filled(method: Checkpoint, model: ModelConfig, seed: int, dataset: Dataset) -> Network:
    """Build a network from outside for some data, and fill it with its weights.

    Args:
        method: Where its weights are.
        model: Which network.
        seed: Of what a function of the user's draws.
        dataset: Its data.

    Raises:
        DataError: The file holds no weights, or does not fit the network: which tensor. Or a
            function of the user's fails.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network: Network = build(
                model,
                in_channels=dataset.image_shape[0],
                num_classes=dataset.num_classes,
                conditioning=method.conditioning(),
            )
    except OwnCodeError as error:
        raise DataError(str(error)) from error
    if method.path is not None:
        _fill(network, _state_of(method.file()), method)
    return network


def _check_file(job: TrialJob, method: Checkpoint) -> None:
    """Check that the file of the weights is that of the plan.

    Raises:
        StudyError: It is not.
    """
    try:
        method.check_file()
        here = method.digest() or None
    except (OSError, ValueError) as error:
        raise StudyError(f"{method.label}: {error}") from error
    if here != job["config"]["method"].get("code"):
        raise StudyError(
            f"The file '{method.path}' of '{method.label}' has changed since the trial was "
            "planned; give the command again."
        )


@torch.no_grad()
def _check_logits(network: Network, dataset: Dataset, method: Checkpoint) -> None:
    """Check that a network gives a logit for each class of the data.

    Raises:
        DataError: It does not.
    """
    images = unit(dataset.test.head(2).images)
    device = next(network.parameters()).device
    try:
        logits = network.eval()(images.to(device))
    except OwnCodeError as error:
        raise DataError(str(error)) from error
    if logits.shape != (len(images), dataset.num_classes):
        raise DataError(
            f"{method.label} gives logits of shape {tuple(logits.shape)} for {len(images)} images; "
            f"the data have {dataset.num_classes} classes."
        )


def _state_of(file: Path) -> Mapping[str, Tensor]:
    """Read a state dict; nothing in the file is run.

    Raises:
        DataError: It holds none.
    """
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        found: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a file that is none of theirs makes of torch's readers
        said = str(error).strip().splitlines()[0][:200] if str(error).strip() else ""
        if said.startswith(OBJECTS):
            said = "it holds more than tensors; save the network's `state_dict()`"
        raise DataError(
            f"`path` '{file}' must be a file of weights, ``.safetensors`` or a state dict by "
            f"`torch.save`; it cannot be read ({type(error).__name__}: {said})."
        ) from error
    for key in NESTED:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
        kinds = json.dumps(sorted(map(str, found))[:5]) if isinstance(found, Mapping) else ""
        raise DataError(
            f"`path` '{file}' must hold a state dict, names and tensors; got "
            f"{type(found).__name__} {kinds}".rstrip()
            + "."
        )
    return found


def _fill(network: Network, state: Mapping[str, Tensor], method: Checkpoint) -> None:
    """Load a state dict, which must fit tensor by tensor.

    Raises:
        DataError: It does not.
    """
    own = getattr(network, "body", network)
    wanted, given = own.state_dict(), _unwrapped(state, own.state_dict())
    where = f"`path` '{method.path}' does not fit the network '{method.model['name']}'"
    if lacking := [name for name in wanted if name not in given]:
        raise DataError(f"{where}: it lacks the tensor '{lacking[0]}' ({len(lacking)} in all).")
    if more := [name for name in given if name not in wanted]:
        raise DataError(f"{where}: it has the tensor '{more[0]}', which the network has not.")
    for name, value in wanted.items():
        if given[name].shape != value.shape:
            raise DataError(
                f"{where}: its tensor '{name}' has the shape {tuple(given[name].shape)}, the "
                f"network's has {tuple(value.shape)}."
            )
        if not bool(given[name].float().isfinite().all()):
            raise DataError(f"{where}: its tensor '{name}' has values that are not finite.")
    own.load_state_dict(given)


def _unwrapped(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take away what wrappers put before every name."""
    found = dict(state)
    for prefix in PREFIXES:
        wrapped = all(name.startswith(prefix) for name in found)
        if wrapped and not any(name.startswith(prefix) for name in wanted):
            found = {name.removeprefix(prefix): value for name, value in found.items()}
    return found
