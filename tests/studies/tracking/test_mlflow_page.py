"""`oat ui`: MLflow's own page on a study's store, opened, looked at and ended."""

import io
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import studies
from benchmarks.servers import free_port
from studies.errors import TrackingError
from studies.study_file.loading import load_study
from studies.tracking.mlflow_page import mlflow_page
from tests.studies.marks import NOLOAD

pytestmark = [pytest.mark.mlflow, NOLOAD]

OAT = Path(sys.executable).with_name("oat")
CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def store(
    tiny_file: Path, tmp_path_factory: pytest.TempPathFactory, make_up: Callable[..., None]
) -> Path:
    """A storage folder with a study in MLflow; not to be written."""
    storage = tmp_path_factory.mktemp("store")
    make_up(load_study(tiny_file), storage)
    studies.sync(tiny_file, storage=storage)
    return storage


def _refused(study: Path, **options: Any) -> str:
    """Ask for a page that cannot be had; return the one sentence."""
    with pytest.raises(TrackingError) as caught, studies.ui(study, **options):
        pass
    said = str(caught.value)
    assert said.endswith(".")
    assert "\n" not in said
    return said


def test_a_store_that_does_not_exist_is_refused_and_not_made(
    tiny_file: Path, tmp_path: Path
) -> None:
    said = _refused(tiny_file, storage=tmp_path / "none")
    assert "no results of study 'tiny'" in said
    assert "`oat run` makes them, `oat sync`" in said
    missing = _refused(tiny_file, tracking_uri=f"sqlite:///{tmp_path}/none/mlflow.db")
    assert "no results of study 'tiny'" in missing
    for uri in ("sqlite://", "sqlite:///:memory:"):
        assert "names no file" in _refused(tiny_file, tracking_uri=uri)
    assert not list(tmp_path.iterdir())


def test_a_database_without_the_study_is_refused_and_not_changed(
    tiny_file: Path, store: Path, tmp_path: Path
) -> None:
    empty, other = tmp_path / "empty.db", tmp_path / "other.db"
    empty.touch()
    with sqlite3.connect(other) as connection:
        connection.execute("create table t (x)")
    connection.close()
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"no database" * 1000)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for path in (empty, other):
        assert "no results of study 'tiny'" in _refused(tiny_file, tracking_uri=f"sqlite:///{path}")
    assert "not a database" in _refused(tiny_file, tracking_uri=f"sqlite:///{garbage}")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    renamed = load_study(tiny_file, ["name=another"])
    assert "no results of study 'another'" in _refused(renamed, storage=store)  # type: ignore[arg-type]


def test_a_port_that_is_taken_is_refused(tiny_file: Path, store: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = _refused(tiny_file, storage=store, port=port)
    assert f"`--port` {port} on '127.0.0.1' cannot be had" in said
    assert "0 for any that is free" in said


def test_a_host_of_another_machine_is_refused(tiny_file: Path, store: Path) -> None:
    for host in ("192.0.2.1", "no such host", "a" * 70 + ".test"):
        said = _refused(tiny_file, storage=store, host=host, port=0)
        assert f"`--host` must be a name or an address of this machine, got '{host}'" in said


def test_a_server_that_is_not_there_is_refused(tiny_file: Path) -> None:
    assert "does not answer" in _refused(tiny_file, tracking_uri="http://127.0.0.1:1")


def test_credentials_in_a_servers_address_are_refused_and_not_shown(tiny_file: Path) -> None:
    said = _refused(tiny_file, tracking_uri="http://me:hidden@127.0.0.1:1")
    assert "must not hold credentials" in said
    assert "hidden" not in said
    said = _refused(tiny_file, tracking_uri="postgresql+psycopg2://me:hidden@127.0.0.1:1/x")
    assert "hidden" not in said


def test_the_address_at_a_server_has_no_credentials() -> None:
    quiet, stop = Console(file=io.StringIO()), threading.Event()
    for uri in ("https://me:hidden@host.test/base/", "https://host.test/base"):
        with mlflow_page(uri, "7", {}, host="", port=0, stop=stop, console=quiet) as page:
            assert page.address.startswith("https://host.test/base/#/experiments/7/runs?")
            assert page.process is None
            page.wait(stop)  # there is nothing to wait for


@pytest.mark.parametrize("words", [["--port", "65536"], ["--port", "-1"], ["--port", "http"]])
def test_a_port_that_is_none_is_refused(words: list[str], tiny_file: Path) -> None:
    done = subprocess.run(
        [OAT, "ui", tiny_file, *words], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "--port" in done.stderr


@contextmanager
def _command(*words: object, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """Run `oat ui`; nothing of it is left behind, whatever happens."""
    process = subprocess.Popen(
        [OAT, "ui", *map(str, words)], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _children(process: subprocess.Popen[str]) -> set[int]:
    """Return the process groups of all below a process."""
    told = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True, check=True)
    parents = dict(map(int, line.split()) for line in told.stdout.splitlines()[1:])
    found = {process.pid}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {process.pid}


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _ends(process: subprocess.Popen[str], number: signal.Signals) -> str:
    """End the command by a signal; return what it said. All its processes are gone."""
    children = _children(process)
    process.send_signal(number)
    out, err = process.communicate(timeout=1000)
    assert (process.returncode, out) == (0, "")
    assert "Traceback" not in err
    deadline = time.monotonic() + 1000  # whoever inherits them has to notice
    while any(map(_lives, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_lives, children))
    return err


def _asked(url: str, headers: dict[str, str], data: bytes | None = None) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers)) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.fixture(scope="module")
def started(
    store: Path, tiny_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[subprocess.Popen[str], str, Path]]:
    """The command at work for every host, its address, and the empty folder that it runs in."""
    folder = tmp_path_factory.mktemp("elsewhere")
    words = (tiny_file, "--storage", store, "--host", "0.0.0.0", "--port", free_port())
    with _command(*words, cwd=folder) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip(), folder
        said = _ends(process, signal.SIGINT)
        assert "It asks for no password" in said
        assert not list(folder.iterdir())


@pytest.mark.slow
def test_the_page_answers_to_this_machines_names_and_to_no_other(
    started: tuple[subprocess.Popen[str], str, Path],
) -> None:
    _, address, _ = started
    base, port = address.partition("/#")[0], address.split(":")[2].partition("/")[0]
    view = "runs?workflowType=machine_learning&viewStateShareKey=oat-points"
    assert address == f"http://127.0.0.1:{port}/#/experiments/1/{view}"
    search = f"{base}/ajax-api/2.0/mlflow/runs/search"
    asked = b'{"experiment_ids": ["1"]}'
    for name, code in ((socket.gethostname(), 200), ("localhost", 200), ("evil.test", 403)):
        headers = {"Host": f"{name}:{port}", "Content-Type": "application/json"}
        headers["Origin"] = f"http://{name}:{port}"
        assert _asked(base, headers) == code, name
        assert _asked(search, headers, asked) == code, name


@pytest.mark.slow
def test_of_a_store_that_is_a_server_the_address_there_is_given_and_nothing_started(
    started: tuple[subprocess.Popen[str], str, Path], tiny_file: Path
) -> None:
    _, address, folder = started
    base = address.partition("/#")[0]
    with _command(tiny_file, "--tracking-uri", f"{base}/", cwd=folder) as process:
        out, err = process.communicate(timeout=1000)
    assert (process.returncode, out, err) == (0, f"{address}\n", "")
    with _command("quickstart", "--tracking-uri", base, cwd=folder) as process:
        out, err = process.communicate(timeout=1000)
    assert (process.returncode, out) == (2, "")
    assert f"There are no results of study 'quickstart' in '{base}' yet" in err


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed")
def test_the_address_shows_the_studys_points_with_sa_and_ra_in_the_mode_of_trained_models(
    started: tuple[subprocess.Popen[str], str, Path],
) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    _, address, _ = started
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1400, "height": 900})
        tab.goto(address)
        tab.get_by_role("link", name="tiny").first.wait_for(timeout=1_000_000)
        # of the study's 15 runs its points
        tab.get_by_text(re.compile(r"^\s*5\s+matching runs")).first.wait_for(timeout=1_000_000)
        for name in ("sa", "ra"):
            tab.get_by_role("columnheader", name=name, exact=True).first.wait_for(timeout=1_000_000)
        assert "Judges" not in tab.inner_text("body")  # as in the mode of language models
        if "OAT_SCREENSHOT" in os.environ:
            tab.screenshot(path=os.environ["OAT_SCREENSHOT"])
        browser.close()


@pytest.mark.slow
def test_sigterm_ends_the_page_at_any_time_with_all_its_processes(
    store: Path, tiny_file: Path, tmp_path: Path
) -> None:
    words = (tiny_file, "--storage", store, "--port", 0)
    with _command(*words, cwd=tmp_path) as process:  # while MLflow starts
        assert process.stderr is not None
        assert process.stderr.readline().startswith("Starting MLflow's page")
        _ends(process, signal.SIGTERM)
    with _command(*words, cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        assert len(_children(process)) >= 2
        _ends(process, signal.SIGTERM)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_page_that_ends_by_itself_is_said_with_its_last_words(
    store: Path, tiny_file: Path
) -> None:
    quiet = Console(file=io.StringIO())
    with studies.ui(tiny_file, storage=store, port=0, console=quiet) as page:
        assert page.process is not None
        os.killpg(page.process.pid, signal.SIGKILL)
        with pytest.raises(TrackingError, match="MLflow's page has ended: "):
            page.wait(threading.Event())
