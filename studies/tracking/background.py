"""MLflow kept up to date from a thread of its own, so that training never waits for it."""

import logging
import queue
import threading
import time
from collections.abc import Callable

from studies.errors import TrackingError
from studies.planning.plan import Plan, PlannedTrial
from studies.storage.folder import Folder
from studies.tracking.tracker import Tracker

log = logging.getLogger("oat.tracking")

RETRY_SECONDS = 15.0
CLOSE_SECONDS = 10.0
"""What closing may take beyond the request that is being answered."""


class BackgroundSync(threading.Thread):
    """Syncs trials while a study runs; training never waits for it.

    What MLflow did not take is tried again until it does; storage is the journal of what that is,
    so nothing is lost with the process either: `Tracker.sync` brings the rest.

    Args:
        tracker: Of the study's experiment.
        plan: The trials that are known when it begins.
        folder: The study's folder.
        brought: Called with the run key of a trial each time MLflow has taken what is new of it.
    """

    def __init__(
        self,
        tracker: Tracker,
        plan: Plan,
        folder: Folder,
        brought: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(name="oat-tracking", daemon=True)
        self._tracker, self._plan, self._folder = tracker, plan, folder
        self._brought = brought
        self._trials = {trial.run_key: trial for trial in plan.trials}
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._waiting: dict[str, None] = {}
        """Run keys in the order of their turn."""
        self._until = float("inf")
        self.error: str | None = None

    def add(self, trial: PlannedTrial) -> None:
        """Follow a trial that the plan did not have."""
        self._trials[trial.run_key] = trial

    def changed(self, run_key: str) -> None:
        """Say that a trial's folder has changed."""
        self._queue.put(run_key)

    def close(self) -> None:
        """Bring what is waiting if MLflow takes it at once, and stop."""
        self._until = time.monotonic() + CLOSE_SECONDS
        self._queue.put(None)
        self.join()

    def run(self) -> None:
        """Sync what is queued, each trial once however often it was named."""
        again = 0.0
        closing = False
        while not closing:
            closing = self._take(again)
            if time.monotonic() < again:
                continue
            while self._waiting and time.monotonic() < self._until:
                key = next(iter(self._waiting))
                del self._waiting[key]
                if not self._sync(key):
                    self._waiting[key] = None  # the last in turn, should it be this trial alone
                    again = time.monotonic() + RETRY_SECONDS
                    break

    def _take(self, again: float) -> bool:
        """Wait for a change, or for the time to try again what waits; return whether to stop."""
        left = max(0.0, again - time.monotonic()) if self._waiting else None
        try:
            keys = [self._queue.get(timeout=left)]
        except queue.Empty:
            return False
        while not self._queue.empty():
            keys.append(self._queue.get())
        self._waiting |= {key: None for key in keys if key is not None}
        return None in keys

    def _sync(self, run_key: str) -> bool:
        """Bring one trial to MLflow; return whether it took it."""
        folder = self._folder.sub(f"trials/{run_key}")
        try:
            self._tracker.follow(self._plan, self._trials[run_key], folder)
        except (TrackingError, OSError) as error:
            if self.error is None:
                log.warning(
                    "MLflow does not take results at the moment (%s); training goes on, and they "
                    "are brought when it does.",
                    error,
                )
            self.error = str(error)
            return False
        if self.error is not None:
            log.warning("MLflow takes results again.")
            self.error = None
        if self._brought is not None:
            self._brought(run_key)
        return True
