"""One trial: train one model, judge it at its operating points, store all of it.

Knows nothing of Ray or MLflow, and runs where only torch and numpy are installed. What a trial
has done stands in its folder, so calling it again after anything goes on from there.
"""

import json
import random
import time
import traceback
import uuid
from collections.abc import Callable
from functools import partial
from typing import cast

import numpy as np
import torch

from baselines import Checkpoint, Pairing
from oat.data import DataConfig, DataError, Dataset, load
from oat.memory import keep_freed_memory
from oat.models import count_parameters, stored_bytes
from oat.own_code import allow, blamed
from oat.training import DivergenceError, Training
from studies.known_methods import method_of
from studies.storage.folder import Folder
from studies.storage.sealed import ResultError, write_lines, write_sealed
from studies.trial.adopting import adopt
from studies.trial.checkpoints import Checkpoints, TrainingState
from studies.trial.choosing import as_record, how_to_run, probe_of
from studies.trial.claims import SupersededError
from studies.trial.joining import join
from studies.trial.judging import Report, judge
from studies.trial.provenance import device_name, git_revision, write_provenance
from studies.trial.rebuilding import own_code_of
from studies.trial.records import epoch_of, read_result, read_trained
from studies.trial.same_data import check_own
from studies.trial.shapes import EpochReport, TrialJob
from studies.trial.sources import check_still_there, read_sources
from studies.trial.stored import Diverged, Done, Epoch, Failed, FailureKind, Trained, Weights
from studies.trial.weights import about, read_weights, write_weights

NO_MEMORY = ("can't allocate memory", "out of memory", "Cannot allocate memory")
"""What torch's CPU allocator, CUDA's libraries and the kernel say, in errors of any class."""


def run_trial(job: TrialJob, folder: Folder, report: Report) -> Done | Diverged | Failed:
    """Bring a trial to its end, from wherever its folder stands.

    Args:
        job: What `studies.planning.expand` made.
        folder: The trial's own folder.
        report: Called after each epoch and each point with a flat record.

    Returns:
        What was written: ``result.json`` with ``status`` ``done`` or ``diverged``, or
        ``failure.json`` with ``failed``. Every error of the trial's own making is recorded
        there and not raised, with its ``kind`` (see `failure_kind`); a finished result is never
        overwritten by a failure.

    Raises:
        torch.AcceleratorError: The process has lost its device; another one must try again.
        SupersededError: Another worker goes on with the trial.
        OSError: Storage does not even take the record of a failure.
    """
    started = time.time()
    name = "result.json"
    outcome: Done | Diverged | Failed
    try:
        _settle(job)
        outcome = _train_and_judge(job, folder, report, started)
    except DivergenceError as error:
        outcome = {
            "run_key": job["run_key"],
            "status": "diverged",
            "epoch": error.epoch,
            "device_seconds": error.device_seconds,
            "error": str(error),
        }
    except SupersededError:
        raise
    except (Exception, SystemExit) as error:
        kind = failure_kind(error)
        theirs = blamed(error, own_code_of(job)) if kind == "error" else None
        if kind == "lost" or (isinstance(error, SystemExit) and theirs is None):
            raise
        name = "failure.json"
        outcome = {
            "run_key": job["run_key"],
            "status": "failed",
            "kind": kind,
            "error": f"{type(error).__name__}: {error}" if theirs is None else str(theirs),
            "traceback": "".join(traceback.format_exception(error)),
        }
    write_sealed(folder, name, outcome)
    if name == "result.json":
        for passing in ("failure.json", "trained.json"):
            folder.remove(passing)
        Checkpoints(folder).remove()
    return outcome


def failure_kind(error: BaseException) -> FailureKind:
    """Tell what may cure an error.

    Returns:
        ``lost`` (the process has lost its device: another process), ``out_of_memory`` (more room),
        ``storage`` (room or reach), ``data`` (the user), or ``error`` (us).
    """
    said = str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        words in said for words in NO_MEMORY
    ):
        return "out_of_memory"
    if isinstance(error, torch.AcceleratorError):
        return "lost"
    if isinstance(error, DataError):
        return "data"
    return "storage" if isinstance(error, OSError) else "error"


def _settle(job: TrialJob) -> None:
    """Leave nothing of an earlier trial in this process: seeds, threads, GPU memory."""
    allow(job.get("own", ()))
    git_revision()  # kept from here on: the source may change on disk while the process runs
    seed = job["config"]["seed"]
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(int(job["resources"]["cpu"]))
    if _device(job).type == "cpu":
        keep_freed_memory()
    else:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.set_per_process_memory_fraction(min(1.0, _share(job)))


def _device(job: TrialJob) -> torch.device:
    """Return where the trial computes: a request for a GPU may be a rehearsal on CPUs."""
    on_gpu = _share(job) > 0 and job["resources"]["device"] == "auto"
    return torch.device("cuda" if on_gpu else "cpu")


def _share(job: TrialJob) -> float:
    """Return the GPUs of a trial that runs: none leaves its share open any more."""
    return cast(float, job["resources"]["gpu"])


def _train_and_judge(job: TrialJob, folder: Folder, report: Report, started: float) -> Done:
    config = job["config"]
    device = _device(job)
    data = DataConfig(**config["data"], **job["data"])
    dataset = load(data).to(device)
    try:
        trained = _already_trained(folder)
        check_own(job, folder, trained, dataset)
        check_still_there(job, trained)
    except ResultError:
        for damaged in folder.names():
            folder.remove(damaged)
        trained = None
    folder.write("config.json", json.dumps(config, indent=1).encode())
    if trained is None:
        made = _make(job, dataset, folder, report)
        trained = {**made, "data_fingerprint": dataset.fingerprint}
        write_provenance(folder, dataset, device, started, trained)
        write_sealed(folder, "trained.json", trained)
    judge(job, dataset, trained, folder, report)
    return {"run_key": job["run_key"], "status": "done", "trained": trained}


def _make(job: TrialJob, dataset: Dataset, folder: Folder, report: Report) -> Trained:
    """Train a model, pair two, or take one from outside."""
    method = method_of(job["config"])
    if isinstance(method, Checkpoint):
        return adopt(job, method, dataset, folder)
    if isinstance(method, Pairing):
        return join(job, dataset, folder)
    return _train(job, dataset, folder, report)


def _already_trained(folder: Folder) -> Trained | None:
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


def _train(job: TrialJob, dataset: Dataset, folder: Folder, report: Report) -> Trained:
    """Train, from the checkpoint if there is one, and write the weights of every rule."""
    checkpoints, device = Checkpoints(folder), dataset.train.images.device
    state, probe = _sound_state(job, checkpoints, device), probe_of(job, dataset)
    check_own(job, folder, state, dataset)
    if state is None:  # from here on the folder tells which data a checkpoint is of
        write_provenance(folder, dataset, device, time.time())
    execution = how_to_run(job, dataset, probe, state)
    make, how = partial(probe.make, execution), as_record(execution)
    training, training_id, history, sources = _resume(job, make, state, folder, dataset)
    if history:  # a kill may have come between a checkpoint and its line
        write_lines(folder, "epochs.jsonl", history)

    def state_now() -> TrainingState:
        own = {
            "execution": how,
            "device": device_name(device),
            "data_fingerprint": dataset.fingerprint,
            "training_id": training_id,
            "history": history,
            "sources": sources,
        }
        return cast(TrainingState, {**training.state_dict(), **own})

    for record in training.epochs():
        history.append(epoch_of(record))
        saved = checkpoints.save_if_due(state_now, last=record.epoch == probe.train.epochs)
        write_lines(folder, "epochs.jsonl", history)
        said: EpochReport = {
            "kind": "epoch",
            "saved": saved,
            "epochs": probe.train.epochs,
            "execution": execution.sentence(),
            **epoch_of(record),
        }
        report(said)
    told = about(job, dataset)
    weights: dict[str, Weights] = {
        rule: write_weights(folder, rule, kept.epoch, told, kept.state)
        for rule, kept in training.kept().items()
    }
    trained: Trained = {
        "training_id": training_id,
        "weights": weights,
        "device_seconds": training.device_seconds,
        "train_units": probe.units,
        "parameters": count_parameters(training.model),
        "network_bytes": stored_bytes(training.model),
        "execution": how,
    }
    if sources:
        trained["sources"] = sources
    return trained


def _sound_state(
    job: TrialJob, checkpoints: Checkpoints, device: torch.device
) -> TrainingState | None:
    """Return the last checkpoint; None if there is none, or its source was trained anew."""
    state = checkpoints.newest(device)
    try:
        check_still_there(job, state)
    except ResultError:
        checkpoints.remove()
        return None
    return state


def _resume(
    job: TrialJob,
    make: Callable[[], Training],
    state: TrainingState | None,
    folder: Folder,
    dataset: Dataset,
) -> tuple[Training, str, list[Epoch], dict[str, str]]:
    """Return a training as the last checkpoint left it, or a new one.

    Returns:
        The training, its id, its epochs so far, and the training ids of what it has started from.
    """
    training = make()
    if state is not None:
        try:
            training.load_state_dict(dict(state))
            return training, state["training_id"], state["history"], state.get("sources", {})
        except (KeyError, ValueError, RuntimeError) as error:
            # of other code: say so in the folder, and start anew
            folder.write("checkpoint.error", f"{type(error).__name__}: {error}".encode())
            Checkpoints(folder).remove()
            training = make()
    sources = read_sources(job, dataset)
    for source in sources:
        training.start_from(source.weights("last"))
    return training, uuid.uuid4().hex[:12], [], {one.run_key: one.training_id for one in sources}
