"""Workers that hang: ended, so that their trials go on elsewhere.

A process may be alive and never go on: a thread that could not be started for want of memory, a
network disk that does not answer. Tune would wait for ever.
"""

import logging
import os
import signal
import threading
import time
from contextlib import suppress
from functools import lru_cache
from typing import Any

import ray
from ray.tune import Callback
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from studies.cluster.ray_internals import actors_being_made
from studies.trial.shapes import TrialReport

log = logging.getLogger("oat.ray")

STALL_SECONDS = float(os.environ.get("OAT_STALL_SECONDS", "1800"))
"""A worker that computes nothing for so long hangs."""
START_SECONDS = min(180.0, STALL_SECONDS)
"""What a worker may take from its start to the first line of a trial."""
MAKE_SECONDS = min(600.0, 3 * STALL_SECONDS)
"""What a worker may take to be made: it imports torch meanwhile, from whatever disk."""
ASK_SECONDS = 5.0
"""Between questions to Ray's control store."""
PAUSE_SECONDS = 10.0
"""A driver that has not looked for so long was stopped itself."""
IDLE_SHARE = 0.01
"""Of one core: a process that hangs has less, by Ray's own threads; one that trains has more."""


class StartWatch(Callback):  # type: ignore[misc]
    """Ends workers whose trial does not begin: each reports as soon as it does.

    A worker may even hang while Ray makes it: without memory, Ray's own handler of its abort
    has been seen to fail and call itself for ever. Tune knows nothing of a worker until it is
    made, and one that waits for room may wait for days; Ray's control store tells the two apart.
    """

    def __init__(self) -> None:
        self._started: dict[str, float] = {}
        self._making: dict[tuple[str, int], float] = {}
        self._looked = time.monotonic()
        self._asked = 0.0

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Begin to wait for its first report."""
        self._started[trial.trial_id] = time.monotonic()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: TrialReport, **info: Any
    ) -> None:
        """It has begun."""
        self._started.pop(trial.trial_id, None)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """It has ended without a report, as one that another worker goes on with."""
        self._started.pop(trial.trial_id, None)

    on_trial_recover = on_trial_error = on_trial_complete

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """End what has waited too long."""
        now = time.monotonic()
        if now - self._looked > PAUSE_SECONDS:  # what was reported meanwhile is yet to be read
            self._started = dict.fromkeys(self._started, now)
        self._looked = now
        late = now - START_SECONDS
        for trial in trials:
            if self._started.get(trial.trial_id, late) < late:
                del self._started[trial.trial_id]
                log.warning("The worker of trial %s does not begin; it is ended.", trial.trial_id)
                ray.kill(trial.temporary_state.ray_actor)
        if now - self._asked > ASK_SECONDS:
            self._asked = now
            self._end_unmade(now)

    def _end_unmade(self, now: float) -> None:
        """End workers that have had a process for too long and are still being made."""
        job = ray.get_runtime_context().get_job_id()
        found = actors_being_made(job)
        nodes = {(name, at["Pid"]): at["Address"]["NodeID"] for name, at in found.items()}
        making = {key: self._making.get(key, now) for key in nodes if key[1]}
        for key, since in list(making.items()):
            if now - since > MAKE_SECONDS:
                del making[key]
                log.warning("A worker does not come to be (process %d); it is ended.", key[1])
                where = NodeAffinitySchedulingStrategy(nodes[key], soft=False)
                ray.remote(num_cpus=0, scheduling_strategy=where)(_end).remote(key[1])
        self._making = making


def _end(pid: int) -> None:
    """End a process of this node; it would not listen to Ray."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@lru_cache(maxsize=1)
def watch_this_process() -> threading.Thread:
    """End this process, from now on, whenever it computes nothing for `STALL_SECONDS`."""

    def watch() -> None:
        while True:
            before = time.process_time()
            time.sleep(STALL_SECONDS)
            if time.process_time() - before < IDLE_SHARE * STALL_SECONDS:
                os._exit(70)  # what hangs could not be asked to end

    thread = threading.Thread(target=watch, name="oat-stalls", daemon=True)
    thread.start()
    return thread
