"""Trained models from a study's storage, or from a weights file alone."""

import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors

from oat.data import DataConfig, DataError, Dataset, load
from oat.models import Conditioning, ModelConfig, Network, build_unfilled
from oat.operating import OperatingPoint
from oat.widths import scaled
from studies.deploying.model import TrainedModel, check_number
from studies.errors import ModelError, StudyError
from studies.known_methods import CONDITIONAL, RESULTS_VERSION, RIVALS, VALUES, method_of
from studies.naming import listed
from studies.own_code import model_of
from studies.planning.plan import Plan, PlannedTrial
from studies.storage.folder import Folder
from studies.storage.sealed import ResultError
from studies.trial.rebuilding import network_of, statistics_by
from studies.trial.records import read_result
from studies.trial.same_data import check_same, fingerprint_of
from studies.trial.weights import About, about, read_weights, said_by


@dataclass(frozen=True)
class Wanted:
    """Which trained model of a study is asked for.

    Attributes:
        method: Label of a trial, or a method's name; None is the once-for-all method.
        lam: λ of a dedicated model.
        beta: β of a dedicated model.
        width_mult: Share of the channels of a dedicated model.
        seed: Of the training; None is the first of the study.
        checkpoint: Rule that chose the weights; None is the study's first.
    """

    method: str | None = None
    lam: float | None = None
    beta: float | None = None
    width_mult: float | None = None
    seed: int | None = None
    checkpoint: str | None = None


def find(plan: Plan, wanted: Wanted) -> PlannedTrial:
    """Return the one trial that is asked for.

    Raises:
        ModelError: There is none, or more than one.
    """
    seeds = plan.study.seeds
    seed = seeds[0] if wanted.seed is None else wanted.seed
    if seed not in seeds:
        raise ModelError(f"The study has the seeds {listed(map(str, seeds))}, got {seed}.")
    for name in (*VALUES, "width_mult"):
        check_number(name, getattr(wanted, name))
    trials = [trial for trial in plan.trials if trial.seed == seed]
    found = [trial for trial in trials if _is(trial, wanted)]
    if len(found) == 1:
        return found[0]
    if not found:
        labels = listed(trial.label for trial in trials)
        hint = (
            " λ of an operating point is `at_lam` of an export, and goes to `.at(lam=…)` in Python."
            if wanted.lam is not None and wanted.method in (None, *CONDITIONAL)
            else ""
        )
        raise ModelError(f"The study has no model {_in_words(wanted)}; it has {labels}.{hint}")
    labels = listed(f"'{trial.label}'" for trial in found)
    raise ModelError(
        f"The study has {len(found)} models {_in_words(wanted)}; name one of {labels}."
    )


def _is(trial: PlannedTrial, wanted: Wanted) -> bool:
    method = trial.job["config"]["method"]
    if wanted.method is None:
        if method["name"] not in CONDITIONAL:
            return False
    elif wanted.method not in (trial.label, method["name"]):
        return False
    asked = {key: getattr(wanted, key) for key in (*VALUES, "width_mult")}
    return all(
        value is None or (key in method and abs(method[key] - value) < 1e-9)
        for key, value in asked.items()
    )


def _in_words(wanted: Wanted) -> str:
    named = "with λ as an input" if wanted.method is None else f"'{wanted.method}'"
    values = {**VALUES, "width_mult": "width"}
    given = [
        f"{sign}={getattr(wanted, key):g}"
        for key, sign in values.items()
        if getattr(wanted, key) is not None
    ]
    return " ".join([named, *given])


def open_trained(
    plan: Plan, folder: Folder, wanted: Wanted, device: torch.device
) -> tuple[TrainedModel, PlannedTrial]:
    """Load a trained model of a study.

    Args:
        plan: Of the study.
        folder: The study's own folder.
        wanted: Which model.
        device: Where its weights go.

    Raises:
        ModelError: There is no such model, or it is not trained.
        StudyError: The data are needed, and see `data_of`.
    """
    trial = find(plan, wanted)
    rule = wanted.checkpoint or plan.study.evaluate.checkpoints[0]
    return open_trial(trial, folder, rule, device), trial


def open_trial(
    trial: PlannedTrial, folder: Folder, rule: str, device: torch.device
) -> TrainedModel:
    """Load the model of one trial.

    Args:
        trial: The trial.
        folder: The study's own folder.
        rule: Which of its weights.
        device: Where they go.

    Raises:
        ModelError: It is not trained, or has no such weights.
        StudyError: The data are needed, and see `data_of`.
    """
    own = folder.sub(f"trials/{trial.run_key}")
    name = f"'{trial.label}' seed {trial.seed}"
    try:
        result = read_result(own)
        if result is None:
            raise ModelError(f"{name} is not trained ({trial.state}); `oat run` trains it.")
        if result["status"] == "diverged":
            raise ModelError(f"{name} has no weights: it diverged in epoch {result['epoch']}.")
        kept = result["trained"]["weights"]
        if rule not in kept:
            raise ModelError(f"{name} has the checkpoints {listed(kept)}, got '{rule}'.")
        data = read_weights(own, result["trained"], rule)
    except ResultError as error:
        raise ModelError(f"{name} is damaged: {error}") from error
    said, dataset = cast(About | None, said_by(data)), None
    if said is None or trial.job["config"]["method"]["name"] == "interpolate":
        # an older file says nothing; networks between two others take statistics from the data
        dataset = data_of(trial, folder).to(device)
        said = about(trial.job, dataset)
    said = {**said, "checkpoint": rule, "epoch": kept[rule]["epoch"]}
    if said["config"]["method"]["name"] in RIVALS:
        said["alphas"] = sorted({p["lam"] for p in trial.job["points"] if p["lam"] is not None})
    return _rebuilt(said, data, device, dataset)


def data_of(trial: PlannedTrial, folder: Folder) -> Dataset:
    """Read the data that a trial was trained on.

    Args:
        trial: The trial; it has been trained.
        folder: The study's own folder.

    Raises:
        StudyError: They cannot be read, or are others by now.
    """
    own = folder.sub(f"trials/{trial.run_key}")
    try:
        dataset = load(DataConfig(**trial.job["config"]["data"], **trial.job["data"]))
        name = f"'{trial.label}' seed {trial.seed} ({trial.run_key})"
        check_same(name, fingerprint_of(own), dataset.fingerprint)
    except DataError as error:
        raise StudyError(str(error)) from error
    return dataset


def open_file(path: Path, device: torch.device) -> TrainedModel:
    """Load a model from its weights file alone.

    Raises:
        ModelError: It is none of ours, or cannot be read.
    """
    try:
        data = path.read_bytes()
        said = said_by(data)
        version = _version_of(said)
    except OSError as error:
        raise ModelError(f"'{path}' cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise ModelError(f"'{path}' cannot be used: {error}.") from error
    if said is None or version is None:
        raise ModelError(
            f"'{path}' does not say which network it is of; name the study instead, or export it "
            "with `oat export`."
        )
    if version > RESULTS_VERSION:
        raise ModelError(
            f"'{path}' was written by a later version of oat-studies (results version {version}, "
            f"this one has {RESULTS_VERSION}); install that one."
        )
    if cast(About, said)["config"]["method"]["name"] == "interpolate" and "point" not in said:
        raise ModelError(
            f"'{path}' is of networks between two others, whose batch norms take their statistics "
            "from the data; name the study, or export it at one α (`oat export --at-lam`)."
        )
    try:
        return _rebuilt(cast(About, said), data, device, None)
    except SafetensorError as error:
        raise ModelError(f"'{path}' is cut short or damaged ({error}).") from error
    except (KeyError, TypeError, ValueError, RuntimeError, struct.error) as error:
        # torch's own error names the tensors in the lines that follow the first
        lines = [line.strip() for line in str(error).splitlines()[:2]]
        reason = " ".join(lines).rstrip(".") or type(error).__name__
        raise ModelError(
            f"'{path}' does not fit the network that it names ({reason}); it was changed, or "
            "another version of oat-studies wrote it."
        ) from error


def _version_of(said: dict[str, object] | None) -> int | None:
    """Return the results version that a weights file names; None if it says not what it is of."""
    if not isinstance(said, dict) or not {"config", "image_shape", "classes"} <= said.keys():
        return None
    config = said["config"]
    version = config.get("results_version") if isinstance(config, dict) else None
    return version if isinstance(version, int) else None


def _rebuilt(
    said: About, data: bytes, device: torch.device, dataset: Dataset | None
) -> TrainedModel:
    config, state = said["config"], load_tensors(data)
    fixed = said.get("point")
    if fixed is not None:
        point = OperatingPoint(**fixed)
        network = _folded(model_of(config), said, point, method_of(config).conditioning())
        network.load_state_dict(state)
        return TrainedModel(network.to(device), said, point)
    method = method_of(config)
    model = network_of(
        config,
        method,
        state,
        in_channels=said["image_shape"][0],
        num_classes=len(said["classes"]),
        statistics=None if dataset is None else statistics_by(config, method, dataset),
    )
    return TrainedModel(model.to(device).eval(), said)


def _folded(
    config: ModelConfig, said: About, point: OperatingPoint, trained: Conditioning
) -> Network:
    """Build the plain network that a model is at one point, its weights not filled."""
    if not config.own:
        width = scaled(scaled(config.first_width, trained.base_width), point.width_mult)
        config = replace(config, width=width)
    network = build_unfilled(
        config,
        in_channels=said["image_shape"][0],
        num_classes=len(said["classes"]),
        conditioning=Conditioning(folded=True),
    )
    network = network.to(memory_format=torch.channels_last)  # as `oat.deploy.fold` has it
    return network.eval().requires_grad_(False)
