"""What a trial leaves in its folder, key by key: plain mappings, which JSON holds as they are.

Times are in seconds, SA and RA fractions of the images, radii in units of pixel values.
"""

from typing import Literal, NotRequired, TypedDict

FailureKind = Literal["lost", "out_of_memory", "storage", "data", "error"]

UNKNOWN_PRECISION = "not recorded"
"""Precision of weights that were trained before it was recorded."""


class ExecutionRecord(TypedDict):
    """How the steps of a training were executed: an `oat.execution.Execution`.

    Attributes:
        precision: Of features and convolutions.
        compiled: Whether compiled kernels did the elementwise work.
        captured: Whether a step was recorded once and then replayed.
        reasons: Why, a sentence each.
    """

    precision: Literal["float32", "bfloat16"]
    compiled: bool
    captured: bool
    reasons: list[str]


class Weights(TypedDict):
    """The weights of one checkpoint rule.

    Attributes:
        epoch: That they are of, from 1.
        sha256: Of their file, 64 hex digits.
        bytes: Size of their file.
    """

    epoch: int
    sha256: str
    bytes: int


class Price(TypedDict):
    """What trainings took; None of a network from outside, of which nobody knows.

    Attributes:
        device_seconds: Training time; see `Trained`.
        train_units: See `Trained`.
        train_gradients: Gradients by images that were evaluated.
    """

    device_seconds: float | None
    train_units: float | None
    train_gradients: float | None


class Trained(TypedDict):
    """The record of a finished training.

    Attributes:
        training_id: 12 hex digits drawn for it; a training that is repeated has another.
        weights: By checkpoint rule.
        device_seconds: Training time, validation apart; of a GPU that is shared, the share.
        train_units: Cost, in forward passes of one image through the plain network.
        parameters: Of the network in training.
        network_bytes: Of that network as it is stored.
        execution: How its steps were executed; not there in older records.
        sources: Training ids of the models whose weights it was made from, by run key; not there
            where it was made from none.
        data_fingerprint: See `oat.data.Dataset`; not there in older records.
        behind: Of a model that pairs others, what all trainings behind it took: of these, and of
            what these started from. Not there of a model that was trained.
    """

    training_id: str
    weights: dict[str, Weights]
    device_seconds: float
    train_units: float
    parameters: int
    network_bytes: int
    execution: NotRequired[ExecutionRecord]
    sources: NotRequired[dict[str, str]]
    data_fingerprint: NotRequired[str]
    behind: NotRequired[Price]


class Done(TypedDict):
    """The result of a trial that was trained.

    Attributes:
        run_key: Of the trial.
        status: ``done``.
        trained: The record of its training.
    """

    run_key: str
    status: Literal["done"]
    trained: Trained


class Diverged(TypedDict):
    """The result of a trial whose loss did not stay finite.

    Attributes:
        run_key: Of the trial.
        status: ``diverged``.
        epoch: In which it happened, from 1.
        device_seconds: Training time until then; not there in older records.
        error: A sentence.
    """

    run_key: str
    status: Literal["diverged"]
    epoch: int
    device_seconds: NotRequired[float]
    error: str


class Failed(TypedDict):
    """What is recorded of a try that an error ended; no result, the trial is tried again.

    Attributes:
        run_key: Of the trial.
        status: ``failed``.
        kind: What may cure it; see `studies.trial.run.failure_kind`.
        error: Class and message of the error.
        traceback: As Python writes it.
    """

    run_key: str
    status: Literal["failed"]
    kind: FailureKind
    error: str
    traceback: str


TrialResult = Done | Diverged
"""What ``result.json`` holds."""


class Epoch(TypedDict):
    """What one epoch did, an `oat.training.EpochRecord`: a line of ``epochs.jsonl``.

    Attributes:
        epoch: From 1.
        train_loss: Mean over the epoch's images.
        lr: Learning rate.
        sa_val: SA on validation, mean over λ; None if not validated.
        ra_val: RA likewise.
        images_per_second: Training images, validation time apart.
        device_seconds: Training time so far; see `Trained`.
    """

    epoch: int
    train_loss: float
    lr: float
    sa_val: float | None
    ra_val: float | None
    images_per_second: float
    device_seconds: float


class Provenance(TypedDict, total=False):
    """What the weights came from beyond the config: ``provenance.json``; older ones have less.

    Attributes:
        versions: Of Python and of packages; None of one that is not there.
        git_revision: Of the source; None if unknown.
        device: Its name.
        execution: How steps were executed.
        threads: Of the process.
        host: Name of the machine.
        pid: Of the process.
        data_fingerprint: Digest of the images and labels.
        started: When the trial began, in seconds since 1970.
        trained: When its training had ended, likewise.
        sources: See `Trained`.
    """

    versions: dict[str, str | None]
    git_revision: str | None
    device: str
    execution: ExecutionRecord
    threads: int
    host: str
    pid: int
    data_fingerprint: str
    started: float
    trained: float
    sources: dict[str, str]
