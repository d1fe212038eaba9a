"""How long the trials of a plan take, and how that is known: measured, probed or assumed.

The order is: finished trials of the same kind (a trial's kind is its run key without the seed),
a probe of that kind, finished trials of other kinds, and at last a speed that is assumed.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal, TypedDict, final

from oat.models.config import ModelConfig
from oat.models.forecast import forward_flops, layers
from studies.storage.folder import Folder
from studies.storage.sealed import ResultError, unseal, write_sealed
from studies.study_file.method_blocks import Resources
from studies.trial.shapes import Need

Basis = Literal["measured", "probed", "measured on others", "assumed"]
Bound = Literal["low", "middle", "high"]
ENDS: tuple[Literal["low", "high"], ...] = ("low", "high")
"""The ends of a range."""

PROBES = "probe.json"
"""File of the study's folder with what `oat plan --probe` has timed."""

CORE_GFLOPS, GPU_GFLOPS = 50.0, 40_000.0
"""Speeds that are assumed: a server's core in float32, and a data centre's GPU in bfloat16 on
networks of this size. Neither is a measurement."""
LAYER_SECONDS = 2e-4
"""What a convolution of a batch takes on a CPU beside its operations: with what follows it, and
with torch's own work. Assumed too; it is most of the time of a small network."""
ASSUMED_FACTOR = 3.0
"""What is assumed may be wrong by so much to each side."""


class EstimateRecord(TypedDict):
    """An `Estimate` as plain values, in seconds.

    Attributes:
        basis: How it is known.
        source: What it was measured on, or which device is assumed, in words.
        training_seconds: Of the training, validations included.
        training_seconds_low: The lower end of its range.
        training_seconds_high: The upper end.
        judging_seconds: Of all points and checks.
    """

    basis: Basis
    source: str
    training_seconds: float
    training_seconds_low: float
    training_seconds_high: float
    judging_seconds: float


@final
class ProbeRecord(TypedDict):
    """What a probe of one kind of trial has timed, in seconds; an item of ``probe.json``.

    Attributes:
        kind: The trial's run key without the seed.
        device: Name of the device.
        threads: Of the process.
        on_gpu: Whether the device is a GPU.
        seconds_per_step: Of training.
        seconds_per_validation: Of one.
        seconds_per_pass: Of judging, for each forward pass of an image.
        training_seconds: Of all steps.
        validation_seconds: Of all validations.
    """

    kind: str
    device: str
    threads: int
    on_gpu: bool
    seconds_per_step: float
    seconds_per_validation: float
    seconds_per_pass: float
    training_seconds: float
    validation_seconds: float


@dataclass(frozen=True)
class Estimate:
    """The time of one trial that has nothing done, alone on what it asks for, in seconds.

    Attributes:
        training: Of its steps, which is what `device_seconds` counts.
        validation: Of all its validations.
        judging: Of all its points and checks, if no image is broken.
        basis: How it is known.
        source: What it was measured on, or which device is assumed, in words.
    """

    training: float
    validation: float
    judging: float
    basis: Basis
    source: str = ""

    def factor(self, bound: Bound) -> float:
        """Return what to multiply by for an end of the range; it has no width if measured."""
        if self.basis != "assumed" or bound == "middle":
            return 1.0
        return ASSUMED_FACTOR if bound == "high" else 1 / ASSUMED_FACTOR

    def record(self) -> EstimateRecord:
        """Return the estimate as plain values, such as JSON holds."""
        trained = self.training + self.validation
        return {
            "basis": self.basis,
            "source": self.source,
            "training_seconds": trained,
            "training_seconds_low": trained * self.factor("low"),
            "training_seconds_high": trained * self.factor("high"),
            "judging_seconds": self.judging,
        }


@dataclass(frozen=True)
class Work:
    """What a trial has to do, in forward passes of one image through the plain, full network.

    Attributes:
        training: Of its steps.
        validation: Of all its validations.
        judging: Of all its points and checks.
    """

    training: float
    validation: float
    judging: float

    def at(self, seconds: float, basis: Basis, source: str = "") -> Estimate:
        """Return the estimate at so many seconds for each pass."""
        training, validation = seconds * self.training, seconds * self.validation
        return Estimate(training, validation, seconds * self.judging, basis, source)


def need_of(resources: Resources) -> Need:
    """Return what a trial asks of a node as its job says it."""
    return {"cpu": resources.cpu, "gpu": resources.gpu, "device": resources.device}


def on_gpu(need: Need) -> bool:
    """Tell whether a trial computes on a GPU; a request for one may be a rehearsal on CPUs."""
    return bool(need["gpu"] != 0 and need["device"] == "auto")


class Estimator:
    """Estimates the trials of one plan.

    Args:
        finished: Device seconds and units of the training of each finished trial, by kind.
        probes: See `read_probes`.
    """

    def __init__(
        self,
        finished: Mapping[str, Sequence[tuple[float, float]]],
        probes: Sequence[ProbeRecord],
    ) -> None:
        self._finished, self._probes = finished, probes
        every = [seconds / units for found in finished.values() for seconds, units in found]
        self.seconds_per_unit = median(every) if every else None

    def estimate(self, kind: str, work: Work, need: Resources, rough: float) -> Estimate:
        """Estimate a trial from the best that is known of its kind.

        Args:
            kind: Its run key without the seed.
            work: What it has to do.
            need: What it asks of a node.
            rough: Seconds of a pass at the speed that is assumed.
        """
        probed = self._probed(kind, work, need)
        speed = self.seconds_per_unit
        if kind in self._finished:
            assert speed is not None
            rest = probed or work.at(speed, "measured")
            training = median(seconds for seconds, _ in self._finished[kind])
            return replace(rest, training=training, basis="measured", source="finished trials")
        if probed is not None:
            return probed
        if speed is not None:
            return work.at(speed, "measured on others", "finished trials of other methods")
        return work.at(rough, "assumed", assumed_device(need))

    def _probed(self, kind: str, work: Work, need: Resources) -> Estimate | None:
        """Return what the newest probe says of a trial on a device of the kind that it asks for."""
        wanted = {"kind": kind, "threads": need.cpu, "on_gpu": on_gpu(need_of(need))}
        found = [probe for probe in self._probes if wanted.items() <= probe.items()]
        if not found:
            return None
        probe = found[-1]
        return Estimate(
            probe["training_seconds"],
            probe["validation_seconds"],
            work.judging * probe["seconds_per_pass"],
            "probed",
            probe["device"],
        )


def read_probes(folder: Folder) -> list[ProbeRecord]:
    """Return what was probed for a study, the newest last; nothing if the record is damaged."""
    try:
        return list(unseal(folder.read(PROBES))["probes"])
    except (FileNotFoundError, ResultError):
        return []


def keep_probes(folder: Folder, probes: Sequence[ProbeRecord]) -> None:
    """Write probes into a study's folder, each in place of an older one of the same key.

    The key is the trial's kind, the device's name and the number of threads.
    """
    kept = {_key(probe): probe for probe in read_probes(folder)}
    for probe in probes:
        kept.pop(_key(probe), None)  # to the end: the newest is last
        kept[_key(probe)] = probe.copy()
    write_sealed(folder, PROBES, {"probes": list(kept.values())})


def _key(probe: ProbeRecord) -> tuple[str, str, int]:
    return probe["kind"], probe["device"], probe["threads"]


def rough_seconds_per_unit(
    model: ModelConfig, shape: tuple[int, int, int], batch_size: int, need: Resources
) -> float:
    """Guess the time of one forward pass of one image from the network's operations.

    Args:
        model: The network.
        shape: Of an image, (C, H, W).
        batch_size: Images of a pass.
        need: What a trial asks of a node.
    """
    if on_gpu(need_of(need)):
        return forward_flops(model, shape, 10) / (1e9 * need.share * GPU_GFLOPS)
    computing = forward_flops(model, shape, 10) / (1e9 * need.cpu * CORE_GFLOPS)
    return computing + layers(model) * LAYER_SECONDS / batch_size


def assumed_device(need: Resources) -> str:
    """Return in words what speed is assumed of what a trial asks for."""
    if on_gpu(need_of(need)):
        many = "one GPU" if need.share == 1 else f"{need.share:g} GPUs"
        count = many if need.share >= 1 else f"{need.share:.3g} of a GPU"
        speed = f"of a data centre in bfloat16 at {GPU_GFLOPS / 1000:g} TFLOP/s"
        return f"{count} {speed}" + (" each" if need.share > 1 else "")
    count = "one core" if need.cpu == 1 else f"{need.cpu} cores"
    speed = f"of a server CPU in float32 at {CORE_GFLOPS:g} GFLOP/s"
    return f"{count} {speed}" + (" each" if need.cpu > 1 else "")


def basis_in_words(estimates: Sequence[Estimate]) -> str:
    """Return what the estimates of a plan rest on, each source once with its number of trials."""
    counts = Counter((estimate.basis, estimate.source) for estimate in estimates)
    said = []
    for (basis, source), count in counts.items():
        number = f" ({count} of {len(estimates)} trials)" if len(counts) > 1 else ""
        told = {
            "measured": "measured on finished trials of the same settings",
            "probed": f"probed on {source}, each trial alone",
            "measured on others": f"measured on {source}",
            "assumed": f"assumed{number}: {source}; nothing is measured, which `--probe` does",
        }[basis]
        said.append(told if basis == "assumed" else told + number)
    return "; ".join(said)
