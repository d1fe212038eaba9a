"""How a trial that has lost its worker is tried again: the scheduler, and what it is told by."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError
from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler

from studies.cluster.capacity import Request, grown
from studies.cluster.configs import LaunchConfig, WorkerConfig
from studies.trial.shapes import TrialReport

RAY_MEMORY = "running low on memory"
"""What Ray says of an actor that its memory monitor has killed."""
NODE_DEATH = "its node has died"
"""What Ray says of an actor whose node it has lost."""


LOST_WORKER_RETRIES = 5
"""Times that a trial is started again without having got on since the last time."""

LOSSES_BEFORE_MORE_ROOM = 2
"""Losses at one place after which a trial has more room: a lack of memory may look like any."""


class TrialOutOfMemory(Exception):
    """A trial has run out of memory, and may have more room."""


@dataclass
class FirstFailure:
    """Ends a run at its first failure: what runs goes on to its next checkpoint, no more starts.

    Attributes:
        said: Which trial failed, and why; None as long as none has.
    """

    said: str | None = None

    def take(self, trial: Any, result: TrialReport) -> bool:
        """Take a report of a trial; return whether the trial stops here."""
        if self.said is not None:
            return result["kind"] == "point" or (result["kind"] == "epoch" and result["saved"])
        if result["kind"] == "end" and result["status"] == "failed":
            self.said = f"{run_key_of(trial)}: {result['error']}"
        return False

    def hold_back(self, tune_controller: Any) -> None:
        """Keep trials from starting, once one has failed."""
        if self.said is not None:
            for trial in tune_controller.get_trials():
                if trial.status == Trial.PENDING:
                    tune_controller.stop_trial(trial)


class Retries(FIFOScheduler):  # type: ignore[misc]
    """Runs trials first in, first out, and decides how a lost one is tried again.

    A worker may be lost any number of times, as long as its trial gets on in between; a trial that
    ran out of memory goes on with twice the room. So does one lost twice at the same place, which
    the kernel may have killed for its memory: that looks like any other kill.

    Args:
        sizes: See `studies.cluster.capacity.node_sizes`.
        stopping: Told of each report of a trial; whether to stop the trial. None never does.
        first_failure: What ends the run at its first failure; None goes on.
    """

    def __init__(
        self,
        sizes: Sequence[Request],
        stopping: Callable[[Any, TrialReport], bool] | None = None,
        first_failure: FirstFailure | None = None,
    ) -> None:
        super().__init__()
        self._sizes, self._stopping, self._first = sizes, stopping, first_failure

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Return the next trial; Tune asks at each step, and adds trials while others run."""
        if self._first is not None:
            self._first.hold_back(tune_controller)
        return super().choose_trial_to_run(tune_controller)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: TrialReport) -> str:
        """Forget earlier losses once the trial has got on, so that it would not come here again."""
        if result["kind"] not in {"start", "waiting"} and result.get("saved", True):
            trial.run_metadata.num_failures = 0
        if self._first is not None and self._first.take(trial, result):
            return str(self.STOP)
        if self._stopping is not None and self._stopping(trial, result):
            return str(self.STOP)
        return str(super().on_trial_result(tune_controller, trial, result))

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Give more room after a lack of memory."""
        if trial.status == Trial.RUNNING:
            return  # it was the last time: Tune does not take it off its worker to start it again
        error = _error_of(trial)
        killed = isinstance(error, RayActorError) and NODE_DEATH not in str(error)
        twice = killed and trial.run_metadata.num_failures >= LOSSES_BEFORE_MORE_ROOM
        if not twice and not _is_out_of_memory(error):
            return
        config: WorkerConfig = trial.config["trial"]
        larger = grown(config["request"], self._sizes)
        if larger is not None:
            trial.set_config({"trial": with_room(config, larger, self._sizes)})
            trial.update_resources(larger)


def with_room(config: LaunchConfig, request: Request, sizes: Sequence[Request]) -> WorkerConfig:
    """Return a trial's config with its share of a node, and whether it can still have more."""
    job = config["job"].copy()
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
    if error is None:
        return "its worker did not start"
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


def _last_words(error: Exception) -> str:
    """Return what a worker said at its end, in one line."""
    cause = error.as_instanceof_cause() if isinstance(error, RayTaskError) else error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return lines[-1] if lines else type(cause).__name__


class GaveUp(Callback):  # type: ignore[misc]
    """Keeps what was said last of the trials that Tune does not start again, by run key."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Take one."""
        self.reasons[run_key_of(trial)] = how_lost(trial)


def run_key_of(trial: Any) -> str:
    """Return the run key of one of Tune's trials."""
    return str(trial.config["trial"]["job"]["run_key"])
