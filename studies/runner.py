"""Run what a plan lacks on Ray Tune.

Each launch is a new Tuner over the trials that are left; a trial goes on from its own folder.
Errors of a trial's own making are recorded there and end it; what Tune sees and retries is a
lost worker or node. docs/architecture.md says why.
"""

import os
import shutil
import socket
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Tune's handler would swallow Ctrl-C; its loggers would write what the storage folder has
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new output prints a banner at verbose=0
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray import tune
from ray.tune import Callback, FailureConfig, RunConfig, TuneConfig

from studies.errors import StudyError
from studies.planning import Plan
from studies.storage import Folder, open_folder
from studies.trial import run_trial

LOST_WORKER_RETRIES = 3


def connect(address: str | None) -> bool:
    """Start a local Ray, or join a running cluster.

    Args:
        address: As ``ray.init`` takes it; None for a Ray of our own on this machine.

    Returns:
        Whether this call connected, and `ray.shutdown` is therefore ours to call.

    Raises:
        StudyError: No cluster answers at the address.
    """
    if ray.is_initialized():
        return False
    _check_address(address)
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
        StudyError: Nobody answers within five seconds.
    """
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


def check_resources(request: Mapping[str, float], nodes: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a request that no node can satisfy; Ray would wait for ever.

    Args:
        request: ``cpu`` and ``gpu`` of one trial.
        nodes: As ``ray.nodes()`` returns them.

    Raises:
        StudyError: No living node has as much.
    """
    have = [node["Resources"] for node in nodes if node["Alive"]]
    fits = [
        node
        for node in have
        if node.get("CPU", 0) >= request["cpu"] and node.get("GPU", 0) >= request["gpu"]
    ]
    if fits:
        return
    largest: Mapping[str, Any] = max(
        have, key=lambda n: (n.get("GPU", 0), n.get("CPU", 0)), default={}
    )
    raise StudyError(
        f"`resources` ask for {request['cpu']:g} CPU and {request['gpu']:g} GPU a trial, but the "
        f"largest of {len(have)} nodes has {largest.get('CPU', 0):g} CPU and "
        f"{largest.get('GPU', 0):g} GPU; lower `resources.cpu` or `resources.gpu`, or use another "
        "cluster."
    )


def slots(request: Mapping[str, float], nodes: Sequence[Mapping[str, Any]]) -> int:
    """Count the trials that fit on the living nodes at a time."""
    count = 0.0
    for node in nodes:
        if node["Alive"]:
            have = node["Resources"]
            by_cpu = have.get("CPU", 0) // request["cpu"]
            # 3 x 1/3 must be 3
            by_gpu = (have.get("GPU", 0) + 1e-6) // request["gpu"] if request["gpu"] else by_cpu
            count += min(by_cpu, by_gpu)
    return int(count)


def trainable(config: dict[str, Any]) -> None:
    """Run one trial in a Tune actor: the adapter between `run_trial` and Tune."""
    trial = config["trial"]
    run_trial(trial["job"], open_folder(trial["folder"]), tune.report)


def launch(plan: Plan, folder: Folder, callbacks: Sequence[Callback]) -> None:
    """Run the trials that are left, the longest first, and wait for them.

    Ray must be connected. Returns when no trial is running; what came of each stands in its
    folder.

    Args:
        plan: The plan.
        folder: The study's folder; every node must reach it.
        callbacks: Told of every report.
    """
    bookkeeping = tempfile.mkdtemp(prefix="oat-tune-")
    configs = [
        {"job": dict(trial.job), "folder": folder.sub(f"trials/{trial.run_key}").uri}
        for trial in plan.to_run()
    ]
    tuner = tune.Tuner(
        tune.with_resources(trainable, _resources),
        param_space={"trial": tune.grid_search(configs)},
        tune_config=TuneConfig(
            reuse_actors=True,
            trial_name_creator=run_key_of,
            trial_dirname_creator=run_key_of,
        ),
        run_config=RunConfig(
            name=plan.study.name,
            storage_path=bookkeeping,
            verbose=0,
            callbacks=list(callbacks),
            failure_config=FailureConfig(max_failures=LOST_WORKER_RETRIES),
        ),
    )
    try:
        tuner.fit()
    finally:
        shutil.rmtree(bookkeeping, ignore_errors=True)


def _resources(config: Mapping[str, Any]) -> dict[str, float]:
    request = config["trial"]["job"]["resources"]
    return {"cpu": request["cpu"], "gpu": request["gpu"]}


def run_key_of(trial: Any) -> str:
    """Return the run key of one of Tune's trials."""
    return str(trial.config["trial"]["job"]["run_key"])
