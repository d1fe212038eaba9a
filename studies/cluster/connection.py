"""Connect to Ray, and keep what it prints off standard output."""

import io
import logging
import re
import shlex
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from studies.cluster.ray_internals import temporary_folder
from studies.errors import StudyError

log = logging.getLogger("oat.ray")

STARTS = 3
"""Attempts to start a Ray of our own; a busy machine may be too slow for the first."""
TOO_SLOW = "timed out during startup"
"""What Ray says of a start that took too long."""

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
        StudyError: No cluster answers at the address, or Ray does not start here, as in a folder
            for temporary files that is another user's or has a long path.
    """
    _check_address(address)
    if ray.is_initialized():
        return False
    for left in reversed(range(STARTS)):
        try:
            with _own_end():
                ray.init(
                    address=address or "local",
                    include_dashboard=False if address is None else None,
                    log_to_driver=False,
                    logging_level="ERROR",
                    runtime_env=_our_python() if address is None else None,
                )
            break
        except (ConnectionError, ValueError, RuntimeError) as error:
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise StudyError(_no_cluster(address, said)) from error
        except OSError as error:
            raise StudyError(_no_folder(error)) from error
        except Exception as error:  # what Ray (2.60) raises after 30 s is of no class of its own
            if TOO_SLOW not in str(error):
                raise
            if not left:
                raise StudyError(
                    f"Ray did not start on this machine in {STARTS} attempts of 30 seconds; the "
                    "machine may be overloaded. Give the command again when it has less to do."
                ) from error
            log.warning("Ray did not start within 30 seconds; it is started again")
    return True


def _our_python() -> dict[str, str] | None:
    """Quote the path of Python where it has a blank: Ray (2.60) hands it to a shell as it is.

    Workers would never start. On a cluster each node has a path of its own, which Ray alone knows.
    """
    quoted = shlex.quote(sys.executable)
    return None if quoted == sys.executable else {"py_executable": quoted}


@contextmanager
def _own_end() -> Iterator[None]:
    """Keep this process's own answer to SIGTERM; Ray's is a page of addresses in its memory."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if handler is not None:  # as it is where no Python code has set it
            signal.signal(signal.SIGTERM, handler)


def _check_address(address: str | None) -> None:
    """Knock at a ``host:port``: Ray itself would knock for minutes.

    Raises:
        StudyError: Nobody answers within five seconds, or the address is that of a job server.
    """
    if (address or "").startswith(("http://", "https://")):
        raise StudyError(
            f"`--address` '{address}' is that of a job server, which takes a study from "
            "`oat submit`; to run it from here, give the cluster's HOST:6379, or `auto` on a node."
        )
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise StudyError(_no_cluster(address, str(error))) from error


def _no_folder(error: OSError) -> str:
    said = (error.strerror or str(error)).partition(": /")[0]
    return (
        f"Ray cannot use its temporary folder '{temporary_folder()}' ({said}); set RAY_TMPDIR to a "
        "folder of your own with a short path, such as /tmp/NAME."
    )


def _no_cluster(address: str | None, said: str) -> str:
    return (
        f"No Ray cluster answers at `--address` '{address}' ({said.rstrip('.')}); start one "
        "with `ray start --head`, or leave `--address` out to use this machine."
    )
