"""What the evaluation of a trial leaves in its folder, key by key: rows of points and of checks.

The docstrings are the data dictionary (`docs/reference/points.md`): what follows ``Unit:`` is its
column of units, and a sentence that begins with None says when a value is missing.
"""

from typing import NotRequired, TypedDict


class PlaceColumns(TypedDict):
    """Where a point or check lies on the front.

    Attributes:
        lam: Trade-off weight λ; α of a mixture or an interpolation. None for a method without λ,
            such as TRADES.
        beta: Trade-off weight β. None for a method without β: all but TRADES.
        width_mult: Share of the configured channels that runs. Unit: fraction.
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
        point_key: Key of the point: 12 hex digits of all that decides its numbers.
        run_key: Key of its trial: 12 hex digits of all that decides the weights.
        training_id: 12 hex digits drawn for the training; a repeated training has another.
        method: Name of the method.
        variant: The method with what differs from its default; each variant is a front.
        seed: Seed of the trial.
        attack: Name of the attack, such as `pgd20`. A radius other than that of training follows
            an @.
        attack_settings: Digest of the attack's settings; points that differ in it are not
            compared. Not there in older lines.
        eps: Radius of the attack. Unit: pixel values in [0, 1].
        step_size: Length of one step of the attack. Unit: pixel values in [0, 1]. None where the
            attack has no steps of one length.
        sa: Standard accuracy: share of the images that are classified correctly. Unit: fraction.
        ra: Robust accuracy: share that stays so under the whole attack. Unit: fraction.
        images: How many images were evaluated. Unit: images.
        warnings: Signs of masked gradients that the attack itself gave; empty if there were none.
        dataset: Name of the data set.
        data_fingerprint: Digest of the images and labels.
        model: Name of the network.
        epochs: Length of the training. Unit: epochs.
        precision: Type in which the network was trained; `not recorded` for older points.
        budget: Digest of what the methods of a study share; points that differ in it are not
            compared.
        checkpoint_rule: Which weights of the training: `last`, `averaged` or `chosen`.
        checkpoint_epoch: Epoch of these weights, counted from 1. Unit: epochs.
        results_version: Version of the code that decides numbers; versions are not mixed. See
            `studies.known_methods.RESULTS_VERSION`.
        flops: Operations for one image of the deployed network, the plain one at this λ and width.
            Unit: floating-point operations.
        deployed_bytes: Parameters of the deployed network. Unit: bytes.
        in_situ_flops: Operations for one image of a network that switches λ in place. Unit:
            floating-point operations.
        in_situ_parameters: Parameters that such a network uses at this width. Unit: parameters.
        network_bytes: The trained network as it is stored, all λ and widths. Unit: bytes.
        parameters: Parameters of the trained network, all λ and widths. Unit: parameters.
        train_device_seconds: Training time without validation; of a shared GPU, the share. Unit:
            device seconds.
        train_units: Training cost without FiLM, which `fronts.csv` counts. Unit: equivalent
            forward passes of one image through the plain network.
        train_gradients: Gradient evaluations of the training, counted by image. Unit: gradients.
            None for points from before they were counted.
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
    train_device_seconds: float | None
    train_units: float | None
    train_gradients: float | None


class MaskingCheck(PlaceColumns):
    """One operating point checked for masked gradients: a line of ``checks.jsonl``.

    Attributes:
        training_id: Of the training.
        check_key: See `studies.trial.shapes.CheckSpec`.
        checkpoint_rule: Which weights of the training.
        images: How many images were used; this and all below: see `oat.masking.Checks`. Unit:
            images.
        sa: Accuracy without an attack. Unit: fraction.
        ra: Accuracy under PGD at the radius of the training. Unit: fraction.
        ra_restarts: The same with 5 starts. Unit: fraction.
        ra_strong: The same, then with margin losses and more steps as well. Unit: fraction. None
            for checks that are older than it.
        ra_noise: Accuracy under noise. Unit: fraction.
        ra_eps_0: Accuracy under PGD at radius 0, which must be that without an attack. Unit:
            fraction.
        ra_eps_2x: Accuracy under PGD at twice the radius. Unit: fraction.
        ra_eps_4x: Accuracy under PGD at four times the radius. Unit: fraction.
        ra_eps_half: Accuracy under PGD at radius 0.5, where nothing can be robust. Unit: fraction.
        zero_gradients: Share of the correctly classified images without any gradient. Unit:
            fraction.
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
