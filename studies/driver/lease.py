"""One driver for a study: a lease in its folder, kept alive by a heartbeat.

Works on any storage, and compares no clock with another machine's: a lease is alive if it beats
while one looks. No lock holds on every storage, so a driver writes its lease, waits, and holds it
if it still is its own (Fischer's algorithm, in Lamport, "A fast mutual exclusion algorithm", 1987);
should two have passed at once, one finds the other's lease at its next beat, and stops.
"""

import json
import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypedDict, cast

from rich.console import Console

from studies.console import say
from studies.errors import StudyError
from studies.storage.folder import Folder
from studies.storage.local import LocalFolder
from studies.study_file.study import Study


@contextmanager
def only_driver(study: Study, folder: Folder, console: Console) -> Iterator[None]:
    """Hold the study's lease; stop, as by Ctrl-C, if another driver takes it.

    Raises:
        LeaseError: Another driver has it, or has taken it.
    """
    taken = threading.Event()
    # elsewhere than in the main thread Python takes no signals: the run then ends in its own time
    main = threading.current_thread() is threading.main_thread()

    def lost() -> None:
        taken.set()
        if main:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR2)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    # not SIGINT, which a shell's background processes ignore; nor SIGUSR1, which is Tune's
    before = signal.signal(signal.SIGUSR2, stop) if main else None
    try:
        with Lease(folder, study.name, lost=lost, waiting=partial(say, console)):
            yield
            if taken.is_set():
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        if not taken.is_set():
            raise
        raise LeaseError(
            f"Another run of study '{study.name}' has taken over, as this one gave no sign of "
            "life; that one goes on."
        ) from None
    finally:
        if main:
            signal.signal(signal.SIGUSR2, before)


log = logging.getLogger("oat.storage")

LEASE = "lease.json"
BEAT_SECONDS = 5.0
PATIENCE_SECONDS = 30.0
"""A lease of another machine that does not beat for so long is dead."""
SETTLE_SECONDS = 0.1, 1.0
"""What another driver may take from looking to writing, on a path and behind a URI."""


_ENDED: set[str] = set()
"""Owners of leases that this process could not remove: it lives, and their runs have ended."""


class LeaseError(StudyError):
    """Another driver runs the study."""


class LeaseRecord(TypedDict, total=False):
    """What ``lease.json`` holds; of another version's it may be any part.

    Attributes:
        owner: Drawn for the run that holds the lease.
        beat: How often that run has given a sign of life.
        host: Name of its machine.
        pid: Of its process.
        place: Machine, boot and namespace of processes; None where these cannot be looked up.
        started: When the process was, in ticks after boot; see `_started`.
    """

    owner: str
    beat: int
    host: str
    pid: int
    place: str | None
    started: str | None


class Lease:
    """The right to run a study, while the context lasts.

    Args:
        folder: The study's folder.
        study: Its name, for messages.
        lost: Called, in a thread of its own, if another driver has taken the lease.
        waiting: Told a sentence before a wait.
    """

    def __init__(
        self,
        folder: Folder,
        study: str,
        *,
        lost: Callable[[], None],
        waiting: Callable[[str], None],
    ) -> None:
        self._folder, self._study = folder, study
        self._tell_lost, self._waiting = lost, waiting
        self._record: LeaseRecord = {"owner": uuid.uuid4().hex, "beat": 0, **_whereabouts()}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="oat-lease", daemon=True)

    def __enter__(self) -> "Lease":
        """Take the lease.

        Raises:
            LeaseError: Another driver has it; nothing was written.
            OSError: Storage cannot be read or written.
        """
        self._wait_for_the_other()
        try:
            self._write()
            time.sleep(SETTLE_SECONDS[not isinstance(self._folder, LocalFolder)])
            found = self._read()
            if found is None or not self._is_own(found):
                raise self._refusal(found or {})
        except BaseException:
            self._release()
            raise
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        try:
            self._thread.join()
        finally:
            self._release()

    def _release(self) -> None:
        """Remove the lease if it is ours; one that cannot be removed is dead by its process."""
        try:
            found = self._read()
            if found is not None and self._is_own(found):
                self._folder.remove(LEASE)
        except OSError as error:
            _ENDED.add(self._record["owner"])
            log.warning("The lease of this run is left in storage (%s).", error)

    def _is_own(self, record: LeaseRecord) -> bool:
        return bool(record.get("owner") == self._record["owner"])

    def _read(self) -> LeaseRecord | None:
        """Return the lease in storage; None where there is none, or nothing that can be read."""
        with suppress(FileNotFoundError, ValueError):
            record = json.loads(self._folder.read(LEASE))
            if isinstance(record, dict):
                return cast(LeaseRecord, record)
        return None

    def _write(self) -> None:
        self._folder.write(LEASE, json.dumps(self._record).encode())

    def _wait_for_the_other(self) -> None:
        """Return when no lease is alive.

        Raises:
            LeaseError: One is.
        """
        first = self._read()
        if first is None:
            return
        if first.get("place") is not None and first["place"] == self._record["place"]:
            if first.get("owner") not in _ENDED and _runs_here(first):
                raise self._refusal(first)
            return  # its process has died
        self._waiting(
            f"A run of {self._study} on {first.get('host')} has left a lease; watching for up to "
            f"{PATIENCE_SECONDS:.0f} s whether it is alive."
        )
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:
            time.sleep(min(1.0, BEAT_SECONDS))
            now = self._read()
            if now is None:
                return
            if now != first:
                raise self._refusal(now)

    def _refusal(self, other: LeaseRecord) -> LeaseError:
        where = f"process {other.get('pid')} on {other.get('host')}"
        return LeaseError(
            f"Study '{self._study}' is being run already, by {where}; wait for its end or stop it "
            f"(`oat status` shows how far it is), or use another `--storage`."
        )

    def _keep(self) -> None:
        """Beat until the end, or until the lease is another's."""
        away = False
        while not self._end.wait(BEAT_SECONDS):
            try:
                found = self._read()
                if found is not None and not self._is_own(found):
                    self._tell_lost()  # at each beat, should a stop be lost
                    continue
                self._record["beat"] += 1
                self._write()
            except OSError as error:  # whoever takes over meanwhile is seen when it is back
                if not away:
                    log.warning("Storage does not take writes (%s); trials wait for it.", error)
                away = True
            else:
                if away:
                    log.warning("Storage takes writes again.")
                away = False


def _whereabouts() -> LeaseRecord:
    """Tell where this process is; `place` is None where processes cannot be looked up."""
    pid = os.getpid()
    record: LeaseRecord = {"host": socket.gethostname(), "pid": pid, "place": None}
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
        record |= {"place": f"{record['host']} {boot} {namespace}", "started": _started(pid)}
    return record


def _started(pid: int) -> str | None:
    """Return when a process of this machine was started, in ticks after boot.

    With it, a process that was given the number of a dead one is not taken for that. Empty for one
    that has ended and waits for its parent; None for one that cannot be looked at.
    """
    with suppress(OSError):
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if state == "Z" else fields[18]
    return None


def _runs_here(record: LeaseRecord) -> bool:
    """Tell whether the process of a record of this machine is alive, or may be."""
    pid = record.get("pid")
    if not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # of another user
    return _started(pid) in {None, record.get("started")}
