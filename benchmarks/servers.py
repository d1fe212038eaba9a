"""Real servers on this machine, for tests and drills: S3, PostgreSQL, MLflow.

Each is a context manager that gives back all it took. None of them is safe beyond loopback.
"""

import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

START_SECONDS = 180
"""The longest that a server may take to answer; MLflow takes 10 to 15 s on an idle machine."""

Wsgi = Callable[[Mapping[str, Any], Any], Iterable[bytes] | None]


def free_port() -> int:
    """Return a port of loopback that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def wait_until(answers: Callable[[], bool], what: str) -> None:
    """Ask again and again until it answers.

    Raises:
        TimeoutError: It has not within `START_SECONDS`.
    """
    end = time.monotonic() + START_SECONDS
    while not answers():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not start within {START_SECONDS} s.")
        time.sleep(0.1)


# --- S3


@dataclass
class S3:
    """An S3 server on loopback that knows one key.

    Attributes:
        url: Its address.
        requests: What it was asked since this was last cleared: method, path and query.
        fault: Asked before each request; answers in the server's place, or returns None.
        environment: What a client needs: the address and the credentials.
    """

    url: str
    environment: dict[str, str]
    requests: list[str] = field(default_factory=list)
    fault: Wsgi | None = None

    def make_bucket(self, name: str) -> None:
        """Make a bucket."""
        import boto3

        client = boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
        )
        client.create_bucket(Bucket=name)


def s3_error(status: int, code: str, message: str = "made up") -> Wsgi:
    """Return a fault of `S3` that answers as Amazon's server does when it refuses."""

    def answer(environ: Mapping[str, Any], start: Any) -> Iterable[bytes]:
        start(f"{status} {code}", [("Content-Type", "application/xml")])
        return [f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()]

    return answer


@contextmanager
def s3_server() -> Iterator[S3]:
    """Start moto's S3 in a thread, with a key that is drawn anew each time."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, *_: object) -> None:
            pass

    moto = DomainDispatcherApplication(create_backend_app)
    key = f"AKIA{secrets.token_hex(8).upper()}"
    refuse = s3_error(403, "InvalidAccessKeyId", "The access key does not exist in our records.")

    def answer(environ: Mapping[str, Any], start: Any) -> Iterable[bytes]:
        query = environ["QUERY_STRING"]
        path = environ["PATH_INFO"] + (f"?{query}" if query else "")
        here.requests.append(f"{environ['REQUEST_METHOD']} {path}")
        known = re.search("Credential=([^/]*)/", environ.get("HTTP_AUTHORIZATION", ""))
        if known is None or known[1] != key:
            return refuse(environ, start) or []
        told = here.fault(environ, start) if here.fault is not None else None
        return moto(environ, start) if told is None else told

    server = make_server("127.0.0.1", 0, answer, threaded=True, request_handler=Quiet)
    url = f"http://127.0.0.1:{server.port}"
    environment = {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secrets.token_urlsafe(30),
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    here = S3(url, environment)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield here
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# --- PostgreSQL


def postgres_programs() -> Path | None:
    """Return the folder of PostgreSQL's programs: Debian's newest, or that of the path."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=_version_of)
    found = debian[-1] if debian else shutil.which("initdb")
    return Path(found).parent if found else None


def _version_of(initdb: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", initdb.parts[-3]))


@dataclass
class Postgres:
    """A cluster of databases of our own, behind a password.

    Attributes:
        port: On loopback.
        password: Of its one user ``oat``.
    """

    programs: Path
    folder: Path
    port: int
    password: str
    process: subprocess.Popen[bytes] | None = None

    def uri(self, database: str) -> str:
        """Return the address of a database; SQLAlchemy must be told the driver, psycopg 2."""
        return f"postgresql+psycopg2://oat:{self.password}@127.0.0.1:{self.port}/{database}"

    def make(self, database: str) -> str:
        """Make an empty database; returns its address."""
        environment = {**os.environ, "PGPASSWORD": self.password}
        place = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "oat"]
        _do([self.programs / "createdb", *place, database], env=environment)
        return self.uri(database)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        command = [self.programs / "postgres", "-D", self.folder / "data", "-p", str(self.port)]
        # nothing here must survive a power cut
        command += ["-F", "-h", "127.0.0.1", "-k", self.folder]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*_as_another_user(), *command], cwd=self.folder, stdout=log, stderr=log
            )
        ready = [self.programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        wait_until(lambda: subprocess.run(ready, check=False).returncode == 0, "PostgreSQL")

    def stop(self) -> None:
        """Stop it at once, as a dying machine would; nothing happens if it does not run."""
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(START_SECONDS)
            self.process = None


@contextmanager
def postgres_server() -> Iterator[Postgres]:
    """Make a throw-away cluster and start its server; root starts it as another user.

    Raises:
        FileNotFoundError: PostgreSQL is not installed.
    """
    programs = postgres_programs()
    if programs is None:
        raise FileNotFoundError("PostgreSQL is not installed (Debian: `postgresql`).")
    with tempfile.TemporaryDirectory(prefix="oat-pg-") as name:
        folder = Path(name)
        server = Postgres(programs, folder, free_port(), secrets.token_urlsafe(18))
        (folder / "password").write_text(server.password)
        for path in (folder, folder / "password"):
            os.chown(path, *_other_user())
        init = [programs / "initdb", "-D", folder / "data", "-U", "oat", "-N", "-E", "UTF8"]
        init += ["--auth=scram-sha-256", f"--pwfile={folder / 'password'}", "--locale=C.UTF-8"]
        _do([*_as_another_user(), *init], cwd=folder)
        try:
            server.start()
            yield server
        finally:
            server.stop()


def _other_user() -> tuple[int, int]:
    """Return who runs PostgreSQL, which refuses to run as root."""
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = names.get("postgres") or names["nobody"]
    return entry.pw_uid, entry.pw_gid


def _as_another_user() -> list[str]:
    if os.geteuid() != 0:
        return []
    user, group = _other_user()
    return ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"]


def _do(command: list[Any], **options: Any) -> None:
    """Run a command that must succeed; what it said is in the error."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed: {done.stdout}{done.stderr}")


# --- MLflow


@dataclass
class Mlflow:
    """A tracking server in processes of its own.

    Attributes:
        folder: Where it keeps artifacts, its log, and a database if it was given none.
        store: Database behind it.
        port: On loopback; the same after each start.
        environment: What a client needs: the address, and the credentials if it wants any.
        hosts: Names that it answers to, beside localhost.
    """

    folder: Path
    store: str
    port: int
    environment: dict[str, str]
    hosts: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--workers", "1"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        # a database's password must not be seen among the processes
        environment = {**os.environ, "MLFLOW_BACKEND_STORE_URI": self.store}
        environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # no part of tracking
        for name in ("MLFLOW_TRACKING_URI", "PYTHONPATH", "PYTEST_CURRENT_TEST"):
            environment.pop(name, None)
        if self.hosts:
            names = [f"{host}{port}" for host in self.hosts for port in ("", ":*")]
            command += ["--allowed-hosts", ",".join(names)]
        if "MLFLOW_TRACKING_PASSWORD" in self.environment:
            command += ["--app-name", "basic-auth"]
            (self.folder / "auth.ini").write_text(
                "[mlflow]\ndefault_permission = READ\nadmin_username = admin\n"
                f"database_uri = sqlite:///{self.folder / 'auth.db'}\n"
                "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
                "auth_cache_ttl_seconds = 600\n"  # hashing the password anew slows each request
            )
            environment |= {
                "MLFLOW_AUTH_CONFIG_PATH": str(self.folder / "auth.ini"),
                "MLFLOW_AUTH_ADMIN_PASSWORD": self.environment["MLFLOW_TRACKING_PASSWORD"],
                "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
            }
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        wait_until(self._answers, "MLflow")

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError(f"MLflow ended: {(self.folder / 'log').read_text()}")
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                return True
        except (OSError, urllib.error.URLError):
            return False

    def kill(self) -> None:
        """Kill it with all its processes; nothing happens if it does not run."""
        if self.process is not None:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
            self.process = None


@contextmanager
def mlflow_server(
    folder: Path, store: str | None = None, *, password: bool = False, hosts: tuple[str, ...] = ()
) -> Iterator[Mlflow]:
    """Start a tracking server.

    Args:
        folder: An empty folder for what it keeps.
        store: Database to keep runs in; None is SQLite in the folder.
        password: Whether it asks for one, which is drawn anew.
        hosts: Names to answer to beside localhost; see ``mlflow server --allowed-hosts``.
    """
    port = free_port()
    environment = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}"}
    if password:
        environment["MLFLOW_TRACKING_USERNAME"] = "admin"
        environment["MLFLOW_TRACKING_PASSWORD"] = secrets.token_urlsafe(18)
    store = store or f"sqlite:///{folder / 'runs.db'}"
    server = Mlflow(folder, store, port, environment, hosts)
    try:
        server.start()
        yield server
    finally:
        server.kill()
