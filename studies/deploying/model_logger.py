"""Trained models logged in MLflow while the study goes on, by a process of the lowest priority.

An export takes seconds of a processor. In the driver it would keep Tune waiting; at the priority
of a training it would count in the training's `device_seconds`, which are the price that is told.
"""

import json
import logging
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from studies.storage.folder import Folder
from studies.study_file.study import Study

log = logging.getLogger("oat.tracking")


class ModelLogger:
    """Hands trials to the process, one at a time, from a thread of its own.

    What is not logged when it is closed, or was refused, is left to
    `studies.deploying.logged.log_models`.

    Args:
        study: The study.
        folder: Its folder.
        uri: Tracking URI.

    Attributes:
        faults: Why a model cannot be exported, by run key.
    """

    def __init__(self, study: Study, folder: Folder, uri: str) -> None:
        self.faults: dict[str, str] = {}
        self._asked = {"study": study.dump(), "folder": folder.uri, "tracking": uri}
        self._folder = folder
        self._logged: set[str] = set()
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._closing = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._run, name="oat-models", daemon=True)
        self._thread.start()

    def brought(self, run_key: str) -> None:
        """Say that MLflow has all of a trial so far; returns at once."""
        self._queue.put(run_key)

    def close(self, *, at_once: bool) -> None:
        """Stop after the model that is being logged, or at once."""
        self._closing.set()
        self._queue.put(None)
        if at_once and (process := self._process) is not None:
            process.kill()
        self._thread.join()

    def _run(self) -> None:
        refused: set[str] = set()
        while (key := self._queue.get()) is not None and not self._closing.is_set():
            if not self._is_done(key):
                continue
            for one in (key, *sorted(refused - {key})):
                if not self._closing.is_set() and not self._log(one):
                    refused.add(one)
                    break  # MLflow is away: the others wait for the next trial
                refused.discard(one)
        self._end()

    def _is_done(self, run_key: str) -> bool:
        """Whether a trial is finished, and its model not dealt with."""
        if run_key in self._logged or run_key in self.faults:
            return False
        try:
            return self._folder.size(f"trials/{run_key}/result.json") is not None
        except OSError:  # storage is away, and the run says so
            return False

    def _log(self, run_key: str) -> bool:
        """Have one model logged; return whether it is dealt with."""
        reply = self._ask(run_key)
        if reply is None:
            self._logged.add(run_key)
        elif "fault" in reply:
            self.faults[run_key] = reply["fault"]
        else:
            log.info("the model of %s is not logged yet: %s", run_key, reply["refused"])
            return False
        return True

    def _ask(self, run_key: str) -> dict[str, str] | None:
        """Ask the process, which is started if there is none."""
        try:
            if self._process is None:
                self._process = self._started()
                self._write(json.dumps(self._asked))
            self._write(run_key)
        except BrokenPipeError:
            line = ""
        else:
            assert self._process.stdout is not None
            line = self._process.stdout.readline()
        if not line:
            code = self._end()
            return {"refused": f"the process that logs models ended with {code}"}
        reply: dict[str, str] | None = json.loads(line)
        return reply

    def _started(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "studies.deploying.model_process"],
            # code of the user's is found there as here
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # the console is the run's; sentences come as replies
            text=True,
            start_new_session=True,  # Ctrl-C is for the driver, which ends it
        )

    def _write(self, line: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _end(self) -> int | None:
        """End the process, if there is one; return its exit code."""
        process, self._process = self._process, None
        if process is None:
            return None
        with suppress(BrokenPipeError), process:  # closes its input, at which it ends
            pass
        return process.returncode


@contextmanager
def logging_models(study: Study, folder: Folder, uri: str) -> Iterator[ModelLogger | None]:
    """Log models until the block is left, if the study asks for it.

    Args:
        study: The study.
        folder: Its folder.
        uri: Tracking URI.

    Yields:
        What is to be told of trials; None if no models are logged.
    """
    if not study.tracking.log_models:
        yield None
        return
    logger = ModelLogger(study, folder, uri)
    at_once = True
    try:
        yield logger
        at_once = False
    finally:
        logger.close(at_once=at_once)
