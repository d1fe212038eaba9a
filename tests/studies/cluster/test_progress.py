"""What is told of a trial whose storage does not take what it writes."""

import io
import subprocess
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

import studies
from studies.cluster.progress import Progress
from studies.cluster.retries import Retries
from studies.trial.shapes import TrialReport
from tests.studies.marks import NOLOAD

SAID = "'/there' cannot be written: No space left on device; free some room there."
WAITING: TrialReport = {"kind": "waiting", "said": SAID}


@pytest.mark.parametrize("terminal", [False, True])
def test_storage_that_refuses_is_told_once_until_it_takes_something(
    terminal: bool, tiny_file: Path, tmp_path: Path
) -> None:
    plan = studies.plan(tiny_file, storage=tmp_path)
    told = io.StringIO()
    console = Console(file=told, force_terminal=terminal, width=200)
    progress = Progress(plan, console, lambda key: None)
    first = plan.trials[0]
    trial = SimpleNamespace(config={"trial": {"job": {"run_key": first.run_key}}})

    def report(result: TrialReport) -> None:
        progress.on_trial_result(0, [], trial, result)

    progress.on_trial_start(0, [], trial)
    for _ in range(3):
        report(WAITING)
    line = f"{first.label} seed 0: waiting for storage: {SAID.rstrip('.')}"
    assert told.getvalue().count(line) == 1
    report({"kind": "point", "sa": 0.5, "ra": 0.5})
    report(WAITING)
    assert told.getvalue().count(line) == 2


def test_waiting_for_storage_is_no_progress() -> None:
    trial: Any = SimpleNamespace(run_metadata=SimpleNamespace(num_failures=3))
    Retries([]).on_trial_result(None, trial, WAITING)
    assert trial.run_metadata.num_failures == 3
    Retries([]).on_trial_result(None, trial, {"kind": "point", "sa": 0.5, "ra": 0.5})
    assert trial.run_metadata.num_failures == 0


@NOLOAD
@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.mlflow
def test_a_full_disk_is_told_and_the_study_goes_on_once_there_is_room(
    small_disk: Path, tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where MLflow puts the artifacts of a database of one's own
    told, full = io.StringIO(), threading.Event()

    class Listening(io.StringIO):
        def write(self, text: str) -> int:
            if "waiting for storage" in text and not full.is_set():
                full.set()
                grow = ["mount", "-o", "remount,size=50m", str(small_disk)]
                subprocess.run(grow, check=True)
            return told.write(text)

    outcome = studies.run(
        tiny_file,
        storage=small_disk / "out",
        tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}",
        overrides=["train.epochs=2", "methods=[{name: oat, lambda_choices: [0, 1]}]"],
        console=Console(file=Listening(), width=300),
    )
    assert full.is_set()
    assert "cannot be written: No space left on device; free some room there" in told.getvalue()
    assert outcome.complete


@pytest.mark.parametrize("terminal", [False, True])
def test_a_trial_that_lacks_its_checks_alone_has_no_points_to_count(
    terminal: bool, tiny: dict[str, Any], storage: Path
) -> None:
    plan = studies.plan(tiny, storage=storage, overrides=["evaluate.masking_images=20"])
    assert {trial.left.points for trial in plan.trials if trial.left} == {0}
    told = io.StringIO()
    progress = Progress(plan, Console(file=told, force_terminal=terminal, width=200), str)
    for trial in plan.trials:
        ray_trial = SimpleNamespace(config={"trial": {"job": {"run_key": trial.run_key}}})
        progress.on_trial_start(0, [], ray_trial)
        progress.on_trial_result(0, [], ray_trial, {"kind": "end", "status": "done", "error": None})
        progress.on_trial_complete(0, [], ray_trial)
    assert "[4/4]" in told.getvalue() or terminal
