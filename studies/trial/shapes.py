"""What a trial takes and reports, key by key: plain mappings, which JSON holds as they are.

What a trial leaves in its folder: see `studies.trial.stored` and `studies.trial.evaluated`.
"""

from typing import Any, Literal, NotRequired, TypedDict

from studies.known_methods import Start
from studies.trial.stored import Epoch

Fields = dict[str, Any]
"""Fields of a config in `oat` or `baselines`, which says what they are."""


class Need(TypedDict):
    """What a trial asks of a node, as `studies.study_file.method_blocks.Resources` checks it.

    Attributes:
        cpu: Cores, and threads of its process.
        gpu: GPUs or the share of one; ``auto`` until the share is measured, before it runs.
        device: ``cpu`` computes on the CPU although GPUs are asked for.
    """

    cpu: int
    gpu: float | Literal["auto"]
    device: Literal["auto", "cpu"]


class TrialConfig(TypedDict):
    """All that decides a trial's weights.

    Attributes:
        results_version: See `studies.known_methods.RESULTS_VERSION`.
        seed: Of initialisation and of every random draw.
        data: Fields of `oat.data.DataConfig`, without where the data lie.
        model: Fields of `oat.models.ModelConfig`.
        train: Fields of `oat.recipe.TrainConfig`.
        attack: Fields of `oat.attacks.Attack`: the inner maximisation.
        method: ``name``, and the fields of that method.
        start: Not there where the training begins with random weights.
    """

    results_version: int
    seed: int
    data: Fields
    model: Fields
    train: Fields
    attack: Fields
    method: Fields
    start: NotRequired[Start]


class DataPlace(TypedDict):
    """Where the data lie, which decides nothing.

    Attributes:
        root: Their folder, absolute.
        download: Whether they may be fetched.
    """

    root: str
    download: bool


class PointSpec(TypedDict):
    """An operating point to judge under one attack.

    Attributes:
        point_key: 12 hex digits of all that decides its numbers.
        attack_label: Name of the attack, for people.
        attack_settings: Digest of what points under this attack must share to be compared.
        checkpoint_rule: Which weights of the training.
        lam: λ to set; None for a dedicated model.
        width_mult: Share of the trained network's channels.
        attack: Name and fields of an attack of `oat.adversaries`.
        images: The first so many test images; None is all.
        batch_size: Images at a time.
        other_lams: λ of the same network that images are crafted on besides.
        sources: Run keys of the trials that images are crafted on instead.
        split: Not there for test images; ``val`` are those held out of training.
        tf32: True where products may round their inputs to TF32; not there otherwise.
    """

    point_key: str
    attack_label: str
    attack_settings: str
    checkpoint_rule: str
    lam: float | None
    width_mult: float
    attack: Fields
    images: int | None
    batch_size: int
    other_lams: NotRequired[list[float]]
    sources: NotRequired[list[str]]
    split: NotRequired[str]
    tf32: NotRequired[bool]


class CheckSpec(TypedDict):
    """An operating point to check for masked gradients.

    Attributes:
        check_key: 12 hex digits of all that decides its numbers.
        checkpoint_rule: Which weights of the training.
        lam: λ to set; None for a dedicated model.
        width_mult: Share of the trained network's channels.
        eps: Radius of the training.
        images: The first so many test images; None is all.
        batch_size: Images at a time.
        tf32: As in `PointSpec`.
    """

    check_key: str
    checkpoint_rule: str
    lam: float | None
    width_mult: float
    eps: float
    images: int | None
    batch_size: int
    tf32: NotRequired[bool]


class TrialJob(TypedDict):
    """What `studies.trial.run.run_trial` takes, as `studies.planning.expand` makes it.

    Attributes:
        run_key: 12 hex digits of all that decides the weights.
        config: All that does.
        budget: Digest of what methods must share to be compared.
        points: Operating points to judge, under each attack.
        held_out: Those to judge on held-out images, by which a comparison chooses λ.
        checks: Those to check for masked gradients.
        siblings: Folder or URI of all trials of the study.
        choices: Folder or URI where the study keeps what holds for all of them.
        data: Where the data lie.
        resources: What the trial asks of a node.
        sources: Run keys of the trials whose weights it needs, by their labels; not there where it
            needs none.
        own: Methods of the user's that the study names; not there where it names none.
    """

    run_key: str
    config: TrialConfig
    budget: str
    points: list[PointSpec]
    held_out: list[PointSpec]
    checks: list[CheckSpec]
    siblings: str
    choices: str
    data: DataPlace
    resources: Need
    sources: NotRequired[dict[str, str]]
    own: NotRequired[list[str]]


class StartReport(TypedDict):
    """A worker has begun with a trial.

    Attributes:
        kind: ``start``.
    """

    kind: Literal["start"]


class EpochReport(Epoch):
    """An epoch of training has ended.

    Attributes:
        kind: ``epoch``.
        saved: Whether a checkpoint of it was written.
        epochs: How many the training has.
        execution: How steps are executed, and why: a sentence.
    """

    kind: Literal["epoch"]
    saved: bool
    epochs: int
    execution: str


class PointReport(TypedDict):
    """A point was judged.

    Attributes:
        kind: ``point``.
        sa: Standard accuracy, as a fraction of the images.
        ra: Robust accuracy, likewise.
    """

    kind: Literal["point"]
    sa: float
    ra: float


class WaitingReport(TypedDict):
    """Storage did not take a write, which is tried again.

    Attributes:
        kind: ``waiting``.
        said: Why, in one sentence.
    """

    kind: Literal["waiting"]
    said: str


class EndReport(TypedDict):
    """A trial has come to its end.

    Attributes:
        kind: ``end``.
        status: ``done``, ``diverged`` or ``failed``.
        error: Why it is not done; None if it is.
    """

    kind: Literal["end"]
    status: Literal["done", "diverged", "failed"]
    error: str | None


TrialReport = StartReport | EpochReport | PointReport | WaitingReport | EndReport
"""What a worker reports of a trial; `studies.trial.run.run_trial` reports epochs and points."""
