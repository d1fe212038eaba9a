"""One trial: train one model, judge it at its operating points, store all of it.

Knows nothing of Ray or MLflow, and runs where only torch and numpy are installed. What a trial
has done stands in its folder, so calling it again after anything goes on from there.
"""

import hashlib
import json
import random
import time
import traceback
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from itertools import groupby
from typing import Any

import numpy as np
import torch

from baselines import PgdAt, Trades
from oat.attacks import Attack
from oat.checkpoint import CheckpointError, dumps, loads
from oat.data import DataConfig, Dataset, load
from oat.deploy import OperatingPoint
from oat.evaluation import EvaluationAttack, Judged, evaluate_at
from oat.method import Method, Oat, Oats, training_cost
from oat.models import ModelConfig, Network, build, count_parameters, in_situ_cost, stored_bytes
from oat.recipe import TrainConfig, images_seen
from oat.training import DivergenceError, Training
from studies.records import (
    ResultError,
    digest,
    git_revision,
    read_points,
    read_result,
    read_trained,
    read_weights,
    weights_file,
    write_lines,
    write_points,
    write_provenance,
    write_result,
)
from studies.storage import Folder

RESULTS_VERSION = 2
"""Part of every run key; raised by a commit that changes the numbers that a config leads to."""

METHODS: dict[str, Any] = {"oat": Oat, "oats": Oats, "pgd_at": PgdAt, "trades": Trades}
VALUES = {"lam": "λ", "beta": "β"}
"""The trade-off value of a dedicated method, and its sign."""

PLACE = (*VALUES, "width_mult")
"""Fields that place a dedicated model on the front; all others make another variant."""

Report = Callable[[dict[str, Any]], None]


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return keyword arguments with lists as tuples, as JSON has lost them."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def method_of(config: Mapping[str, Any]) -> Method:
    """Build the method of a trial's config."""
    values = _tuples(config["method"])
    method: Method = METHODS[values.pop("name")](**values)
    return method


def variant(method: Method) -> str:
    """Name a method with what differs from its default, its trade-off value and width apart.

    Such as ``oat``, or ``oat encoding=dct dual_bn=False``: what is one line of a figure.
    """
    odd = [
        f"{field.name}={getattr(method, field.name)}".replace(" ", "")
        for field in fields(method)  # type: ignore[arg-type]
        if field.name not in PLACE and getattr(method, field.name) != field.default
    ]
    return " ".join([method.name, *odd])


def describe(method: Method) -> str:
    """Name a method with its trade-off value and width, such as ``pgd_at λ=0.2 width=0.5``."""
    values = [f"{sign}={getattr(method, k):g}" for k, sign in VALUES.items() if hasattr(method, k)]
    width = method.conditioning().base_width
    return " ".join([variant(method), *values, *([f"width={width:g}"] if width != 1 else [])])


def run_trial(job: Mapping[str, Any], folder: Folder, report: Report) -> dict[str, Any]:
    """Bring a trial to its end, from wherever its folder stands.

    Args:
        job: What `studies.planning` made: ``run_key``, ``config`` (all that decides the weights),
            ``budget`` (a digest of what methods must share to be compared), ``points`` (operating
            points to judge), ``data`` (root, download), ``resources``.
        folder: The trial's own folder.
        report: Called after each epoch and each point with a flat record.

    Returns:
        What was written: ``result.json`` with ``status`` ``done`` or ``diverged``, or
        ``failure.json`` with ``failed``. Every error of the trial's own making is recorded
        there and not raised; a finished result is never overwritten by a failure.

    Raises:
        torch.AcceleratorError: The process has lost its device; another one must try again.
    """
    started = time.time()
    name = "result.json"
    try:
        _settle(job)
        outcome = _train_and_judge(job, folder, report, started)
    except DivergenceError as error:
        outcome = {"status": "diverged", "epoch": error.epoch, "error": str(error)}
    except torch.AcceleratorError:
        raise
    except Exception as error:
        name = "failure.json"
        outcome = {
            "status": "failed",
            "error": f"{type(error).__name__}: {error}",
            "traceback": "".join(traceback.format_exception(error)),
        }
    outcome = {"run_key": job["run_key"], **outcome}
    write_result(folder, name, outcome)
    if name == "result.json":
        for passing in ("failure.json", "checkpoint", "trained.json"):
            folder.remove(passing)
    return outcome


def _settle(job: Mapping[str, Any]) -> None:
    """Leave nothing of an earlier trial in this process: seeds, threads, GPU memory."""
    git_revision()  # kept from here on: the source may change on disk while the process runs
    seed = job["config"]["seed"]
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(int(job["resources"]["cpu"]))
    if (gpu := job["resources"]["gpu"]) > 0:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.set_per_process_memory_fraction(min(1.0, gpu))


def _train_and_judge(
    job: Mapping[str, Any], folder: Folder, report: Report, started: float
) -> dict[str, Any]:
    config = job["config"]
    method = method_of(config)
    device = torch.device("cuda" if job["resources"]["gpu"] > 0 else "cpu")
    data = DataConfig(**config["data"], **job["data"])
    dataset = load(data).to(device)
    try:
        trained = _already_trained(folder)
    except ResultError:
        for damaged in folder.names():
            folder.remove(damaged)
        trained = None
    folder.write("config.json", json.dumps(config, indent=1).encode())
    if trained is None:
        trained = _train(job, method, data, dataset, folder, report)
        write_provenance(folder, dataset, device, started)
        write_result(folder, "trained.json", trained)
    _judge(job, method, dataset, trained, folder, report)
    return {"status": "done", "trained": trained}


def _already_trained(folder: Folder) -> dict[str, Any] | None:
    """Return what is known of a finished training; None where there is none.

    Raises:
        ResultError: Its record or its weights are not those that were written.
    """
    earlier = read_result(folder)
    if earlier is None:
        trained = read_trained(folder)
    else:
        trained = earlier["trained"] if earlier["status"] == "done" else None
    if trained is not None:
        for rule in trained["weights"]:
            read_weights(folder, trained, rule)
    return trained


def _train(
    job: Mapping[str, Any],
    method: Method,
    data: DataConfig,
    dataset: Dataset,
    folder: Folder,
    report: Report,
) -> dict[str, Any]:
    """Train, from the checkpoint if there is one, and write the weights of every rule."""
    config = job["config"]

    def make() -> Training:
        return Training(
            method,
            ModelConfig(**config["model"]),
            dataset,
            data,
            TrainConfig(**_tuples(config["train"])),
            Attack(**config["attack"]),
            seed=config["seed"],
        )

    training, training_id, history = _resume(make, folder)
    for record in training.epochs():
        history.append(asdict(record))
        state = {**training.state_dict(), "training_id": training_id, "history": history}
        folder.write("checkpoint", dumps(state))
        write_lines(folder, "epochs.jsonl", history)
        report({"kind": "epoch", "epochs": training.config.epochs, **asdict(record)})
    weights = {}
    for rule, kept in training.kept().items():
        data_of = _model_bytes(kept.state)
        folder.write(weights_file(rule), data_of)
        sha256 = hashlib.sha256(data_of).hexdigest()
        weights[rule] = {"epoch": kept.epoch, "sha256": sha256, "bytes": len(data_of)}
    size = min(training.config.batch_size, len(dataset.train))
    cost = training_cost(
        method, training.attack, size, ModelConfig(**config["model"]), dataset.image_shape
    )
    return {
        "training_id": training_id,
        "weights": weights,
        "device_seconds": training.device_seconds,
        "train_units": images_seen(training.config, len(dataset.train)) * cost,
        "parameters": count_parameters(training.model),
        "network_bytes": stored_bytes(training.model),
    }


def _resume(
    make: Callable[[], Training], folder: Folder
) -> tuple[Training, str, list[dict[str, Any]]]:
    """Return a training as the checkpoint left it, or a new one; its id and its epochs so far."""
    training = make()
    try:
        state = loads(folder.read("checkpoint"), training.device)
        training.load_state_dict(state)
        return training, state["training_id"], state["history"]
    except FileNotFoundError:
        return training, uuid.uuid4().hex[:12], []
    except (CheckpointError, KeyError, ValueError, RuntimeError) as error:
        # damaged, or of other code: say so in the folder, and start anew
        folder.write("checkpoint.error", f"{type(error).__name__}: {error}".encode())
        folder.remove("checkpoint")
    return make(), uuid.uuid4().hex[:12], []


def _model_bytes(state: Mapping[str, torch.Tensor]) -> bytes:
    from safetensors.torch import save

    return save({k: v.detach().cpu().contiguous() for k, v in state.items()})


def _network(
    config: Mapping[str, Any], method: Method, dataset: Dataset, weights: bytes
) -> Network:
    """Rebuild a trained network, on the device of the data."""
    from safetensors.torch import load as load_tensors

    model = build(
        ModelConfig(**config["model"]),
        in_channels=dataset.image_shape[0],
        num_classes=dataset.num_classes,
        conditioning=method.conditioning(),
    )
    model.load_state_dict(load_tensors(weights))
    return model.to(dataset.test.images.device)


def _judge(
    job: Mapping[str, Any],
    method: Method,
    dataset: Dataset,
    trained: Mapping[str, Any],
    folder: Folder,
    report: Report,
) -> None:
    """Judge the operating points that the folder lacks; write each as it is finished."""
    rows, correct = read_points(folder, trained["training_id"])
    have = {row["point_key"]: row for row in rows}
    judged = {
        _judgement(point, trained): have[point["point_key"]]
        for point in job["points"]
        if point["point_key"] in have
    }
    left = [point for point in job["points"] if point["point_key"] not in have]
    for rule, points in groupby(left, key=lambda point: point["checkpoint_rule"]):
        weights = read_weights(folder, trained, rule)
        model = _network(job["config"], method, dataset, weights)
        for point in points:
            key, same = point["point_key"], judged.get(_judgement(point, trained))
            if same is None:
                found = evaluate_at(
                    model,
                    OperatingPoint(point["lam"], point["width_mult"]),
                    dataset.test.head(point["images"]),
                    EvaluationAttack(**point["attack"]),
                    batch_size=point["batch_size"],
                )
                row = _row(job, point, method, model, dataset, trained, found)
                clean, robust = found.correctness.clean.numpy(), found.correctness.robust.numpy()
            else:
                row = {**same, "point_key": key, "checkpoint_rule": rule}
                row["checkpoint_epoch"] = trained["weights"][rule]["epoch"]
                clean, robust = (correct[f"{same['point_key']}.{k}"] for k in ("clean", "robust"))
            rows.append(row)
            judged[_judgement(point, trained)] = row
            correct |= {f"{key}.clean": clean, f"{key}.robust": robust}
            write_points(folder, rows, correct)
            report({"kind": "point", "sa": row["sa"], "ra": row["ra"]})


def _judgement(point: Mapping[str, Any], trained: Mapping[str, Any]) -> str:
    """Return what two points of the same weights have in common; they have the same numbers."""
    what = {k: v for k, v in point.items() if k not in {"point_key", "checkpoint_rule"}}
    return digest({**what, "weights": trained["weights"][point["checkpoint_rule"]]["sha256"]})


def _row(
    job: Mapping[str, Any],
    point: Mapping[str, Any],
    method: Method,
    model: Network,
    dataset: Dataset,
    trained: Mapping[str, Any],
    found: Judged,
) -> dict[str, Any]:
    """Make the flat row of one point; its columns are listed in `studies.results`."""
    config, attack = job["config"], found.attack
    lam, width = found.point
    in_situ = in_situ_cost(model, dataset.image_shape, width)
    return {
        "point_key": point["point_key"],
        "run_key": job["run_key"],
        "training_id": trained["training_id"],
        "method": method.name,
        "variant": variant(method),
        "lam": lam if lam is not None else getattr(method, "lam", None),
        "beta": getattr(method, "beta", None),
        "width_mult": method.conditioning().base_width * width,
        "seed": config["seed"],
        "attack": point["attack_label"],
        "eps": attack.radius(),
        "step_size": attack.step(),
        "sa": found.correctness.sa,
        "ra": found.correctness.ra,
        "images": len(found.correctness.clean),
        "dataset": config["data"]["name"],
        "data_fingerprint": dataset.fingerprint,
        "model": config["model"]["name"],
        "epochs": config["train"]["epochs"],
        "budget": job["budget"],
        "checkpoint_rule": point["checkpoint_rule"],
        "checkpoint_epoch": trained["weights"][point["checkpoint_rule"]]["epoch"],
        "results_version": config["results_version"],
        "flops": found.flops,
        "deployed_bytes": found.deployed_bytes,
        "in_situ_flops": in_situ.flops,
        "in_situ_parameters": in_situ.parameters,
        "network_bytes": trained["network_bytes"],
        "parameters": trained["parameters"],
        "train_device_seconds": trained["device_seconds"],
        "train_units": trained["train_units"],
    }
