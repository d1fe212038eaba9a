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
from pathlib import Path
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
from ray import cloudpickle, tune
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError
from ray.tune import Callback, FailureConfig, RunConfig, TuneConfig
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from studies.claims import ClaimedFolder
from studies.errors import StudyError
from studies.evicted import evictions_survived
from studies.planning import Plan, PlannedTrial
from studies.records import differences, versions
from studies.stalls import StartWatch, watch_this_process
from studies.storage import Folder, open_folder
from studies.trial import run_trial

LOST_WORKER_RETRIES = 5
"""Times that a trial is started again without having got on since the last time."""

log = logging.getLogger("oat.ray")

MARK = "launch"
"""File of the study's folder by which a worker knows the storage of its driver."""

ANSI = re.compile(r"\x1b\[[0-9;]*m")
RAY_MEMORY = "running low on memory"
"""What Ray says of an actor that its memory monitor has killed."""
NODE_DEATH = "its node has died"
"""What Ray says of an actor whose node it has lost."""


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


Request = Mapping[str, float]
"""``CPU`` and ``GPU`` that a trial asks of a node, or that a node has."""


def request_of(trial: PlannedTrial) -> dict[str, float]:
    """Return what a trial asks of a node."""
    need = trial.job["resources"]
    return {"CPU": float(need["cpu"]), "GPU": float(need["gpu"])}


def node_sizes(nodes: Sequence[Mapping[str, Any]]) -> list[Request]:
    """Return what the nodes of a cluster can hold: those that live, and those it may still start.

    Args:
        nodes: As ``ray.nodes()`` returns them.
    """
    living = [node["Resources"] for node in nodes if node["Alive"]]
    # what an autoscaler may add, which an idle cluster has not yet; Ray has no public form of this
    config = ray._private.state.state.get_cluster_config() if ray.is_initialized() else None
    groups = config.node_group_configs if config is not None else ()
    return living + [dict(group.resources) for group in groups if group.max_count]


def fits(request: Request, node: Request) -> bool:
    """Tell whether a node is large enough for a request."""
    # 3 x 1/3 must be 1
    return all(node.get(kind, 0) + 1e-6 >= amount for kind, amount in request.items())


def check_resources(request: Request, sizes: Sequence[Request]) -> None:
    """Refuse a request that no node can satisfy; Ray would wait for ever.

    Args:
        request: What one trial asks for.
        sizes: See `node_sizes`.

    Raises:
        StudyError: No node has as much.
    """
    if any(fits(request, node) for node in sizes):
        return
    largest: Request = max(sizes, key=lambda n: (n.get("GPU", 0), n.get("CPU", 0)), default={})
    raise StudyError(
        f"`resources` ask for {request['CPU']:g} CPU and {request['GPU']:g} GPU a trial, but the "
        f"largest of {len(sizes)} nodes has {largest.get('CPU', 0):g} CPU and "
        f"{largest.get('GPU', 0):g} GPU; lower `resources.cpu` or `resources.gpu`, or use another "
        "cluster."
    )


def grown(request: Request, sizes: Sequence[Request]) -> dict[str, float] | None:
    """Return a request that packs half as many trials on a node; None if there is none.

    A share of a GPU is doubled, or the CPUs of a trial that has no GPU.
    """
    if request["GPU"] >= 1:
        return None
    kind = "GPU" if request["GPU"] else "CPU"
    double = {**request, kind: 2 * request[kind]}
    return double if any(fits(double, node) for node in sizes) else None


class TrialOutOfMemory(Exception):
    """A trial has run out of memory, and may have more room."""


class Retries(FIFOScheduler):  # type: ignore[misc]
    """Runs trials first in, first out, and decides how a lost one is tried again.

    A worker may be lost any number of times, as long as its trial gets on in between; a trial that
    ran out of memory goes on with twice the room. So does one lost twice at the same place, which
    the kernel may have killed for its memory: that looks like any other kill.

    Args:
        sizes: See `node_sizes`.
        stopping: Told of each report of a trial; whether to stop the trial. None never does.
    """

    def __init__(
        self,
        sizes: Sequence[Request],
        stopping: Callable[[Any, Mapping[str, Any]], bool] | None = None,
    ) -> None:
        super().__init__()
        self._sizes, self._stopping = sizes, stopping

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Forget earlier losses once the trial has got on."""
        if result["kind"] != "start":
            trial.run_metadata.num_failures = 0
        if self._stopping is not None and self._stopping(trial, result):
            return str(self.STOP)
        return str(super().on_trial_result(tune_controller, trial, result))

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Give more room after a lack of memory."""
        if trial.status == Trial.RUNNING:
            return  # it was the last time: Tune does not take it off its worker to start it again
        error = _error_of(trial)
        killed = isinstance(error, RayActorError) and NODE_DEATH not in str(error)
        twice = killed and trial.run_metadata.num_failures >= 2
        if not twice and not _is_out_of_memory(error):
            return
        config = trial.config["trial"]
        larger = grown(config["request"], self._sizes)
        if larger is not None:
            trial.set_config({"trial": _with_room(config, larger, self._sizes)})
            trial.update_resources(larger)


def _with_room(
    config: Mapping[str, Any], request: Request, sizes: Sequence[Request]
) -> dict[str, Any]:
    """Return a trial's config with its share of a node, and whether it can still have more."""
    job = dict(config["job"])
    # its share of the GPU's memory; threads decide the numbers on a CPU and stay
    job["resources"] = {**job["resources"], "gpu": request["GPU"]}
    can_grow = grown(request, sizes) is not None
    return {**config, "job": job, "request": dict(request), "can_grow": can_grow}


def _error_of(trial: Any) -> Any:
    """Return how a trial's worker ended last; Tune's own reader looks where it copies it later."""
    path = trial.pickled_error_file
    return cloudpickle.loads(Path(path).read_bytes()) if path and Path(path).exists() else None


def how_lost(trial: Any) -> str:
    """Say in a few words how one of Tune's trials has lost its worker."""
    error = _error_of(trial)
    if _is_out_of_memory(error):
        return "out of memory"
    if NODE_DEATH in str(error):
        return "its node is gone"
    return "its worker died" if isinstance(error, RayActorError) else _last_words(error)


def _is_out_of_memory(error: Any) -> bool:
    """Tell whether a worker's end was a lack of memory, by our account or by Ray's monitor."""
    if error is None:
        return False
    cause = error.as_instanceof_cause() if isinstance(error, RayTaskError) else error
    return isinstance(cause, TrialOutOfMemory | OutOfMemoryError) or RAY_MEMORY in str(cause)


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


class GaveUp(Callback):  # type: ignore[misc]
    """Keeps what was said last of the trials that Tune does not start again, by run key."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Take one."""
        self.reasons[run_key_of(trial)] = how_lost(trial)


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


def slots(request: Request, sizes: Sequence[Request]) -> int:
    """Count the trials of one request that fit on the nodes at a time; at least 1."""
    kinds = [kind for kind, amount in request.items() if amount > 0]
    fitting = (min(node.get(kind, 0) / request[kind] + 1e-6 for kind in kinds) for node in sizes)
    return max(1, sum(map(int, fitting)))


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
        return _with_room(config, request_of(trial), sizes)

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


def _last_words(error: Exception | None) -> str:
    """Return what a worker said at its end, in one line."""
    cause = error.as_instanceof_cause() if isinstance(error, RayTaskError) else error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return lines[-1] if lines else type(cause).__name__


def _resources(config: Mapping[str, Any]) -> dict[str, float]:
    request = config["trial"]["request"]
    return {"cpu": request["CPU"], "gpu": request["GPU"]}


def run_key_of(trial: Any) -> str:
    """Return the run key of one of Tune's trials."""
    return str(trial.config["trial"]["job"]["run_key"])
