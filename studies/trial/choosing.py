"""How a trial is executed: as its checkpoint has it, as its study chose before, or as measured.

The precision is chosen once for a study, on a kind of device, so that its models can be compared.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import cast

from oat.attacks import Attack
from oat.choice import Probe, choose, choose_precision, settled_precision
from oat.data import DataConfig, Dataset
from oat.execution import Execution, Precision, as_asked
from oat.models import forward_flops
from oat.own_code import allow
from oat.price import training_units
from oat.recipe import TrainConfig, steps_per_epoch
from oat.training import Training
from studies.known_methods import method_of, tuples
from studies.own_code import model_of
from studies.storage.folder import Folder
from studies.storage.opening import open_folder
from studies.storage.sealed import ResultError, digest, unseal, write_sealed
from studies.trial.checkpoints import TrainingState
from studies.trial.provenance import device_name
from studies.trial.shapes import TrialJob
from studies.trial.stored import UNKNOWN_PRECISION, ExecutionRecord, Trained


def probe_of(job: TrialJob, dataset: Dataset) -> Probe:
    """Return how the training of a job is made, and what it takes.

    Args:
        job: See `studies.trial.run.run_trial`.
        dataset: Its data, on the device to train on.
    """
    allow(job.get("own", ()))
    config, method = job["config"], method_of(job["config"])
    model = model_of(config)
    data = DataConfig(**config["data"], **job["data"])
    train, attack = TrainConfig(**tuples(config["train"])), Attack(**config["attack"])
    count, shape = len(dataset.train), dataset.image_shape
    units = training_units(method, attack, train, model, shape, count)

    def make(execution: Execution) -> Training:
        seed = config["seed"]
        return Training(method, model, dataset, data, train, attack, seed=seed, execution=execution)

    return Probe(
        make,
        train,
        dataset.train.images.device,
        method.fixed_shapes(),
        train.epochs * steps_per_epoch(count, train.batch_size),
        units,
        units * forward_flops(model, shape, dataset.num_classes),
    )


def how_to_run(
    job: TrialJob, dataset: Dataset, probe: Probe, state: TrainingState | None
) -> Execution:
    """Choose how a trial is executed.

    Args:
        job: See `studies.trial.run.run_trial`.
        dataset: Its data, on its device.
        probe: Its training.
        state: Its checkpoint, None if there is none. On the same kind of device it goes on as it
            was; on another it keeps its precision.
    """
    if state is not None:
        known = state.get("execution")
        if known is not None and state.get("device") == device_name(probe.device):
            return Execution(**tuples(known))
        earlier = known["precision"] if known is not None else _before(probe)
        return choose(probe, earlier)
    if settled_precision(probe) is not None:
        return choose(probe)
    return choose(probe, _of_study(job, dataset, probe))


def precision_of(trained: Trained, train: Mapping[str, object]) -> str:
    """Name the precision that weights were trained in.

    Args:
        trained: The record of the training.
        train: Its settings.
    """
    if "execution" not in trained:
        return UNKNOWN_PRECISION
    precision = str(trained["execution"]["precision"])
    return f"{precision} tf32" if train.get("tf32") and precision == "float32" else precision


def as_record(execution: Execution) -> ExecutionRecord:
    """Return a choice as plain values, for a record or a checkpoint."""
    return cast(ExecutionRecord, {**asdict(execution), "reasons": list(execution.reasons)})


def _before(probe: Probe) -> Precision:
    """Return the precision of a checkpoint that does not tell: there was no choice then."""
    return as_asked(probe.train, probe.device).precision


def _of_study(job: TrialJob, dataset: Dataset, probe: Probe) -> Precision:
    """Return the precision that the study has on this kind of device; choose it if it has none."""
    what = {
        "device": device_name(probe.device),
        "model": job["config"]["model"],
        "shape": dataset.image_shape,
        "batch": probe.train.batch_size,
    }
    folder, name = open_folder(job["choices"]), f"{digest(what)}.json"
    if (known := _read(folder, name)) is not None:
        return known
    precision, why = choose_precision(probe)
    # another trial may have been quicker: its choice holds for all that look from now on
    if (known := _read(folder, name)) is not None:
        return known
    write_sealed(folder, name, {**what, "precision": precision, "reason": why})
    return precision


def _read(folder: Folder, name: str) -> Precision | None:
    try:
        precision: Precision = unseal(folder.read(name))["precision"]
    except (FileNotFoundError, ResultError):
        return None
    return precision
