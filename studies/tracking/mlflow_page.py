"""MLflow's own page on a store, in a process of its own that ends with us."""

import errno
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO

from rich.console import Console

from studies.console import say
from studies.errors import TrackingError
from studies.knocking import http_answer
from studies.storage.addresses import without_credentials
from studies.tracking.shared_view import page_of

START_SECONDS = 180
"""The longest that MLflow may take to answer; 10 to 15 s is usual on an idle machine."""

END_SECONDS = 10
"""How long it may finish what it is doing before it is killed."""

LOOK_SECONDS = 0.2
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Hosts that stand for every address of the machine, and how it reaches itself by them."""

OTHERWISE = (
    "MLFLOW_ARTIFACTS_ONLY",
    "MLFLOW_DEFAULT_ARTIFACT_ROOT",
    "MLFLOW_GUNICORN_OPTS",
    "MLFLOW_REGISTRY_STORE_URI",
    "MLFLOW_STATIC_PREFIX",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_UVICORN_OPTS",
    "PYTEST_CURRENT_TEST",
)
"""What of the environment would make another server of it."""


@dataclass(frozen=True)
class MlflowPage:
    """MLflow's page with a study's experiment.

    Attributes:
        address: Where to look.
        process: What serves it; None for a server that was there before.
        log: What that says.
    """

    address: str
    process: subprocess.Popen[bytes] | None = None
    log: IO[bytes] | None = None

    def wait(self, stop: threading.Event) -> None:
        """Return when told to stop, or at once if nothing was started.

        Raises:
            TrackingError: The page has ended by itself.
        """
        while self.process is not None and not stop.wait(LOOK_SECONDS):
            self.check_lives()

    def check_lives(self) -> None:
        """Refuse a page that has ended.

        Raises:
            TrackingError: With the last line that it wrote.
        """
        if self.process is None or self.log is None or not _has_ended(self.process):
            return
        self.log.seek(0)
        lines = self.log.read().decode(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()] or ["it said nothing"]
        raise TrackingError(without_credentials(f"MLflow's page has ended: {said[-1]}"))


@contextmanager
def mlflow_page(
    uri: str,
    experiment: str,
    tags: Mapping[str, str],
    *,
    host: str,
    port: int,
    stop: threading.Event,
    console: Console,
) -> Iterator[MlflowPage]:
    """Serve MLflow's page on a store until the block is left; of a server, say where it is.

    Args:
        uri: Tracking URI; a database, or a server, for which nothing is started.
        experiment: Id of what the address shows.
        tags: Its tags, which may have a view of ours.
        host: Name or address to listen on.
        port: 0 for any that is free.
        stop: Set by whoever wants it to end, also before it has started.
        console: Where it is said that a page is started, and who may use it.

    Raises:
        TrackingError: The port is taken, or the page does not start.
    """
    if uri.startswith(("http://", "https://")):
        yield MlflowPage(page_of(without_credentials(uri).rstrip("/"), experiment, tags))
        return
    port = _free_port(host, port)
    reached = ANYWHERE.get(host, host)
    server = f"http://{f'[{reached}]' if ':' in reached else reached}:{port}"
    said = "Starting MLflow's page, which takes some seconds."
    if not _is_loopback(host):
        said += " It asks for no password: whoever reaches it may change and delete what it shows."
    say(console, said)
    command = [sys.executable, "-P", "-m", "mlflow", "server", "--workers", "1"]
    command += ["--host", host, "--port", str(port)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, env=_environment(uri, host, port), stdin=subprocess.DEVNULL, stdout=log,
            stderr=log, start_new_session=True,
        )  # fmt: skip
        try:
            page = MlflowPage(page_of(server, experiment, tags), process, log)
            _wait_for(page, f"{server}/health", stop)
            yield page
        finally:
            _end(process)


def _environment(uri: str, host: str, port: int) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name not in OTHERWISE}
    # a database's password must not be seen among the processes
    environment["MLFLOW_BACKEND_STORE_URI"] = uri
    environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # no part of showing runs
    if not _is_loopback(host):  # MLflow answers to localhost alone unless it is told
        names = sorted({host, socket.gethostname(), socket.getfqdn(), "localhost", "127.0.0.1"})
        hosts = [f"{name}{port}" for name in names for port in ("", ":*")]
        environment.setdefault("MLFLOW_SERVER_ALLOWED_HOSTS", ",".join(hosts))
        origins = ",".join(f"http://{name}:{port}" for name in names)
        environment.setdefault("MLFLOW_SERVER_CORS_ALLOWED_ORIGINS", origins)
    return environment


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _free_port(host: str, port: int) -> int:
    """Return a port that nobody listens on: the one asked for, or any for 0.

    Raises:
        TrackingError: It is taken, or the host is none of this machine's.
    """
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(place)
            return int(listener.getsockname()[1])
    except (OSError, UnicodeError) as error:
        said = getattr(error, "strerror", None) or str(error)
        if isinstance(error, PermissionError) or getattr(error, "errno", None) == errno.EADDRINUSE:
            raise TrackingError(
                f"`--port` {port} on '{host}' cannot be had ({said}); choose another, or 0 for any "
                "that is free."
            ) from error
        raise TrackingError(
            f"`--host` must be a name or an address of this machine, got '{host}' ({said})."
        ) from error


def _wait_for(page: MlflowPage, health: str, stop: threading.Event) -> None:
    """Return when the page answers, or shall stop.

    Raises:
        TrackingError: It ends before, or takes too long.
    """
    end = time.monotonic() + START_SECONDS
    while not stop.wait(LOOK_SECONDS):
        page.check_lives()
        if _answers(health):
            return
        if time.monotonic() > end:
            raise TrackingError(f"MLflow's page does not answer after {START_SECONDS} s.")


def _answers(health: str) -> bool:
    try:
        return http_answer(health, 5, direct=True) is None
    except OSError:
        return False


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process has ended; it stays known, so that nothing else gets its number."""
    options = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, process.pid, options) is not None


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all its children, by force if they do not in time."""
    _signal_all(process, signal.SIGTERM)
    end = time.monotonic() + END_SECONDS
    while not _has_ended(process) and time.monotonic() < end:
        time.sleep(LOOK_SECONDS / 4)
    _signal_all(process, signal.SIGKILL)
    process.wait()


def _signal_all(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(PermissionError):  # what macOS says of processes that have ended
        os.killpg(process.pid, number)
