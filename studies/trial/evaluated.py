"""What the evaluation of a trial leaves in its folder, key by key: rows of points and of checks."""

from typing import NotRequired, TypedDict


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
