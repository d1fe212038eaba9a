"""A whole study whose storage is a bucket."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import ray

import studies
from benchmarks.servers import S3
from studies.cli import app as cli
from studies.cluster.connection import connect
from studies.planning.expand import make_plan
from studies.planning.plan import Plan
from studies.storage.folder import Folder
from studies.storage.opening import open_folder
from studies.study_file.loading import load_study
from studies.study_file.study import Study
from studies.trial.judging import Report
from studies.trial.records import read_result
from studies.trial.run import run_trial
from tests.studies.marks import NOLOAD

pytestmark = [NOLOAD]

OAT = Path(sys.executable).with_name("oat")
DRAWN = ["training_id", "train_device_seconds", "folder"]
"""Columns in which two runs of one study differ."""


def _weights(study: Study, storage: Path | str) -> dict[str, str]:
    folder = open_folder(storage).sub(study.name)
    found = {}
    for trial in make_plan(study, folder).trials:
        result = read_result(folder.sub(f"trials/{trial.run_key}"))
        assert result is not None
        found[trial.run_key] = result["trained"]["weights"]["last"]["sha256"]
    return found


def _same(study: Study, storage: str, other: Path) -> None:
    """Check that two storages hold the same points and weights of a study."""
    found, expected = studies.points(study, storage=storage), studies.points(study, storage=other)
    assert len(expected) > 0
    pd.testing.assert_frame_equal(found.drop(columns=DRAWN), expected.drop(columns=DRAWN))
    assert _weights(study, storage) == _weights(study, other)


def test_a_study_in_a_bucket_has_the_points_and_weights_of_one_in_a_folder(
    tiny: dict[str, Any], bucket: str, finished: Path, train_all: Callable[[Study, str], None]
) -> None:
    study = load_study(tiny)
    train_all(study, f"{bucket}/studies")
    _same(study, f"{bucket}/studies", finished)
    assert {t.state for t in studies.plan(study, storage=f"{bucket}/studies").trials} == {"done"}
    assert set(studies.status(study, storage=f"{bucket}/studies")["epoch"]) == {1}
    # which images are right is read from where each point says that it is
    a, b = (
        studies.compare(studies.points(study, storage=s)) for s in (f"{bucket}/studies", finished)
    )
    columns = [name for name in a.table.columns if "seconds" not in name and "saved" not in name]
    pd.testing.assert_frame_equal(a.table[columns], b.table[columns])


def test_networks_of_other_trials_are_found_in_a_bucket(
    tiny: dict[str, Any], bucket: str, train_all: Callable[[Study, str], None], tmp_path: Path
) -> None:
    tiny["methods"] = [{"name": "oat", "lambda_choices": [0, 1]}, {"name": "pgd_at", "lam": [0, 1]}]
    tiny["evaluate"]["attacks"] = [{"name": "transfer", "steps": 1}]
    study = load_study(tiny)
    for storage in (f"{bucket}/studies", tmp_path):
        for _ in range(2):  # transfer needs what the first leaves
            train_all(study, storage)
    _same(study, f"{bucket}/studies", tmp_path)


def test_a_trial_in_a_bucket_goes_on_from_its_checkpoint(
    tiny: dict[str, Any], bucket: str, tmp_path: Path
) -> None:
    tiny["methods"] = [{"name": "pgd_at", "lam": 1}]
    study = load_study(tiny, ["train.epochs=4"])
    epochs: list[int] = []

    def stop_at(last: int) -> Report:
        def report(record: dict[str, Any]) -> None:
            if record["kind"] == "epoch":
                epochs.append(record["epoch"])
                if record["epoch"] == last:
                    raise KeyboardInterrupt

        return report

    def place(storage: Path | str) -> tuple[Plan, Folder]:
        folder = open_folder(storage).sub(study.name)
        return make_plan(study, folder), folder

    plan, folder = place(f"{bucket}/studies")
    (trial,) = plan.trials
    trial_folder = folder.sub(f"trials/{trial.run_key}")
    with pytest.raises(KeyboardInterrupt):
        run_trial(trial.job, trial_folder, stop_at(2))
    assert place(f"{bucket}/studies")[0].trials[0].state == "unfinished"
    run_trial(trial.job, trial_folder, stop_at(0))
    assert epochs == [1, 2, 3, 4]
    plan, folder = place(tmp_path)
    run_trial(plan.trials[0].job, folder.sub(f"trials/{trial.run_key}"), lambda _: None)
    _same(study, f"{bucket}/studies", tmp_path)
    assert trial_folder.size("checkpoint") is None


def _oat(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["oat", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.mlflow
def test_a_run_in_a_bucket_that_was_killed_is_ended_by_the_same_command(
    tiny_file: Path,
    s3: S3,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    train_all: Callable[[Study, Path], None],
) -> None:
    monkeypatch.chdir(tmp_path)
    storage = f"{bucket}/studies"
    settings = ["--set", "train.epochs=8", "--set", "methods.1.lam=[1]"]
    command = ["run", str(tiny_file), "--storage", storage, *settings]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([OAT, *command], stdout=log, stderr=log, start_new_session=True)
        while not any("/checkpoint" in request for request in s3.requests):
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert _oat(monkeypatch, "status", tiny_file, "--storage", storage, *settings, "--json") == 0
    states = {trial["state"] for trial in json.loads(capsys.readouterr().out)}
    assert states != {"done"}

    assert connect(None)
    try:
        assert _oat(monkeypatch, *command) == 0
    finally:
        ray.shutdown()
    said = capsys.readouterr()
    assert f"{storage}/tiny/report/index.html" in said.out
    study = load_study(tiny_file, settings[1::2])
    train_all(study, tmp_path / "here")
    _same(study, storage, tmp_path / "here")
    for other in (["plan"], ["compare", "--out", "out"], ["sync"]):
        asked = [other[0], tiny_file, *other[1:], "--storage", storage, *settings]
        assert _oat(monkeypatch, *asked) == 0
    assert "MLflow has 4 points" in capsys.readouterr().out
    assert (tmp_path / "out" / "index.html").stat().st_size > 0
    # MLflow's database is here, as SQLite needs a path; nothing else is
    assert {path.name for path in (tmp_path / "outputs").iterdir()} <= {
        "mlflow.db", "mlflow-artifacts",
    }  # fmt: skip
    _holds_no_secret(tmp_path, open_folder(storage), s3.environment["AWS_SECRET_ACCESS_KEY"])


def _holds_no_secret(place: Path, folder: Folder, secret: str) -> None:
    for path in place.rglob("*"):
        assert path.is_dir() or secret.encode() not in path.read_bytes(), path
    _search(folder, secret.encode())


def _search(folder: Folder, secret: bytes) -> None:
    for name in folder.names():
        if folder.size(name) is None:
            _search(folder.sub(name), secret)
        else:
            assert secret not in folder.read(name), name
