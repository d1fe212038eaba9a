"""MLflow kept up to date from a thread of its own, so that training never waits for it."""

import logging
import queue
import threading

from studies.errors import TrackingError
from studies.planning import Plan
from studies.storage import Folder
from studies.tracking import Tracker

log = logging.getLogger("oat.tracking")


class BackgroundSync(threading.Thread):
    """Syncs trials while a study runs; training never waits for it.

    What a dead server misses is not lost: `Tracker.sync` reads it from storage afterwards.
    """

    def __init__(self, tracker: Tracker, plan: Plan, folder: Folder) -> None:
        super().__init__(name="oat-tracking", daemon=True)
        self._tracker, self._plan, self._folder = tracker, plan, folder
        self._trials = {trial.run_key: trial for trial in plan.trials}
        self._queue: queue.Queue[str | None] = queue.Queue()
        self.error: str | None = None

    def changed(self, run_key: str) -> None:
        """Say that a trial's folder has changed."""
        self._queue.put(run_key)

    def close(self) -> None:
        """Finish what is queued and stop."""
        self._queue.put(None)
        self.join()

    def run(self) -> None:
        """Sync what is queued, each trial once however often it was named."""
        closing = False
        while not closing:
            keys = {self._queue.get()}
            while not self._queue.empty():
                keys.add(self._queue.get())
            closing = None in keys
            for key in sorted(key for key in keys if key is not None):
                self._sync(key)

    def _sync(self, run_key: str) -> None:
        folder = self._folder.sub(f"trials/{run_key}")
        try:
            self._tracker.follow(self._plan, self._trials[run_key], folder)
        except TrackingError as error:
            if self.error is None:
                log.warning("MLflow does not take results at the moment: %s", error)
            self.error = str(error)
