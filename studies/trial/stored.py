"""What a trial leaves in its folder, key by key: plain mappings, which JSON holds as they are.

Times are in seconds, SA and RA fractions of the images, radii in units of pixel values.
"""

from typing import Literal, NotRequired, TypedDict

FailureKind = Literal["lost", "out_of_memory", "storage", "data", "error"]


class ExecutionRecord(TypedDict):
    """How the steps of a training were executed: an `oat.execution.Execution`.

    Attributes:
        precision: Of features and convolutions.
        compiled: Whether elementwise work was compiled.
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
    """What trainings took.

    Attributes:
        device_seconds: Training time; see `Trained`.
        train_units: See `Trained`.
        train_gradients: Gradients by images that were evaluated.
    """

    device_seconds: float
    train_units: float
    train_gradients: float


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


class PlaceColumns(TypedDict):
    """Where a point or check lies on the front.

    Attributes:
        lam: λ; None for TRADES.
        beta: β of TRADES; None elsewhere.
        width_mult: Share of the full network's channels.
    """

    lam: float | None
    beta: float | None
    width_mult: float


class SplitColumn(TypedDict, total=False):
    """Which images a point was judged on.

    Attributes:
        split: ``val`` where they were held out of training; not there for test images.
    """

    split: str


class Point(PlaceColumns, SplitColumn):
    """One operating point under one attack, judged: a line of ``points.jsonl``.

    Attributes:
        point_key: See `studies.trial.shapes.PointSpec`.
        run_key: Of the trial.
        training_id: Of the training.
        method: Name of the method.
        variant: The method with what differs from its default.
        seed: Of the trial.
        attack: Name of the attack, for people.
        attack_settings: See `studies.trial.shapes.PointSpec`; not there in older lines.
        eps: Radius of the attack.
        step_size: Of the attack; None where it has none.
        sa: Standard accuracy.
        ra: Robust accuracy under the attack.
        images: How many were judged.
        warnings: Signs of masked gradients that the attack itself has given; may be empty.
        dataset: Name of the data set.
        data_fingerprint: Digest of the images and labels.
        model: Name of the network.
        epochs: Of the training.
        precision: That it was trained in; not there in older lines.
        budget: See `studies.trial.shapes.TrialJob`.
        checkpoint_rule: Which weights of the training.
        checkpoint_epoch: Epoch that these are of, from 1.
        results_version: See `studies.trial.shapes.TrialConfig`.
        flops: Of the deployed network, for one image.
        deployed_bytes: Of the deployed network's parameters.
        in_situ_flops: Of the conditional network as it is, for one image.
        in_situ_parameters: That this takes.
        network_bytes: See `Trained`.
        parameters: See `Trained`.
        train_device_seconds: Training time.
        train_units: See `Trained`.
        train_gradients: Gradients by images that the training has evaluated.
    """

    point_key: str
    run_key: str
    training_id: str
    method: str
    variant: str
    seed: int
    attack: str
    attack_settings: NotRequired[str]
    eps: float
    step_size: float | None
    sa: float
    ra: float
    images: int
    warnings: NotRequired[str]
    dataset: str
    data_fingerprint: str
    model: str
    epochs: int
    precision: NotRequired[str]
    budget: str
    checkpoint_rule: str
    checkpoint_epoch: int
    results_version: int
    flops: int
    deployed_bytes: int
    in_situ_flops: int
    in_situ_parameters: int
    network_bytes: int
    parameters: int
    train_device_seconds: float
    train_units: float
    train_gradients: float


class MaskingCheck(PlaceColumns):
    """One operating point checked for masked gradients: a line of ``checks.jsonl``.

    Attributes:
        training_id: Of the training.
        check_key: See `studies.trial.shapes.CheckSpec`.
        checkpoint_rule: Which weights of the training.
        images: How many were used; this and all below: see `oat.masking.Checks`.
        sa: Without an attack.
        ra: Under PGD at the radius of the training.
        ra_restarts: The same with 5 starts.
        ra_strong: The same, then with margin losses and more steps as well; not there in checks
            that are older than it.
        ra_noise: Under noise.
        ra_eps_0: At radius 0.
        ra_eps_2x: At twice the radius.
        ra_eps_4x: At four times the radius.
        ra_eps_half: At radius 0.5.
        zero_gradients: Share of the right images without any gradient.
    """

    training_id: str
    check_key: str
    checkpoint_rule: str
    images: int
    sa: float
    ra: float
    ra_restarts: float
    ra_strong: NotRequired[float]
    ra_noise: float
    ra_eps_0: float
    ra_eps_2x: float
    ra_eps_4x: float
    ra_eps_half: float
    zero_gradients: float


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
