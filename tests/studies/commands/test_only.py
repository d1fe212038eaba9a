"""A run of some trials of a study: the rest stays planned."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import studies
from tests.studies.cli.shell import Oat
from tests.studies.marks import NOLOAD

pytestmark = [pytest.mark.mlflow, NOLOAD]

STARTED = "pgd_at start=pgd_at:λ=0.5 epochs=1 λ=0.7"


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
    longer: Path, storage: Path, oat: Oat
) -> None:
    command = ["run", longer, "--storage", storage, "--only", f"label == '{STARTED}'"]
    for time in range(2):
        said = oat(*command)
        assert said.code == 0, said.err
        assert "`--only` left out 1 trial that is not finished, on purpose" in said.err
        assert ("made from them: pgd_at λ=0.5 seed 0." in said.err) == (time == 0)
        assert ("Nothing to train" in said.text) == (time == 1)
        states = {t.label: t.state for t in studies.plan(longer, storage=storage).trials}
        assert states.pop("trades β=2") == "missing"
        assert set(states.values()) == {"done"}


@pytest.mark.parametrize("condition", ["method == 'mart'", "ra > 0.5", "seed = 1"])
@pytest.mark.timeout(120)
def test_a_faulty_or_empty_choice_starts_and_writes_nothing(
    condition: str, longer: Path, tmp_path: Path, oat: Oat
) -> None:
    said = oat("run", longer, "--storage", tmp_path / "new", "--only", condition)
    assert said.code == 2
    assert said.text == ""
    assert len(said.err.splitlines()) == 1
    assert json.dumps(condition) in said.err or "Unknown column 'ra'" in said.err
    assert not (tmp_path / "new").exists()


@pytest.mark.timeout(120)
def test_a_choice_of_finished_trials_trains_nothing(longer: Path, storage: Path) -> None:
    outcome = studies.run(longer, storage=storage, only="state == 'done'")
    assert (outcome.worked_on, outcome.complete) == (0, False)
    left = {t.label for t in outcome.plan.trials if t.run_key in outcome.left_out}
    assert left == {"pgd_at λ=0.5", "trades β=2", STARTED}
