"""A run of some trials of a study: the rest stays planned."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import studies

NOLOAD = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"
)
pytestmark = [pytest.mark.mlflow, NOLOAD]

OAT = Path(sys.executable).with_name("oat")
STARTED = "pgd_at start=pgd_at:λ=0.5 epochs=1 λ=0.7"


def _oat(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [OAT, *map(str, words)], capture_output=True, text=True, check=False, timeout=500
    )


@pytest.fixture
def longer(tiny: dict[str, Any], tmp_path: Path) -> Path:
    """The tiny study with three trials more, of which one starts from another."""
    tiny["methods"][1]["lam"] = [0, 1, 0.5]
    tiny["methods"][2]["beta"] = [1, 2]
    start = {"from": "pgd_at λ=0.5", "epochs": 1}
    tiny["methods"].append({"name": "pgd_at", "lam": 0.7, "start": start})
    path = tmp_path / "longer.yaml"
    path.write_text(yaml.safe_dump(tiny))
    return path


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_chosen_trials_run_with_their_sources_and_the_rest_stays_planned(
    longer: Path, storage: Path
) -> None:
    command = ["run", longer, "--storage", storage, "--only", f"label == '{STARTED}'"]
    for time in range(2):
        said = _oat(*command)
        assert said.returncode == 0, said.stderr
        assert "`--only` left out 1 trial that is not finished, on purpose" in said.stderr
        assert ("made from them: pgd_at λ=0.5 seed 0." in said.stderr) == (time == 0)
        assert ("Nothing to train" in said.stdout) == (time == 1)
        states = {t.label: t.state for t in studies.plan(longer, storage=storage).trials}
        assert states.pop("trades β=2") == "missing"
        assert set(states.values()) == {"done"}


@pytest.mark.parametrize("condition", ["method == 'mart'", "ra > 0.5", "seed = 1"])
@pytest.mark.timeout(120)
def test_a_faulty_or_empty_choice_starts_and_writes_nothing(
    condition: str, longer: Path, tmp_path: Path
) -> None:
    said = _oat("run", longer, "--storage", tmp_path / "new", "--only", condition)
    assert said.returncode == 2
    assert said.stdout == ""
    assert len(said.stderr.splitlines()) == 1
    assert json.dumps(condition) in said.stderr or "Unknown column 'ra'" in said.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.timeout(120)
def test_a_choice_of_finished_trials_trains_nothing(longer: Path, storage: Path) -> None:
    outcome = studies.run(longer, storage=storage, only="state == 'done'")
    assert (outcome.worked_on, outcome.complete) == (0, False)
    left = {t.label for t in outcome.plan.trials if t.run_key in outcome.left_out}
    assert left == {"pgd_at λ=0.5", "trades β=2", STARTED}
