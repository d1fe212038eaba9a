"""What runs in a worker of Ray: the adapter between Tune and `studies.trial.run.run_trial`."""

import socket

from oat.lazy import without_collections

with without_collections():  # a worker begins a quarter of a second earlier
    from ray import tune

    from studies.cluster.configs import TrialSpace
    from studies.cluster.retries import TrialOutOfMemory
    from studies.cluster.stalls import watch_this_process
    from studies.storage.opening import open_folder
    from studies.trial.claims import ClaimedFolder
    from studies.trial.provenance import differences, versions
    from studies.trial.run import run_trial
    from studies.trial.shapes import TrialReport

MARK = "launch"
"""File of the study's folder by which a worker knows the storage of its driver."""


def trainable(config: TrialSpace) -> None:
    """Run one trial in a Tune actor: the adapter between `run_trial` and Tune.

    Raises:
        TrialOutOfMemory: More room may help; anything else that is raised is tried again as it is.
        OSError: Storage did not take or give what it should.
        SupersededError: Another worker goes on with the trial; if this one is the one that Tune
            listens to, it starts again.
        RuntimeError: This node has other versions than the driver.
    """
    trial = config["trial"]
    _report({"kind": "start"})
    watch_this_process()
    if odd := differences(trial["versions"], versions()):
        raise RuntimeError(f"Node {socket.gethostname()} has {odd}; set it up as the driver is.")
    _check_storage(trial["study"], trial["mark"])
    folder = ClaimedFolder(open_folder(trial["folder"]), _wait)
    outcome = run_trial(trial["job"], folder, _report)
    if outcome["status"] == "failed":
        if outcome["kind"] == "out_of_memory" and trial["can_grow"]:
            raise TrialOutOfMemory(outcome["error"])
        if outcome["kind"] == "storage":
            raise OSError(outcome["error"])
    error = None if outcome["status"] == "done" else outcome["error"]
    _report({"kind": "end", "status": outcome["status"], "error": error})


def _report(said: TrialReport) -> None:
    tune.report(said)


def _wait(error: OSError) -> None:
    _report({"kind": "waiting", "said": str(error)})


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


def resources_of(config: TrialSpace) -> dict[str, float]:
    """Return what Tune reserves for a trial: CPUs, and a share of a GPU."""
    request = config["trial"]["request"]
    return {"cpu": request["CPU"], "gpu": request["GPU"]}
