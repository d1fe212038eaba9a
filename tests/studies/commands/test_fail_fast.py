"""A run that its first failure ends."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import studies
from studies.storage.opening import open_folder
from studies.trial.checkpoints import Checkpoints
from studies.trial.run import run_trial
from tests.studies.planning.plans import plan_of
from tests.studies.trial.trials import ignore

pytestmark = [
    pytest.mark.ray,
    pytest.mark.mlflow,
    pytest.mark.slow,
    pytest.mark.timeout(600),
]

FIRST = "pgd_at start=pgd_at:λ=0 epochs=120 λ=0.2"  # the longest
OAT = Path(sys.executable).with_name("oat")


@pytest.fixture
def faulty(tiny: dict[str, Any], tmp_path: Path) -> Path:
    """More trials than Tune queues at once; the first starts from weights that are damaged."""
    tiny["train"] = {**tiny["train"], "epochs": 60, "val_every": 60}
    tiny["methods"] = [{"name": "pgd_at", "lam": 0}]
    tiny["resources"] = {"cpu": 1}
    (source,) = plan_of(tiny, tmp_path / "storage").trials
    place = open_folder(tmp_path / "storage").sub(f"tiny/trials/{source.run_key}")
    assert run_trial(source.job, place, ignore)["status"] == "done"
    weights = bytearray(place.read("model.safetensors"))
    weights[-1] ^= 1
    place.write("model.safetensors", bytes(weights))
    start = {"from": "pgd_at λ=0", "epochs": 120}
    tiny["methods"] += [
        {"name": "pgd_at", "lam": 0.2, "start": start},
        {"name": "pgd_at", "lam": [0.5, *(i / 100 for i in range(70, 100))]},
    ]
    path = tmp_path / "faulty.yaml"
    path.write_text(yaml.safe_dump(tiny))
    return path


def test_the_first_failure_ends_the_run_and_loses_nothing(faulty: Path, tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    said = subprocess.run(
        [OAT, "run", str(faulty), "--storage", str(storage), "--fail-fast"],
        capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip
    assert said.returncode == 1, said.stderr
    assert (
        "`--fail-fast` ended the run at its first failure; 32 trials are not finished."
        in said.stderr
    )
    assert "Traceback" not in said.stderr
    plan = studies.plan(faulty, storage=storage)
    states = {trial.label: trial.state for trial in plan.trials}
    assert states.pop(FIRST) == "failed"
    assert f"{FIRST} seed 0" in said.stderr
    assert "is not what was written" in said.stderr
    assert states.pop("pgd_at λ=0") == "done"
    assert list(states.values()).count("missing") >= 1
    assert set(states.values()) <= {"missing", "unfinished"}
    for trial in (t for t in plan.trials if t.state == "unfinished"):
        assert f"{trial.label} seed 0: stopped after" in said.stderr
        place = open_folder(storage).sub(f"tiny/trials/{trial.run_key}")
        state = Checkpoints(place).newest("cpu")
        assert state is not None
        assert 0 < state["epoch"] < 60
