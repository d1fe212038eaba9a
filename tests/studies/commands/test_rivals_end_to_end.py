"""The cheap rivals of retraining in one run under Ray: stopped, gone on with, and extended."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow.tracking import MlflowClient

import studies
from studies.commands.run import RunOutcome
from studies.planning.plan import Plan
from studies.study_file.loading import load_study
from tests.studies.marks import NOLOAD

pytestmark = [pytest.mark.ray, pytest.mark.mlflow, pytest.mark.slow, NOLOAD]

OAT = Path(sys.executable).with_name("oat")
EPOCHS = 40
"""Of the started training: long enough to be stopped in the middle."""
STARTED = f"pgd_at start=pgd_at:λ=0 epochs={EPOCHS} λ=1"


def _study(source: dict[str, Any], alphas: list[float]) -> dict[str, Any]:
    """Return the tiny study with the rivals, those that need most named first."""
    methods = [
        {"name": "interpolate", "of": ["pgd_at λ=0", STARTED], "alphas": alphas},
        {"name": "mix", "of": ["pgd_at λ=0", "pgd_at λ=1"], "alphas": alphas},
        {"name": "pgd_at", "lam": 1, "start": {"from": "pgd_at λ=0", "epochs": EPOCHS}},
        {"name": "pgd_at", "lam": [0, 1]},
    ]
    return {**deepcopy(source), "methods": methods}


def _place(storage: Path, plan: Plan, label: str) -> Path:
    (trial,) = [trial for trial in plan.trials if trial.label == label]
    return storage / "tiny" / "trials" / trial.run_key


def _states(plan: Plan) -> dict[str, str]:
    return {trial.label.partition(" of=")[0]: trial.state for trial in plan.trials}


def _written(storage: Path) -> dict[str, int]:
    """Return when each file of weights was written."""
    return {str(path): path.stat().st_mtime_ns for path in storage.glob("tiny/trials/*/model*")}


@pytest.fixture(scope="module")
def source(tiny_file: Path) -> dict[str, Any]:
    return load_study(tiny_file).dump()


@pytest.fixture(scope="module")
def stopped(source: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage folder of a run that was told to end while the started model was trained.

    By SIGTERM to the driver alone, as `kill`, Slurm and systemd do; Ctrl-C is tried elsewhere.
    """
    storage, scratch = (tmp_path_factory.mktemp(name) for name in ("storage", "scratch"))
    study = _study(source, [0, 0.5])
    file = scratch / "study.yaml"
    file.write_text(yaml.safe_dump(study, allow_unicode=True))
    place = _place(storage, studies.plan(study, storage=storage), STARTED)
    with (scratch / "said").open("w+") as said:
        process = subprocess.Popen(
            [OAT, "run", file, "--storage", storage],
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
        end = time.monotonic() + 1000
        while not (place / "checkpoint").exists():
            assert process.poll() is None, (scratch / "said").read_text()
            assert time.monotonic() < end
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(1000) == 130
        said.seek(0)
        text = said.read()
    assert "Stopped. The same command goes on from the last checkpoints." in text
    assert "logging.cc" not in text  # of Ray's own answer to the signal
    assert "Traceback" not in text
    return storage


@pytest.fixture(scope="module")
def ran(stopped: Path, source: dict[str, Any]) -> tuple[Path, Plan, RunOutcome]:
    """The same after another run: its storage, the plan before, and what came of it."""
    study = _study(source, [0, 0.5])
    before = studies.plan(study, storage=stopped)
    return stopped, before, studies.run(study, storage=stopped)


def test_sources_were_trained_first_and_what_needs_them_waits(
    ran: tuple[Path, Plan, RunOutcome],
) -> None:
    _, before, _ = ran
    states = _states(before)
    assert states["pgd_at λ=0"] == states["pgd_at λ=1"] == "done"
    assert states[STARTED] == "unfinished"
    assert states["interpolate"] == "waiting"


def test_the_next_run_goes_on_from_the_checkpoint_and_finishes_all(
    ran: tuple[Path, Plan, RunOutcome],
) -> None:
    storage, before, outcome = ran
    assert outcome.complete
    assert outcome.notes == []
    assert len(outcome.points) == 7
    assert outcome.comparison is not None
    assert {"interpolate", "mix"} <= set(outcome.comparison.fronts["front"])
    place = _place(storage, before, STARTED)
    lines = (place / "epochs.jsonl").read_text().splitlines()
    epochs = [json.loads(line)["epoch"] for line in lines]
    assert epochs == list(range(1, EPOCHS + 1))
    result = json.loads((place / "result.json").read_text())["trained"]
    source = json.loads((_place(storage, before, "pgd_at λ=0") / "result.json").read_text())
    assert list(result["sources"].values()) == [source["trained"]["training_id"]]


def test_mlflow_has_every_point_of_a_pair_by_its_weight(
    ran: tuple[Path, Plan, RunOutcome],
) -> None:
    storage, _, outcome = ran
    client = MlflowClient(tracking_uri=f"sqlite:///{storage / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    keys = Counter((run.data.tags["oat.kind"], run.data.tags["oat.key"]) for run in runs)
    assert set(keys.values()) == {1}
    wanted = {p["point_key"] for trial in outcome.plan.trials for p in trial.job["points"]}
    assert {key for kind, key in keys if kind == "point"} == wanted
    names = [run.info.run_name for run in runs if run.info.run_name.startswith("mix of=")]
    assert any(" α=0.5 " in name for name in names)


def test_a_run_after_that_does_nothing_and_more_weights_are_judged_alone(
    ran: tuple[Path, Plan, RunOutcome], source: dict[str, Any]
) -> None:
    storage, _, outcome = ran
    again = studies.run(_study(source, [0, 0.5]), storage=storage)
    assert (again.worked_on, again.complete) == (0, True)
    before = _written(storage)
    more = studies.run(_study(source, [0, 0.5, 0.25]), storage=storage)
    assert (more.worked_on, more.complete) == (2, True)
    assert _written(storage) == before
    assert set(outcome.points["point_key"]) < set(more.points["point_key"])
    assert len(more.points) == 9
