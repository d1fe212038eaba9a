"""What must hold before a study is submitted as a job: it can travel, and a job server answers."""

from http.client import HTTPException
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from baselines import Checkpoint
from studies.errors import JobError
from studies.knocking import http_answer
from studies.storage.addresses import SECRET
from studies.study_file.study import Study

KNOCK_SECONDS = 10


def check_travels(study: Study, storage: str, tracking_uri: str | None) -> None:
    """Check that a study can run on another machine and takes no credential there.

    Raises:
        JobError: A place is relative, or an address holds a credential.
    """
    _check_no_credential("--storage", storage)
    if "://" not in storage and not Path(storage).is_absolute():
        raise JobError(
            "`--storage` must be an absolute path or a URI that every node of the cluster "
            f"reaches, as the job runs in another folder there; got '{storage}'."
        )
    data = study.data
    if data.name != "digits" and not Path(data.root).is_absolute():  # digits need no folder
        raise JobError(
            f"`data.root` must be an absolute path, the folder of {data.name} on every node of "
            f"the cluster; got '{data.root}'; give it with `--set data.root=/path/on/the/nodes`."
        )
    for method in study.all_methods():
        if not isinstance(method, Checkpoint) or method.path is None:
            continue
        if not Path(method.path).is_absolute():
            raise JobError(
                f"`path` of {method.label} must be an absolute path, of the same file on every "
                f"node of the cluster; got '{method.path}'."
            )
    if tracking_uri is not None:
        _check_no_credential("--tracking-uri", tracking_uri)
        if tracking_uri.startswith("sqlite:") and not tracking_uri.startswith("sqlite:////"):
            raise JobError(
                "`--tracking-uri` must name a database by its absolute path on the cluster, as in "
                f"'sqlite:////path/mlflow.db', got '{tracking_uri}'."
            )


def _check_no_credential(option: str, uri: str) -> None:
    """Refuse an address with a user, a password or a key; the sentence does not repeat it."""
    if "://" not in uri:
        return
    try:
        parts = urlsplit(uri)
        safe = parts.username is None and (parts.port or 0) >= 0
    except ValueError:  # what looks like a port is none, such as a password with a slash
        safe = False
    if not safe or any(SECRET.search(name) for name, _ in parse_qsl(parts.query)):
        raise JobError(
            f"`{option}` must be an address without user, password or key, as others can read it; "
            "credentials belong into the environment of the cluster."
        )


def checked_address(address: str) -> str:
    """Return the address of a job server without its last slash."""
    try:
        parts = urlsplit(address)
        fits = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    _check_no_credential("--job-server", address)
    if not fits:
        raise JobError(
            "`--job-server` must be the URL of a cluster's job server, such as 'http://HEAD:8265', "
            f"got '{address}'."
        )
    return address.rstrip("/")


def check_installed() -> None:
    """Look for what Ray's client needs beyond Ray itself."""
    try:
        import aiohttp  # noqa: F401
    except ModuleNotFoundError as error:
        raise JobError(
            "Jobs on a cluster need a package that is not installed; "
            "`pip install 'oat-studies[cluster]'`."
        ) from error


def knock_at_server(address: str) -> None:
    """Wait some seconds for any answer: Ray's client would wait for minutes."""
    try:
        http_answer(f"{address}/api/version", KNOCK_SECONDS)  # a refusal is for Ray's client
    except (OSError, HTTPException) as error:
        said = getattr(error, "reason", None) or type(error).__name__
        raise JobError(
            f"No job server answers at `--job-server` '{address}' ({said}); it is the dashboard of "
            "the cluster's head, which needs `ray[default]` (`ray[tune]` alone has none) and a "
            "`--dashboard-host` that can be reached from here."
        ) from error
