"""Run what a plan lacks on Ray Tune.

Each launch is a new Tuner over the trials that are left; a trial goes on from its own folder.
Errors of a trial's own making are recorded there and end it; what Tune sees and retries is a
lost worker or node. docs/architecture.md says why.
"""

import logging
import shutil
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray import tune
from ray.tune import Callback, FailureConfig, RunConfig, TuneConfig
from ray.tune.search import Searcher

from studies.cluster.capacity import Request, node_sizes, request_of
from studies.cluster.configs import LaunchConfig, WorkerConfig
from studies.cluster.evictions import evictions_survived
from studies.cluster.retries import (
    LOST_WORKER_RETRIES,
    FirstFailure,
    GaveUp,
    Retries,
    run_key_of,
    with_room,
)
from studies.cluster.stalls import StartWatch
from studies.cluster.worker import MARK, resources_of, trainable
from studies.planning.plan import Plan, PlannedTrial
from studies.storage.folder import Folder
from studies.trial.provenance import versions
from studies.trial.shapes import TrialReport

log = logging.getLogger("oat.ray")


def launch(
    plan: Plan,
    folder: Folder,
    callbacks: Sequence[Callback],
    *,
    reuse_workers: bool,
    first_failure: FirstFailure | None = None,
) -> dict[str, str]:
    """Run the trials that are left and need no other first, the longest first; wait for them.

    Ray must be connected. Returns when no trial is running; what came of each stands in its
    folder.

    Args:
        plan: The plan.
        folder: The study's folder; every node must reach it.
        callbacks: Told of every report.
        reuse_workers: Whether a worker takes one trial after another, which spares seconds each.
            Tune counts the death of one that waits as two, and gives its next trial up: not for
            clusters whose nodes come and go.
        first_failure: What ends the launch at the first failure; None goes on. A worker that is
            stopped is not used again.

    Returns:
        What was said last of trials that were given up, by run key: their workers were lost
        `LOST_WORKER_RETRIES` times more without getting on in between.
    """
    sizes = node_sizes(ray.nodes())
    config = _config_maker(folder, sizes)
    trials = tune.grid_search([config(trial) for trial in plan.ready()])
    scheduler = Retries(sizes, first_failure=first_failure)
    reuse = reuse_workers and first_failure is None
    return _fit(plan.study.name, scheduler, callbacks, reuse, {"trial": trials}, None)


MakeConfig = Callable[[PlannedTrial], WorkerConfig]
"""Makes what `trainable` takes of a planned trial."""


def search(
    name: str,
    folder: Folder,
    make: Callable[[MakeConfig], Searcher],
    callbacks: Sequence[Callback],
    *,
    reuse_workers: bool,
    stopping: Callable[[Any, TrialReport], bool] | None = None,
) -> dict[str, str]:
    """Run the trials that a search algorithm asks for, until it has no more; see `launch`.

    Args:
        name: Name of the study.
        folder: Its folder.
        make: Makes the algorithm, whose suggestions are ``{"trial": config}`` with a config of
            what it is given here.
        callbacks: Told of every report.
        reuse_workers: See `launch`.
        stopping: Told of each report of a trial; whether to stop the trial.
    """
    sizes = node_sizes(ray.nodes())
    algorithm = make(_config_maker(folder, sizes))
    return _fit(name, Retries(sizes, stopping), callbacks, reuse_workers, {}, algorithm)


def _config_maker(folder: Folder, sizes: Sequence[Request]) -> MakeConfig:
    """Mark the storage as that of this launch, and return what makes configs for it."""
    mark = uuid.uuid4().hex
    folder.write(MARK, mark.encode())

    def make(trial: PlannedTrial) -> WorkerConfig:
        config: LaunchConfig = {
            "job": trial.job,
            "folder": folder.sub(f"trials/{trial.run_key}").uri,
            "study": folder.uri,
            "mark": mark,
            "versions": versions(),
        }
        return with_room(config, request_of(trial), sizes)

    return make


def _fit(
    name: str,
    scheduler: "Retries",
    callbacks: Sequence[Callback],
    reuse_workers: bool,
    space: Mapping[str, object],
    algorithm: Searcher | None,
) -> dict[str, str]:
    """Let Tune run the trials of a space, or of a search algorithm; return what was given up."""
    bookkeeping = tempfile.mkdtemp(prefix="oat-tune-")
    gave_up = GaveUp()
    tuner = tune.Tuner(
        tune.with_resources(trainable, resources_of),
        param_space=space,
        tune_config=TuneConfig(
            search_alg=algorithm,
            num_samples=1 if algorithm is None else -1,
            scheduler=scheduler,
            reuse_actors=reuse_workers,
            trial_name_creator=run_key_of,
            trial_dirname_creator=run_key_of,
        ),
        run_config=RunConfig(
            name=name,
            storage_path=bookkeeping,
            verbose=0,
            callbacks=[*callbacks, gave_up, StartWatch()],
            failure_config=FailureConfig(max_failures=LOST_WORKER_RETRIES),
        ),
    )
    try:
        with evictions_survived():
            tuner.fit()
    finally:
        shutil.rmtree(bookkeeping, ignore_errors=True)
    return gave_up.reasons
