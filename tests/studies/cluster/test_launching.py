import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray
from mlflow.tracking import MlflowClient

import studies
from studies.cli import app as cli
from studies.cluster.connection import FirstLines, connect
from studies.commands.run import RunOutcome
from studies.errors import StudyError
from studies.planning.plan import Plan
from studies.study_file.loading import load_study
from studies.study_file.study import Study
from tests.ray_paths import needs_plain_path
from tests.studies.cli.shell import Oat
from tests.studies.marks import NOLOAD

pytestmark = NOLOAD

OAT = Path(sys.executable).with_name("oat")


def under_ray(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that starts Ray, or is the first to ask for what Ray has run."""
    for mark in (pytest.mark.ray, pytest.mark.slow):
        test = mark(test)
    return test


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """A Ray of our own on this machine, as `oat run` starts it."""
    assert connect(None)
    yield
    ray.shutdown()


@dataclass(frozen=True)
class Ran:
    """The tiny study after it was run under Ray."""

    storage: Path
    outcome: RunOutcome


@pytest.fixture(scope="module")
def ran(local_ray: None, tiny_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Run the tiny study under Ray, once for all who look at what it left."""
    storage = tmp_path_factory.mktemp("ran")
    return Ran(storage, studies.run(tiny_file, storage=storage))


@pytest.fixture
def copied(ran: Ran, tmp_path: Path) -> Path:
    """What that run left, yours to go on with."""
    return Path(shutil.copytree(ran.storage, tmp_path / "storage"))


def _place(storage: Path, run_key: str) -> Path:
    return storage / "tiny" / "trials" / run_key


def _weights(plan: Plan, storage: Path) -> dict[str, str]:
    """Return the digest of each trial's weights, as its result states it."""
    return {
        trial.run_key: json.loads((_place(storage, trial.run_key) / "result.json").read_text())[
            "trained"
        ]["weights"]["last"]["sha256"]
        for trial in plan.trials
    }


def _one_run_a_key(plan: Plan, storage: Path) -> None:
    """Check that MLflow has one finished run for each key of the plan."""
    client = MlflowClient(tracking_uri=f"sqlite:///{storage / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    count = Counter((run.data.tags["oat.kind"], run.data.tags["oat.key"]) for run in found)
    assert set(count.values()) == {1}
    trials = {key for kind, key in count if kind == "trial"}
    points = {key for kind, key in count if kind == "point"}
    assert trials == {trial.run_key for trial in plan.trials}
    assert points == {p["point_key"] for trial in plan.trials for p in trial.job["points"]}
    assert {run.info.status for run in found} == {"FINISHED"}
    for run in found:
        if run.data.tags["oat.kind"] == "trial":
            history = client.get_metric_history(run.info.run_id, "train_loss")
            steps = [metric.step for metric in history]
            assert steps == list(range(1, plan.study.train.epochs + 1))


@under_ray
def test_one_command_leaves_results_an_index_and_a_report(ran: Ran) -> None:
    outcome = ran.outcome
    assert outcome.complete
    assert (outcome.worked_on, outcome.notes) == (4, [])
    assert len(outcome.points) == 5
    assert outcome.comparison is not None
    assert len(outcome.comparison.table) == 3
    assert outcome.report.keys() == {
        "front.png", "front.svg", "price.png", "price.svg", "index.html",
        "table.csv", "table.md", "table.tex", "same_knob.csv", "cells.csv", "fronts.csv",
        "masking.csv",
    }  # fmt: skip
    assert all(Path(uri).stat().st_size > 0 for uri in outcome.report.values())
    _one_run_a_key(outcome.plan, ran.storage)
    assert load_study(ran.storage / "tiny" / "study.yaml") == outcome.plan.study


@under_ray
def test_the_report_is_kept_with_the_study_in_mlflow(ran: Ran) -> None:
    client = MlflowClient(tracking_uri=f"sqlite:///{ran.storage / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny").experiment_id
    (study,) = client.search_runs([experiment], "tags.`oat.kind` = 'study'")
    kept = {file.path for file in client.list_artifacts(study.info.run_id, "report")}
    assert kept == {f"report/{name}" for name in ran.outcome.report}


@under_ray
def test_workers_reach_the_same_weights_as_one_process(ran: Ran, finished: Path) -> None:
    plan = ran.outcome.plan
    assert _weights(plan, ran.storage) == _weights(plan, finished)


@under_ray
def test_trials_that_ask_for_the_same_share_workers(ran: Ran) -> None:
    pids = {
        json.loads((_place(ran.storage, trial.run_key) / "provenance.json").read_text())["pid"]
        for trial in ran.outcome.plan.trials
    }
    at_a_time = int(ray.cluster_resources()["CPU"])
    assert len(pids) <= at_a_time
    if at_a_time < len(ran.outcome.plan.trials):
        assert len(pids) < len(ran.outcome.plan.trials)
    assert os.getpid() not in pids


@under_ray
def test_a_second_run_trains_nothing(copied: Path, tiny_file: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in (copied / "tiny" / "trials").rglob("*")}
    outcome = studies.run(tiny_file, storage=copied)
    assert outcome.complete
    assert outcome.worked_on == 0
    assert {p: p.stat().st_mtime_ns for p in (copied / "tiny" / "trials").rglob("*")} == before
    _one_run_a_key(outcome.plan, copied)


@under_ray
def test_one_more_value_trains_one_model(copied: Path, tiny_file: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in (copied / "tiny" / "trials").rglob("*")}
    more = ["methods.1.lam=[0, 0.5, 1]", "evaluate.lams=[0, 1]"]
    outcome = studies.run(tiny_file, storage=copied, overrides=more)
    assert outcome.complete
    assert outcome.worked_on == 1
    new = [t for t in outcome.plan.trials if not any(t.run_key in p.parts for p in before)]
    assert [trial.label for trial in new] == ["pgd_at λ=0.5"]
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert len(outcome.points) == 6


@under_ray
def test_a_trial_that_diverges_leaves_the_study_standing(copied: Path, tiny_file: Path) -> None:
    more = ["methods.2.beta=[1, 1e+38]", "train.epochs=3", "methods.1.lam=[0]"]
    outcome = studies.run(tiny_file, storage=copied, overrides=more)
    states = {trial.label: trial.state for trial in outcome.plan.trials}
    assert states.pop("trades β=1e+38") == "diverged"
    assert set(states.values()) == {"done"}
    assert not outcome.complete
    assert outcome.comparison is not None
    assert len(outcome.comparison.table) == 2
    assert studies.plan(tiny_file, storage=copied, overrides=more).to_run() == []


@under_ray
def test_a_gpu_that_no_node_has_stops_a_run_before_it_starts(
    local_ray: None,
    tiny_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = f"oat run {tiny_file} --storage {tmp_path} --set resources.gpu=64"
    monkeypatch.setattr(sys, "argv", command.split())
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert said.out == ""
    assert "`resources` ask for 1 CPU and 64 GPU a trial" in said.err
    assert "lower `resources.cpu` or `resources.gpu`" in said.err
    assert not (tmp_path / "tiny" / "trials").exists()


@under_ray
def test_an_address_without_a_cluster_is_refused(tiny_file: Path, tmp_path: Path, oat: Oat) -> None:
    said = oat("run", tiny_file, "--storage", tmp_path, "--address", "127.0.0.1:1")
    assert (said.code, said.text) == (2, "")
    assert "No Ray cluster answers at `--address` '127.0.0.1:1'" in said.err
    assert "Traceback" not in said.err
    assert not (tmp_path / "tiny" / "trials").exists()


def test_the_address_of_a_job_server_is_told_from_that_of_a_cluster() -> None:
    with pytest.raises(StudyError, match="`oat submit`"):
        connect("http://head:8265")


SETTINGS = ["train.epochs=24", "train.val_every=24", "train.batch_size=64"]


@dataclass(frozen=True)
class Stopped:
    """A run that was stopped from outside, and what had become of it then."""

    storage: Path
    code: int
    out: str
    err: str
    states: dict[str, str]
    left_alive: list[str]


def _run_until_a_checkpoint(
    tiny_file: Path, storage: Path, scratch: Path, stop: Callable[[int], None]
) -> Stopped:
    """Start `oat run`, wait until it has written a checkpoint, stop it, and look."""
    options = [option for setting in SETTINGS for option in ("--set", setting)]
    began = time.time()
    with (scratch / "out").open("w+") as out, (scratch / "err").open("w+") as err:
        # a session of its own, so that the signal goes to all that a terminal would send it to
        process = subprocess.Popen(
            [OAT, "run", tiny_file, "--storage", storage, *options],
            stdout=out,
            stderr=err,
            start_new_session=True,
        )

        def working() -> bool:
            assert process.poll() is None, (scratch / "err").read_text()
            found = storage.glob("tiny/trials/*/checkpoint")
            return any(path.stat().st_mtime > began for path in found)

        _wait_for(working, 1000)
        family = _descendants(process.pid)
        stop(process.pid)
        code = process.wait(1000)
    left = _outlive(family, 300)
    plan = studies.plan(tiny_file, storage=storage, overrides=SETTINGS)
    return Stopped(
        storage,
        code,
        (scratch / "out").read_text(),
        (scratch / "err").read_text(),
        {trial.label: trial.state for trial in plan.trials},
        left,
    )


def _parents() -> dict[int, int]:
    """Return the parent of each process of this machine, by Linux's account of them."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                found[int(path.parent.name)] = int(parent)
    return found


def _descendants(pid: int) -> dict[int, str]:
    """Return the processes below one, with what each was started as."""
    parents, found = _parents(), {pid}
    while grown := {child for child, parent in parents.items() if parent in found} - found:
        found |= grown
    named = {child: _started_as(child) for child in found - {pid}}
    # Ray's own agents take up to a minute to notice; they touch nothing of ours
    return {child: name for child, name in named.items() if "Agent" not in name}


def _started_as(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return ""


def _outlive(family: dict[int, str], seconds: float) -> list[str]:
    """Wait for processes to end; end those that do not, and name them."""
    end = time.monotonic() + seconds
    while (left := family.keys() & _parents().keys()) and time.monotonic() < end:
        time.sleep(0.2)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return [family[pid] for pid in left]


def _wait_for(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"nothing happened for {seconds} s"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def interrupted(tiny_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    """A first run, stopped by Ctrl-C."""
    storage, scratch = (tmp_path_factory.mktemp(name) for name in ("stopped", "first"))
    return _run_until_a_checkpoint(
        tiny_file, storage, scratch, lambda pid: os.killpg(pid, signal.SIGINT)
    )


@pytest.fixture(scope="module")
def killed(
    interrupted: Stopped, tiny_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Stopped:
    """A second run of the same, killed on the spot."""
    scratch = tmp_path_factory.mktemp("second")
    return _run_until_a_checkpoint(
        tiny_file, interrupted.storage, scratch, lambda pid: os.kill(pid, signal.SIGKILL)
    )


@under_ray
def test_ctrl_c_stops_with_one_sentence_and_keeps_the_checkpoints(interrupted: Stopped) -> None:
    assert interrupted.code == 130
    assert "Stopped. The same command goes on from the last checkpoints." in interrupted.err
    assert "Traceback" not in interrupted.err
    assert interrupted.out == ""
    assert "unfinished" in interrupted.states.values()
    assert not {"failed", "damaged", "diverged"} & set(interrupted.states.values())
    assert interrupted.left_alive == []


@under_ray
def test_a_driver_that_is_killed_takes_its_workers_along(killed: Stopped) -> None:
    assert killed.code == -signal.SIGKILL
    assert "go on from a checkpoint" in killed.err
    assert "unfinished" in killed.states.values()
    assert not {"failed", "damaged", "diverged"} & set(killed.states.values())
    assert killed.left_alive == []


CLUSTER = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
print(cluster.address, flush=True)
sys.stdin.readline()
print(len(cluster.global_state.job_table()), flush=True)
cluster.shutdown()
"""


@under_ray
@needs_plain_path
def test_the_same_command_goes_on_to_the_same_end_also_on_a_running_cluster(
    killed: Stopped, tiny_file: Path, train_all: Callable[[Study, Path], None], tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("a" * 32)
    env = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"),
        "PATH": f"{OAT.parent}:{os.environ['PATH']}",
    }
    options = [option for setting in SETTINGS for option in ("--set", setting)]
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as cluster:  # fmt: skip
        assert cluster.stdin is not None
        assert cluster.stdout is not None
        address = cluster.stdout.readline().strip()
        ended = subprocess.run(
            [OAT, "run", tiny_file, "--storage", killed.storage, "--address", address, *options],
            env=env, capture_output=True, text=True, check=False, timeout=1000,
        )  # fmt: skip
        cluster.stdin.write("\n")
        cluster.stdin.flush()
        jobs = int(cluster.stdout.readline())
    assert ended.returncode == 0, ended.stderr
    assert jobs >= 1
    assert "retrained model" in ended.stdout
    assert "go on from a checkpoint" in ended.stderr
    assert "ended after" in ended.stderr

    plan = studies.plan(tiny_file, storage=killed.storage, overrides=SETTINGS)
    assert {trial.state for trial in plan.trials} == {"done"}
    _one_run_a_key(plan, killed.storage)
    assert len(list(killed.storage.glob("tiny/trials/*/result.json"))) == len(plan.trials)
    train_all(plan.study, tmp_path)
    assert _weights(plan, killed.storage) == _weights(plan, tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("(raylet) A worker died. To look into it, see the logs\nand more", "A worker died"),
        ("(raylet) Traceback (most recent):\n  File x\nMemoryError: none", "MemoryError: none"),
        ("\x1b[36m(raylet)\x1b[0m Traceback (most recent):\n(raylet) OSError: x", "OSError: x"),
        ("no process in brackets", None),
    ],
)
def test_of_what_ray_prints_one_line_is_told_and_of_a_traceback_its_error(
    text: str, said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", logger="oat.ray")
    FirstLines().write(text)
    assert caplog.messages == ([] if said is None else [f"(raylet) {said}"])
