"""Choose the share of a GPU that ``resources.gpu: auto`` stands for, by a measurement.

One, two and more processes train the dearest entry of the study at the same time on one GPU; the
fewest of them that make nearly the best of it are chosen.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TypedDict, cast, final

from rich.console import Console

from studies.cluster.capacity import Request, check_has_gpu, fits, node_sizes, request_of
from studies.console import say
from studies.errors import StudyError
from studies.measuring.throughput import WINDOW_SECONDS, Measured, Packing, job_device, measure
from studies.planning.plan import Plan, PlannedTrial
from studies.storage.folder import Folder
from studies.storage.sealed import ResultError, digest, unseal, write_sealed
from studies.study_file.loading import load_study
from studies.study_file.method_blocks import AUTO
from studies.study_file.study import Study
from studies.trial.shapes import TrialJob

PATIENCE_SECONDS = 180.0
"""After that it is said what is waited for."""

PACKING_FILE = "packing.json"
"""File of the study's folder with what was measured."""


class MeasuredRecord(TypedDict):
    """A `Measured` as plain values.

    Attributes:
        trials: At a time.
        images_per_second: Of all of them in sum.
    """

    trials: int
    images_per_second: float


@final
class PackingRecord(TypedDict):
    """A `Packing` as plain values: an item of ``packing.json``.

    Attributes:
        device: Its name.
        measured: One trial first, then more at a time.
        peak_bytes: Memory that one trial takes at most.
        device_bytes: Memory of the device; None does not limit.
    """

    device: str
    measured: list[MeasuredRecord]
    peak_bytes: int
    device_bytes: int | None


@final
class PackingFailure(TypedDict):
    """Why nothing could be measured.

    Attributes:
        error: A sentence.
    """

    error: str


def _key(job: TrialJob, most: int) -> str:
    """Return the key of a measurement: all that decides it, the device's name with it."""
    config = job["config"]
    return digest(
        {
            "device": job_device(job),
            "threads": job["resources"]["cpu"],
            "most": most,
            "model": config["model"],
            "data": {key: config["data"].get(key) for key in ("name", "image_size")},
            "train": {key: config["train"][key] for key in ("batch_size", "precision")},
            "steps": config["attack"]["steps"],
            "method": config["method"],
            "judged": job["points"][0]["batch_size"],
        }
    )


def look_up_or_measure(
    job: TrialJob, most: int, seconds: float, known: Mapping[str, PackingRecord]
) -> tuple[str, PackingRecord | PackingFailure]:
    """Return the key and the record of a packing, measured here unless it is known.

    Runs on a node that has the device. An ``error`` in the record is a sentence.
    """
    key = _key(job, most)
    if key in known:
        return key, known[key]
    try:
        return key, cast(PackingRecord, asdict(measure(job, most, seconds)))
    except StudyError as error:
        return key, {"error": str(error)}


def read_packings(folder: Folder) -> dict[str, PackingRecord]:
    """Return what was measured for a study, by key; nothing if the record is damaged."""
    try:
        return dict(unseal(folder.read(PACKING_FILE))["packings"])
    except (FileNotFoundError, ResultError):
        return {}


def choose_share(
    trials: Iterable[PlannedTrial],
    folder: Folder,
    console: Console,
    seconds: float = WINDOW_SECONDS,
) -> float | None:
    """Choose the share of a GPU for the trials of a study that leave it open; Ray is connected.

    The dearest of them is measured, on a node with a GPU that nobody uses.

    Args:
        trials: Any; those that ask for a number do not count.
        folder: The study's folder, which takes ``packing.json``.
        console: Where it is said what was chosen, and why.
        seconds: How long steps are counted.

    Returns:
        The share; None if no trial leaves it open.

    Raises:
        StudyError: There is no GPU, or not even one trial can train on it.
    """
    import ray

    left_open = [trial for trial in trials if trial.job["resources"]["gpu"] == AUTO]
    if not left_open:
        return None
    sizes = node_sizes(ray.nodes())
    check_has_gpu(sizes)
    dearest = max(left_open, key=lambda trial: trial.units)
    if not dearest.units:
        return 1.0  # nothing is trained, so that there is nothing to measure
    request = request_of(dearest)
    # a job of its own: what is resolved must not decide what is measured
    task = ray.remote(num_cpus=request["CPU"], num_gpus=1, max_retries=0)(look_up_or_measure)
    known = read_packings(folder)
    most = _most(request, sizes)
    say(console, "`resources.gpu` is 'auto': looking how many trials a GPU serves best.")
    try:
        answer = task.remote(dict(dearest.job), most, seconds, known)
        if not ray.wait([answer], timeout=PATIENCE_SECONDS)[0]:
            say(
                console,
                f"Not known after {PATIENCE_SECONDS:g} s: a GPU must be wholly free for that, and "
                "may not be. A share in the study file, such as `resources: {gpu: 0.5}`, "
                "starts at once.",
            )
        told: tuple[str, PackingRecord | PackingFailure] = ray.get(answer)
    except ray.exceptions.RayError as error:
        said = str(error).strip().splitlines()[-1].rstrip(".")
        raise StudyError(
            f"`resources.gpu: auto` cannot be measured ({said}); give a share, such as 0.5."
        ) from error
    key, record = told
    if "error" in record:
        raise StudyError(record["error"])
    packing = packing_of(record)
    write_sealed(folder, PACKING_FILE, {"packings": {**known, key: record}})
    when = "measured earlier" if key in known else "measured"
    say(console, f"{when}: {packing}.")
    return 1 / packing.trials


def packing_of(record: PackingRecord) -> Packing:
    """Return the packing of a record."""
    measured = tuple(Measured(**found) for found in record["measured"])
    return Packing(record["device"], measured, record["peak_bytes"], record["device_bytes"])


def _most(request: Request, sizes: Sequence[Request]) -> int:
    """Count the trials for each GPU that the CPUs of any node allow; at least 1."""
    able = [node for node in sizes if fits(request, node)]
    return max(1, min(int(node["CPU"] / node["GPU"] / request["CPU"]) for node in able))


def with_share(current: Plan, share: float | None) -> Plan:
    """Return a plan whose trials ask for a share of a GPU where they leave it open."""
    if share is None:
        return current
    return replace(current, trials=tuple(_asking(trial, share) for trial in current.trials))


def _asking(trial: PlannedTrial, share: float) -> PlannedTrial:
    need = trial.job["resources"]
    if need["gpu"] != AUTO:
        return trial
    return replace(trial, job={**trial.job, "resources": {**need, "gpu": share}})


def study_with_share(study: Study, share: float | None) -> Study:
    """Return a copy of a study that asks for a share of a GPU where it leaves it open."""
    if share is None:
        return study
    data = study.dump()
    for block in (data, *data["methods"]):
        need = block.get("resources")
        if need is not None and need["gpu"] == AUTO:
            need["gpu"] = share
    return load_study(data)
