"""Time each kind of trial on the device that it asks for: what `oat plan --probe` does."""

from contextlib import ExitStack
from typing import TypedDict, final

import torch
from rich.console import Console

from oat.data import DataConfig, DataError, load
from oat.models import relative_flops
from oat.operating import OperatingPoint
from oat.own_code import allow
from oat.probe import seconds_of_validation, seconds_per_pass, seconds_per_step
from oat.recipe import images_seen
from oat.training import Training
from studies.console import say
from studies.errors import StudyError
from studies.own_code import model_of
from studies.planning.costs import validations
from studies.planning.estimates import ProbeRecord, keep_probes, on_gpu
from studies.planning.expand import make_plan
from studies.planning.plan import Plan, PlannedTrial
from studies.storage.folder import Folder
from studies.study_file.method_blocks import Resources
from studies.trial.choosing import how_to_run, probe_of
from studies.trial.provenance import device_name
from studies.trial.shapes import Need, TrialJob


@final
class ProbeFailure(TypedDict):
    """Why a trial cannot be probed.

    Attributes:
        error: A sentence.
    """

    error: str


def build_training(job: TrialJob) -> Training:
    """Build the training of a job as the trial itself does, with as many threads.

    Raises:
        DataError: The data are missing, or unfit.
    """
    config, need = job["config"], job["resources"]
    torch.set_num_threads(int(need["cpu"]))
    data = DataConfig(**config["data"], **job["data"])
    allow(job.get("own", ()))
    dataset = load(data).to(torch.device("cuda" if on_gpu(need) else "cpu"))
    probe = probe_of(job, dataset)
    return probe.make(how_to_run(job, dataset, probe, None))


def probe_job(job: TrialJob, kind: str) -> ProbeRecord | ProbeFailure:
    """Time the parts of a trial in this process, which is to have the device to itself.

    Args:
        job: See `studies.trial.run.run_trial`.
        kind: The trial's run key without the seed.

    Returns:
        What `studies.planning.estimates.Estimator` takes; or why there is none.
    """
    threads = torch.get_num_threads()
    try:
        return _probe(build_training(job), job, kind)
    except DataError as error:
        return {"error": str(error)}
    finally:
        torch.set_num_threads(threads)


def _probe(training: Training, job: TrialJob, kind: str) -> ProbeRecord:
    count = len(training.dataset.train)
    step = seconds_per_step(training)
    # a batch for statistics has no backward; it counts as a step here, which is at most 50 too many
    steps = sum(images_seen(training.config, count)) / min(training.config.batch_size, count)
    validation = seconds_of_validation(training)
    return {
        "kind": kind,
        "device": device_name(training.device),
        "threads": torch.get_num_threads(),
        "on_gpu": training.device.type == "cuda",
        "seconds_per_step": step,
        "seconds_per_validation": validation,
        "seconds_per_pass": _seconds_per_pass(training, job),
        "training_seconds": steps * step,
        "validation_seconds": validations(training.config) * validation,
    }


def _seconds_per_pass(training: Training, job: TrialJob) -> float:
    """Return what judging takes for each pass of the plain, full network: see `Work.judging`."""
    base = training.method.conditioning().base_width
    model, shape = model_of(job["config"]), training.dataset.image_shape
    places = dict.fromkeys((point["lam"], point["width_mult"]) for point in job["points"])
    size = job["points"][0]["batch_size"]
    seconds = {
        width: seconds_per_pass(training, OperatingPoint(lam, width), size)
        for width, lam in {width: lam for lam, width in places}.items()
    }
    passes = sum(relative_flops(model, base * width, shape) for _, width in places)
    return sum(seconds[width] for _, width in places) / passes


def probe(current: Plan, folder: Folder, address: str | None, console: Console) -> Plan:
    """Probe each kind of trial that a run has something to do for; keep what is found.

    Args:
        current: The plan.
        folder: The study's folder, which takes ``probe.json``.
        address: Ray cluster, where each probe is a task with the trial's request, one after
            another; None probes in this process.
        console: Where it is said which trial is probed.

    Returns:
        The plan with the estimates of the probes.

    Raises:
        StudyError: The device of the run is not here, no cluster answers, or the data are missing.
    """
    kinds: dict[str, PlannedTrial] = {}
    for trial in current.to_run():
        if not trial.units:
            continue  # it trains nothing
        kinds.setdefault(trial.kind, trial)
    with ExitStack() as stack:
        if address is None:
            for trial in kinds.values():
                _check_device(trial.job["resources"])
        elif kinds:
            _join(current, address, stack)
        for i, trial in enumerate(kinds.values(), start=1):
            say(console, f"Probing {i} of {len(kinds)}: {trial.label}")  # fmt: skip
            found = probe_job(trial.job, trial.kind) if address is None else _probe_there(trial)
            if "error" in found:
                raise StudyError(found["error"])
            keep_probes(folder, [found])
    return make_plan(current.study, folder)


def _check_device(need: Need) -> None:
    if on_gpu(need) and not torch.cuda.is_available():
        asked = Resources(**need).gpu
        raise StudyError(
            f"`--probe` must run on the device of the run, but `resources.gpu` is {asked} and this "
            "machine has no GPU; give the `--address` of a cluster that has one."
        )


def _join(current: Plan, address: str, stack: ExitStack) -> None:
    """Connect to a cluster until the stack closes, and check that it can hold every trial."""
    import ray

    from studies.cluster.capacity import node_sizes
    from studies.cluster.connection import connect
    from studies.driver.checks import demand
    from studies.driver.nodes import check_cluster

    if connect(address):
        stack.callback(ray.shutdown)
    demand([check_cluster(current.study, node_sizes(ray.nodes()))])


def _probe_there(trial: PlannedTrial) -> ProbeRecord | ProbeFailure:
    """Probe a trial on a node of the cluster that has what it asks for."""
    import ray

    from studies.cluster.capacity import request_of

    request = request_of(trial)
    task = ray.remote(num_cpus=request["CPU"], num_gpus=request["GPU"], max_retries=0)(probe_job)
    try:
        found: ProbeRecord | ProbeFailure = ray.get(task.remote(dict(trial.job), trial.kind))
    except ray.exceptions.RayError as error:
        said = str(error).strip().splitlines()[-1].rstrip(".")
        raise StudyError(
            f"The probe of {trial.label} has failed on the cluster ({said}); run `oat preflight` "
            "with the same `--address` to see what its nodes lack."
        ) from error
    return found
