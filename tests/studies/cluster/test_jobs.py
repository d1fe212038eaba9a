import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pandas as pd
import pytest

import studies
from studies.cluster.jobs import STUDY_FILE
from studies.study_file.loading import load_study
from tests.ray_paths import needs_plain_path
from tests.studies.cluster.job_cluster import Ended, free_ports_of, is_a_sentence

OAT = Path(sys.executable).with_name("oat")

TOKEN = "a" * 32

SECRET = "secret-of-this-shell"

OF_A_RUN = {"training_id", "folder"}
"""Columns of a point that tell of one run, beside its times."""

SHELL = """
import contextlib, io, json, sys
from studies.cli import app as cli

for line in sys.stdin:
    sys.argv = ["oat", *json.loads(line)]
    code, out, err = 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""
"""Runs the command again and again: its imports take longer than most that it is asked here."""


def on_a_cluster(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that asks a cluster, or is the first to."""
    for mark in (pytest.mark.ray, pytest.mark.slow, needs_plain_path):
        test = mark(test)
    return test


@dataclass(frozen=True)
class Cluster:
    """A head with a job server, and a shell that may use it."""

    address: str
    home: Path
    env: dict[str, str]
    shell: subprocess.Popen[str]

    def oat(self, *words: object) -> Ended:
        """Run the command in the shell."""
        assert self.shell.stdin is not None
        assert self.shell.stdout is not None
        arguments = [str(word) for word in words]
        self.shell.stdin.write(json.dumps(arguments) + "\n")
        self.shell.stdin.flush()
        code, out, err = json.loads(self.shell.stdout.readline())
        return Ended(arguments, code, out, err)

    def oat_apart(self, *words: object, **env: str) -> Ended:
        """Run the command as a process of its own, with other variables."""
        return subprocess.run(
            [str(OAT), *map(str, words)],
            env=self.env | env, cwd=self.home, capture_output=True, text=True, check=False,
            timeout=1000,
        )  # fmt: skip

    def ask(self, path: str) -> Any:
        """Return what the server says to a plain request with the token."""
        request = Request(self.address + path, headers={"Authorization": f"Bearer {TOKEN}"})
        with urlopen(request, timeout=1000) as answer:
            return json.load(answer)


def _children() -> dict[int, list[int]]:
    """Return the children of each process of this machine, by Linux's account of them."""
    found: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                found.setdefault(int(parent), []).append(int(path.parent.name))
    return found


def _family(pid: int) -> set[int]:
    children, found, new = _children(), set(), [pid]
    while new:
        found.update(new)
        new = [child for parent in new for child in children.get(parent, [])]
    return found


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    family = _family(process.pid)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(20)
    for pid in family:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def _wait_until_it_answers(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 1000
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        try:
            urlopen(address + "/api/version", timeout=5).close()
        except HTTPError as error:  # it asks for the token
            error.close()
            return
        except (URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head of this module's own, started as a user starts one, with a token."""
    home = Path(tempfile.mkdtemp(prefix="oat-r-", dir="/tmp"))  # sockets need a short path
    (home / "token").write_text(TOKEN)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}
    env = inherited | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(home / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{OAT.parent}:{os.environ['PATH']}",
    }
    dashboard, agent, client, metrics, environments = free_ports_of(5)
    command = (
        f"ray start --head --block --num-cpus 2 --port 0 --temp-dir {home}/t "
        f"--include-dashboard true --dashboard-host 127.0.0.1 --dashboard-port {dashboard} "
        f"--dashboard-agent-listen-port {agent} --ray-client-server-port {client} "
        f"--metrics-export-port {metrics} --runtime-env-agent-port {environments} "
        "--min-worker-port 0 --max-worker-port 0 --disable-usage-stats"
    )
    with (home / "log").open("wb") as log:
        head = subprocess.Popen(
            [OAT.with_name("ray"), *shlex.split(command)[1:]],
            env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    address = f"http://127.0.0.1:{dashboard}"
    # what the shell knows and the cluster does not
    env |= {"MLFLOW_TRACKING_PASSWORD": SECRET, "AWS_SECRET_ACCESS_KEY": SECRET}
    try:
        with subprocess.Popen(
            [sys.executable, "-c", SHELL],
            env=env, cwd=home, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as shell:  # fmt: skip
            _wait_until_it_answers(address, head, home / "log")
            yield Cluster(address, home, env, shell)
    finally:
        _end(head)
        shutil.rmtree(home, ignore_errors=True)


@dataclass(frozen=True)
class Detached:
    """The tiny study, submitted, followed to its end by the printed commands."""

    storage: Path
    submitted: Ended
    again: Ended
    job: Ended
    followed: Ended

    @property
    def id(self) -> str:
        """The job's id, as it was printed."""
        return next(w for w in self.submitted.stdout.split() if "raysubmit" in w).rstrip(".")

    def command(self, start: str) -> list[str]:
        """Return the words of a printed command."""
        lines = self.submitted.stdout.splitlines()
        (line,) = [line for line in lines if line.startswith(start)]
        return shlex.split(line.removeprefix(start))


@pytest.fixture(scope="module")
def detached(
    cluster: Cluster, tiny_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Detached:
    storage = tmp_path_factory.mktemp("detached")
    # relative, with an override, and in a shell that points Ray to elsewhere
    shutil.copy(tiny_file, cluster.home / "my study.yaml")
    command = (
        "submit", "my study.yaml", "--storage", f"{storage}/",
        "--job-server", f"{cluster.address}/", "--set", "train.epochs=2",
    )  # fmt: skip
    elsewhere = {"RAY_ADDRESS": "127.0.0.1:1", "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:1"}
    submitted = cluster.oat_apart(*command, **elsewhere)
    assert submitted.returncode == 0, submitted.stderr
    again = cluster.oat(*command)
    told = Detached(storage, submitted, again, again, again)
    job = cluster.oat(*told.command("Its state:  oat"), "--json")
    followed = cluster.oat_apart(*told.command("Its log:    oat"))
    return Detached(storage, submitted, again, job, followed)


@on_a_cluster
def test_a_detached_run_ends_with_the_points_of_this_machine(
    detached: Detached, tiny_file: Path, train_all: Callable[..., None], tmp_path: Path
) -> None:
    assert detached.followed.returncode == 0, detached.followed.stdout + detached.followed.stderr
    study = load_study(tiny_file, ["train.epochs=2"])
    train_all(study, tmp_path)
    here = studies.points(study, storage=tmp_path)
    there = studies.points(study, storage=detached.storage)
    own = [name for name in here.columns if "seconds" in name or name in OF_A_RUN]
    pd.testing.assert_frame_equal(there.drop(columns=own), here.drop(columns=own))
    assert len(there) == 5


@on_a_cluster
def test_the_log_that_is_followed_is_the_drivers(detached: Detached) -> None:
    assert "Study tiny: 0 of 4 trials are finished." in detached.followed.stdout
    assert "retrained model" in detached.followed.stdout
    first, *_, last = detached.followed.stderr.splitlines()
    assert f"Job {detached.id} with storage {detached.storage}: " in first
    assert f"Job {detached.id} with storage {detached.storage}: SUCCEEDED since " in last


@on_a_cluster
def test_submitting_tells_where_everything_is(cluster: Cluster, detached: Detached) -> None:
    assert detached.submitted.stderr == ""
    assert "study tiny" in detached.submitted.stdout
    assert f"{detached.storage}/mlflow.db" in detached.submitted.stdout
    stop = ["job", "stop", detached.id, "--address", cluster.address]
    assert detached.command("Stop it:    ray") == stop


@on_a_cluster
def test_a_study_that_is_running_there_is_not_submitted_twice(
    cluster: Cluster, detached: Detached
) -> None:
    assert detached.again.returncode == 2
    assert detached.again.stdout == ""
    assert detached.id in detached.again.stderr
    known = [job for job in cluster.ask("/api/jobs/") if job["submission_id"]]
    assert sum(job["metadata"]["oat.storage"] == str(detached.storage) for job in known) == 1


@on_a_cluster
def test_a_job_and_its_trials_are_shown(
    cluster: Cluster, detached: Detached, tiny_file: Path
) -> None:
    told = json.loads(detached.job.stdout)
    assert told["id"] == detached.id
    assert told["status"] in {"PENDING", "RUNNING"}

    trials = cluster.oat(*detached.command("Its trials: oat"), "--json")
    assert [trial["state"] for trial in json.loads(trials.stdout)] == ["done"] * 4
    there = ("--job-server", cluster.address)
    job = cluster.oat("job", tiny_file, *there, "--storage", detached.storage)
    assert job.stdout.startswith(
        f"Job {detached.id} with storage {detached.storage}: SUCCEEDED since "
    )

    other = cluster.oat("job", tiny_file, *there, "--storage", cluster.home)
    assert (other.returncode, other.stdout) == (1, "")
    assert "knows no job of this study with this storage" in other.stderr
    as_json = cluster.oat("job", tiny_file, *there, "--storage", cluster.home, "--json")
    assert (as_json.returncode, json.loads(as_json.stdout)) == (1, None)


@on_a_cluster
def test_what_travels_is_the_study_and_no_credential(cluster: Cluster, detached: Detached) -> None:
    details = cluster.ask(f"/api/jobs/{detached.id}")
    assert SECRET not in json.dumps(details)
    assert TOKEN not in json.dumps(details)
    assert details["runtime_env"].keys() == {"working_dir"}
    assert details["metadata"] == {"oat.study": "tiny", "oat.storage": str(detached.storage)}
    sent = list(cluster.home.glob("t/session_2*/runtime_resources/working_dir_files/_ray_pkg_*"))
    folders = [path for path in sent if path.is_dir()]
    assert folders
    for folder in folders:
        assert [path.name for path in folder.iterdir()] == [STUDY_FILE]
        assert SECRET not in (folder / STUDY_FILE).read_text()


@on_a_cluster
def test_following_a_job_that_fails_ends_with_its_words_and_1(
    cluster: Cluster, tiny_file: Path
) -> None:
    nowhere = "/proc/nowhere"  # nobody can write there
    where = ("--job-server", cluster.address, "--storage", nowhere)
    submitted = cluster.oat("submit", tiny_file, *where)
    assert submitted.returncode == 0, submitted.stderr
    followed = cluster.oat("logs", tiny_file, *where, "--follow")
    assert followed.returncode == 1
    assert f"`--storage` '{nowhere}" in followed.stdout.splitlines()[-1]
    last = followed.stderr.splitlines()[-1]
    assert ": FAILED since " in last
    assert last.endswith("Job entrypoint command failed with exit code 2")

    at_once = cluster.oat("logs", tiny_file, *where)
    assert (at_once.returncode, at_once.stdout) == (0, followed.stdout)
    job = cluster.oat("job", tiny_file, *where, "--json")
    assert json.loads(job.stdout)["status"] == "FAILED"


@on_a_cluster
def test_a_wrong_or_missing_token_is_refused_in_a_sentence(
    cluster: Cluster, tiny_file: Path
) -> None:
    where = ("logs", tiny_file, "--job-server", cluster.address)
    (cluster.home / "wrong").write_text("b" * 32)
    wrong = cluster.oat_apart(*where, RAY_AUTH_TOKEN_PATH=str(cluster.home / "wrong"))
    is_a_sentence(wrong, "Invalid authentication token", "`RAY_AUTH_TOKEN_PATH`")
    off = cluster.oat_apart(*where, RAY_AUTH_MODE="disabled")
    is_a_sentence(off, "Missing authentication token", "`RAY_AUTH_MODE=token`")


@on_a_cluster
def test_a_study_that_was_never_submitted_has_no_log(cluster: Cluster, detached: Detached) -> None:
    never = cluster.oat("logs", "quickstart", "--job-server", cluster.address)
    is_a_sentence(never, "'quickstart'", "`oat submit`")
    elsewhere = cluster.oat(
        *("logs", cluster.home / "my study.yaml", "--job-server", cluster.address),
        *("--storage", "/elsewhere"),
    )
    is_a_sentence(elsewhere, "'tiny'", "'/elsewhere'")


@on_a_cluster
def test_ctrl_c_while_following_leaves_the_job_alone(cluster: Cluster, tiny_file: Path) -> None:
    storage = cluster.home / "long"
    where = ("--job-server", cluster.address, "--storage", storage, "--set", "train.epochs=1000")
    assert cluster.oat("submit", tiny_file, *where).returncode == 0
    follower = subprocess.Popen(
        [str(OAT), "logs", *map(str, (tiny_file, *where)), "--follow"],
        env=cluster.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    with follower:
        assert follower.stdout is not None
        assert follower.stderr is not None
        while "Study tiny" not in follower.stdout.readline():
            assert follower.poll() is None, follower.stderr.read()
        os.killpg(follower.pid, signal.SIGINT)
        assert follower.wait(1000) == 130
        said = follower.stderr.read()
    assert said.endswith("Stopped. The job goes on.\n")
    assert "Traceback" not in said
    (job,) = (j for j in cluster.ask("/api/jobs/") if j["metadata"]["oat.storage"] == str(storage))
    assert job["status"] == "RUNNING"
    stop = f"{cluster.address}/api/jobs/{job['submission_id']}/stop"
    headers = {"Authorization": f"Bearer {TOKEN}"}
    urlopen(Request(stop, headers=headers, method="POST"), timeout=1000).close()
