"""Run what a plan lacks on Ray Tune.

Each launch is a new Tuner over the trials that are left; a trial goes on from its own folder.
Errors of a trial's own making are recorded there and end it; what Tune sees and retries is a
lost worker or node. docs/architecture.md says why.
"""

import io
import logging
import os
import re
import shutil
import socket
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Tune's handler would swallow Ctrl-C; its loggers would write what the storage folder has
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
# a search algorithm would want its metrics in every report; ours reads them from storage
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")  # `how_lost` says it in a word
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new output prints a banner at verbose=0
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray import tune
from ray.tune import Callback, FailureConfig, RunConfig, TuneConfig
from ray.tune.search import Searcher

from studies.capacity import Request, node_sizes, request_of
from studies.claims import ClaimedFolder
from studies.errors import StudyError
from studies.evicted import evictions_survived
from studies.planning import Plan, PlannedTrial
from studies.records import differences, versions
from studies.retries import GaveUp, Retries, TrialOutOfMemory, run_key_of, with_room
from studies.stalls import StartWatch, watch_this_process
from studies.storage import Folder, open_folder
from studies.trial import run_trial

LOST_WORKER_RETRIES = 5
"""Times that a trial is started again without having got on since the last time."""

log = logging.getLogger("oat.ray")

MARK = "launch"
"""File of the study's folder by which a worker knows the storage of its driver."""

ANSI = re.compile(r"\x1b\[[0-9;]*m")


class FirstLines(io.TextIOBase):
    """Takes what Ray prints, and logs the first sentence of what its processes tell.

    Of a dead node that is a page, and Ray prints it to standard output, which is for results.
    """

    def write(self, text: str) -> int:
        """Log the first sentence of a text that begins with a process in brackets."""
        plain = ANSI.sub("", text).strip()
        if plain.startswith("("):
            first, last = plain.splitlines()[0], plain.splitlines()[-1]
            process, _, said = first.partition(") ")
            if said.startswith("Traceback"):  # of a worker at its end: its error stands last
                first = f"{process}) {last.removeprefix(f'{process})').strip()}"
            log.warning("%s", first.partition(". ")[0])
        return len(text)


def connect(address: str | None) -> bool:
    """Start a local Ray, or join a running cluster.

    Args:
        address: As ``ray.init`` takes it; None for a Ray of our own on this machine.

    Returns:
        Whether this call connected, and `ray.shutdown` is therefore ours to call.

    Raises:
        StudyError: No cluster answers at the address.
    """
    _check_address(address)
    if ray.is_initialized():
        return False
    try:
        ray.init(
            address=address or "local",
            include_dashboard=False if address is None else None,
            log_to_driver=False,
            logging_level="ERROR",
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StudyError(_no_cluster(address, said)) from error
    return True


def _check_address(address: str | None) -> None:
    """Knock at a ``host:port``: Ray itself would knock for minutes.

    Raises:
        StudyError: Nobody answers within five seconds, or the address is that of a job server.
    """
    if (address or "").startswith(("http://", "https://")):
        raise StudyError(
            f"`--address` '{address}' is that of a job server, which takes a study with "
            "`--detach`; to run it from here, give the cluster's HOST:6379, or `auto` on a node."
        )
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise StudyError(_no_cluster(address, str(error))) from error


def _no_cluster(address: str | None, said: str) -> str:
    return (
        f"No Ray cluster answers at `--address` '{address}' ({said.rstrip('.')}); start one "
        "with `ray start --head`, or leave `--address` out to use this machine."
    )


def trainable(config: dict[str, Any]) -> None:
    """Run one trial in a Tune actor: the adapter between `run_trial` and Tune.

    Raises:
        TrialOutOfMemory: More room may help; anything else that is raised is tried again as it is.
        OSError: Storage did not take or give what it should.
        SupersededError: Another worker goes on with the trial; if this one is the one that Tune
            listens to, it starts again.
        RuntimeError: This node has other versions than the driver.
    """
    trial = config["trial"]
    tune.report({"kind": "start"})
    watch_this_process()
    if odd := differences(trial["versions"], versions()):
        raise RuntimeError(f"Node {socket.gethostname()} has {odd}; set it up as the driver is.")
    _check_storage(trial["study"], trial["mark"])
    outcome = run_trial(trial["job"], ClaimedFolder(open_folder(trial["folder"])), tune.report)
    if outcome.get("kind") == "out_of_memory" and trial["can_grow"]:
        raise TrialOutOfMemory(outcome["error"])
    if outcome.get("kind") == "storage":
        raise OSError(outcome["error"])
    tune.report({"kind": "end", "status": outcome["status"], "error": outcome.get("error")})


def _check_storage(study: str, mark: str) -> None:
    """Check that this node, which may have joined late, sees the storage that the driver sees.

    Raises:
        OSError: It does not, or another driver has begun since.
    """
    try:
        if open_folder(study).read(MARK) == mark.encode():
            return
    except FileNotFoundError:
        pass
    raise OSError(f"Node {socket.gethostname()} has a folder of its own at '{study}'.")


def launch(
    plan: Plan, folder: Folder, callbacks: Sequence[Callback], *, reuse_workers: bool
) -> dict[str, str]:
    """Run the trials that are left, the longest first, and wait for them.

    Ray must be connected. Returns when no trial is running; what came of each stands in its
    folder.

    Args:
        plan: The plan.
        folder: The study's folder; every node must reach it.
        callbacks: Told of every report.
        reuse_workers: Whether a worker takes one trial after another, which spares seconds each.
            Tune counts the death of one that waits as two, and gives its next trial up: not for
            clusters whose nodes come and go.

    Returns:
        What was said last of trials that were given up, by run key: their workers were lost
        `LOST_WORKER_RETRIES` times more without getting on in between.
    """
    sizes = node_sizes(ray.nodes())
    config = _config_maker(folder, sizes)
    trials = tune.grid_search([config(trial) for trial in plan.to_run()])
    return _fit(plan.study.name, Retries(sizes), callbacks, reuse_workers, {"trial": trials}, None)


MakeConfig = Callable[[PlannedTrial], dict[str, Any]]
"""Makes what `trainable` takes of a planned trial."""


def search(
    name: str,
    folder: Folder,
    make: Callable[[MakeConfig], Searcher],
    callbacks: Sequence[Callback],
    *,
    reuse_workers: bool,
    stopping: Callable[[Any, Mapping[str, Any]], bool] | None = None,
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

    def make(trial: PlannedTrial) -> dict[str, Any]:
        config = {
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
    space: dict[str, Any],
    algorithm: Searcher | None,
) -> dict[str, str]:
    """Let Tune run the trials of a space, or of a search algorithm; return what was given up."""
    bookkeeping = tempfile.mkdtemp(prefix="oat-tune-")
    gave_up = GaveUp()
    tuner = tune.Tuner(
        tune.with_resources(trainable, _resources),
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


def _resources(config: Mapping[str, Any]) -> dict[str, float]:
    request = config["trial"]["request"]
    return {"cpu": request["CPU"], "gpu": request["GPU"]}
