import json
import shlex
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
import yaml

import studies
from studies.cli.app import main
from studies.cluster.job_checks import check_travels
from studies.cluster.jobs import ATTEMPTS, NOT_READY, STUDY_FILE, entry_point
from studies.errors import JobError, StudyError
from studies.study_file.loading import load_study
from studies.study_file.study import Study
from tests.studies.cluster.job_cluster import free_ports_of, is_a_sentence


def test_a_dead_address_is_refused_in_a_sentence(tiny_file: Path) -> None:
    (port,) = free_ports_of(1)
    with pytest.raises(JobError, match=r"No job server answers.*refused.*`ray\[default\]`"):
        studies.job(tiny_file, job_server=f"http://127.0.0.1:{port}")


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.0 404 Not Found\r\n\r\n"])
def test_a_server_that_is_no_job_server_is_refused_in_a_sentence(
    answer: bytes, tiny_file: Path
) -> None:
    program = (
        "import socket, sys\n"
        "server = socket.create_server(('127.0.0.1', 0))\n"
        "print(server.getsockname()[1], flush=True)\n"
        "while True:\n"
        "    with server.accept()[0] as asked:\n"
        "        asked.recv(10000)\n"
        f"        asked.sendall({answer!r})\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        try:
            with pytest.raises(JobError) as caught:
                studies.job(tiny_file, job_server=f"http://127.0.0.1:{port}")
        finally:
            server.kill()
    assert "\n" not in str(caught.value)
    assert f"http://127.0.0.1:{port}" in str(caught.value)


@pytest.mark.parametrize("address", ["head:8265", "auto", "ray://head:10001", "http://", ""])
def test_an_address_that_is_no_url_is_refused(address: str, tiny_file: Path) -> None:
    with pytest.raises(JobError, match="`--job-server` must be the URL of a cluster's job server"):
        studies.job(tiny_file, job_server=address)


def test_a_faulty_study_is_refused_before_a_server_is_asked(tiny: dict[str, Any]) -> None:
    nobody = {"job_server": "http://127.0.0.1:1", "storage": "/results"}
    with pytest.raises(StudyError, match="epochs"):
        studies.submit(tiny, **nobody, overrides=["train.epochs=0"])
    with pytest.raises(JobError, match=r"`--storage` must be an absolute path.*'\./results'"):
        studies.submit(tiny, job_server="http://127.0.0.1:1", storage="./results")


def test_a_relative_data_folder_is_refused_where_the_data_lie_in_one(tiny: dict[str, Any]) -> None:
    tiny["data"] = {"name": "cifar10"}
    with pytest.raises(JobError, match=r"`data.root` must be an absolute path.*'\./data'"):
        check_travels(load_study(tiny), "/results", None)
    check_travels(load_study(tiny, ["data.root=/data"]), "/results", None)


def test_a_checkpoint_travels_by_its_absolute_path_alone(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs.pt").write_bytes(b"weights")

    def study(path: str) -> Study:
        entry = {"name": "checkpoint", "path": path, "model": {"name": "resnet8"}}
        return load_study({**tiny, "methods": [*tiny["methods"], entry]})

    with pytest.raises(JobError, match=r"`path` of checkpoint theirs must be an absolute path"):
        check_travels(study("theirs.pt"), "/results", None)
    check_travels(study(str(tmp_path / "theirs.pt")), "/results", None)


@pytest.mark.parametrize(
    ("storage", "tracking_uri"),
    [
        ("/results", None),
        ("s3://bucket/results?endpoint_override=host:9000", None),
        ("/results", "http://mlflow:5000"),
        ("/results", "https://mlflow/at@home"),
        ("/results", "sqlite:////results/mlflow.db"),
        ("/results", "postgresql://host:5432/mlflow"),
        ("/results", "databricks"),
    ],
)
def test_places_that_mean_the_same_there_travel(
    storage: str, tracking_uri: str | None, tiny: dict[str, Any]
) -> None:
    check_travels(load_study(tiny), storage, tracking_uri)
    words = shlex.split(entry_point(storage, tracking_uri))
    assert words[:5] == ["oat", "run", STUDY_FILE, "--storage", storage]
    assert words[-1] == (tracking_uri or "auto")


@pytest.mark.parametrize(
    ("storage", "tracking_uri", "option"),
    [
        ("s3://AKIA:hidden@bucket/results", None, "`--storage`"),
        ("s3://AKIA:hid/den@bucket/results", None, "`--storage`"),
        ("s3://bucket/results?secret_key=hidden", None, "`--storage`"),
        ("/results", "http://me:hidden@mlflow:5000", "`--tracking-uri`"),
        ("/results", "https://hidden@mlflow", "`--tracking-uri`"),
        ("/results", "postgresql://host/mlflow?user=me&password=hidden", "`--tracking-uri`"),
        ("/results", "postgresql+psycopg2://me:hidden@host/mlflow", "`--tracking-uri`"),
    ],
)
def test_a_credential_in_an_address_is_refused_and_not_repeated(
    storage: str, tracking_uri: str | None, option: str, tiny: dict[str, Any]
) -> None:
    with pytest.raises(JobError, match="environment of the cluster") as caught:
        check_travels(load_study(tiny), storage, tracking_uri)
    assert option in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_a_credential_in_the_address_of_the_server_is_refused(tiny_file: Path) -> None:
    with pytest.raises(JobError, match="`--job-server`") as caught:
        studies.job(tiny_file, job_server="http://me:hidden@head:8265")
    assert "hidden" not in str(caught.value)


def test_a_database_of_a_relative_path_is_refused(tiny: dict[str, Any]) -> None:
    with pytest.raises(JobError, match=r"absolute path.*'sqlite:///mlflow\.db'"):
        check_travels(load_study(tiny), "/results", "sqlite:///mlflow.db")


def test_the_study_that_is_sent_plans_the_same_trials(tiny: dict[str, Any], tmp_path: Path) -> None:
    study = load_study(tiny, ["attack.eps=8/255", "train.lr=1e-3"])
    sent = yaml.safe_dump(study.dump(), sort_keys=False, allow_unicode=True)
    (tmp_path / STUDY_FILE).write_text(sent)
    keys = [trial.run_key for trial in studies.plan(study, storage=tmp_path).trials]
    again = studies.plan(tmp_path / STUDY_FILE, storage=tmp_path).trials
    assert [trial.run_key for trial in again] == keys


PROGRAM = """
import sys
from importlib.abc import MetaPathFinder

class Block(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "aiohttp":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None

sys.meta_path.insert(0, Block())
sys.argv = ["oat", "logs", "quickstart", "--job-server", "http://127.0.0.1:1"]
from studies.cli.app import main
main()
"""


@pytest.mark.slow
def test_without_the_extra_a_sentence_names_it() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False
    )
    is_a_sentence(ended, "`pip install 'oat-studies[cluster]'`")


def test_submitting_without_a_job_server_is_refused(
    tiny_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["oat", "submit", str(tiny_file)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "--job-server" in capsys.readouterr().err


class Starting(BaseHTTPRequestHandler):
    """A job server whose cluster takes no job at first; it says what Ray's own says."""

    refusals: ClassVar[int] = 0
    refusal: ClassVar[str] = f"{NOT_READY} to submit job, please try again later."
    posted: ClassVar[list[dict[str, Any]]] = []

    def do_GET(self) -> None:
        """Answer for the version, the jobs that are there, and what was uploaded."""
        if self.path == "/api/version":
            names = ("version", "ray_version", "ray_commit", "session_name")
            return self._say(200, json.dumps(dict.fromkeys(names, "4")))
        if self.path.startswith("/api/jobs/raysubmit_1"):
            return self._say(200, json.dumps(self._details()))
        return self._say(200, "[]" if self.path.startswith("/api/jobs") else "{}")

    def do_POST(self) -> None:
        """Refuse a job as often as was asked for, then take it."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.posted.append(asked)
        if len(self.posted) <= self.refusals:
            return self._say(500, self.refusal)
        return self._say(200, json.dumps({"submission_id": "raysubmit_1", "job_id": None}))

    def _details(self) -> dict[str, Any]:
        made = {"type": "SUBMISSION", "submission_id": "raysubmit_1", "status": "PENDING"}
        return made | {"entrypoint": "", "metadata": self.posted[-1]["metadata"]}

    def _say(self, code: int, text: str) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize(("refusals", "asked"), [(0, 1), (2, 3), (ATTEMPTS, ATTEMPTS)])
def test_a_cluster_that_cannot_take_a_job_yet_is_asked_again(
    refusals: int, asked: int, tiny_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Starting, "refusals", refusals)
    monkeypatch.setattr(Starting, "posted", [])
    with ThreadingHTTPServer(("127.0.0.1", 0), Starting) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        there = {"job_server": f"http://127.0.0.1:{server.server_address[1]}", "storage": "/there"}
        if refusals < ATTEMPTS:
            assert studies.submit(tiny_file, **there).id == "raysubmit_1"
        else:
            with pytest.raises(JobError, match=f"cannot do that .*{NOT_READY}"):
                studies.submit(tiny_file, **there)
        server.shutdown()
    assert len(Starting.posted) == asked


def test_of_a_traceback_of_the_server_the_line_is_told_that_says_why(
    tiny_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traceback = (
        'Traceback (most recent call last):\n  File "job.py", line 1\nValueError: no room. x'
    )
    monkeypatch.setattr(Starting, "refusals", ATTEMPTS)
    monkeypatch.setattr(Starting, "refusal", traceback)
    monkeypatch.setattr(Starting, "posted", [])
    with ThreadingHTTPServer(("127.0.0.1", 0), Starting) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        there = {"job_server": f"http://127.0.0.1:{server.server_address[1]}", "storage": "/there"}
        with pytest.raises(JobError, match=r"cannot do that \(ValueError: no room\); check"):
            studies.submit(tiny_file, **there)
        server.shutdown()
