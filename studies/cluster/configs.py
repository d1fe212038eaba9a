"""What a worker is given of a trial, key by key: Tune keeps it as the config of its own trial."""

from typing import TypedDict

from studies.trial.shapes import TrialJob


class LaunchConfig(TypedDict):
    """A trial and its launch, before it has its share of a node.

    Attributes:
        job: What `studies.trial.run.run_trial` takes.
        folder: Path or URI of the trial's folder.
        study: Path or URI of the study's folder.
        mark: What the storage of this launch is known by.
        versions: Of the driver: Python and packages, which must be the same on all nodes.
    """

    job: TrialJob
    folder: str
    study: str
    mark: str
    versions: dict[str, str | None]


class WorkerConfig(LaunchConfig):
    """A trial with its share of a node.

    Attributes:
        request: ``CPU`` and ``GPU`` that are reserved.
        can_grow: Whether some node has more room than that.
    """

    request: dict[str, float]
    can_grow: bool


class TrialSpace(TypedDict):
    """What Tune passes to `studies.cluster.worker.trainable`.

    Attributes:
        trial: The one to run.
    """

    trial: WorkerConfig
