"""Commands on a study of which there is nothing yet, or something else under its name."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import studies
from studies.study_file.loading import load_study
from tests.studies.cli.shell import Oat, is_a_sentence
from tests.studies.marks import NOLOAD

pytestmark = [NOLOAD, pytest.mark.mlflow]


@pytest.mark.parametrize("command", ["runs", "sync", "ui", "points", "compare"])
def test_without_results_it_is_said_so_and_nothing_is_written(
    command: str, oat: Oat, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    is_a_sentence(oat(command, study), "yet", "`oat run")
    (tmp_path / "outputs").mkdir()
    is_a_sentence(oat(command, study), "yet", "`oat run")
    assert list(tmp_path.rglob("*")) == [tmp_path / "outputs"]
    (tmp_path / "outputs").rmdir()


@pytest.fixture
def storage(storage: Path, empty_database: Path) -> Path:
    """The finished tiny study beside a database that knows nothing of it."""
    shutil.copy(empty_database, storage)
    return storage


@pytest.fixture
def other(tiny: dict[str, Any], tmp_path: Path) -> Path:
    """A file of another study under the same name, with a model that both have."""
    path = tmp_path / "other.yaml"
    tiny["methods"] = [{"name": "pgd_at", "lam": [1, 0.5]}]
    path.write_text(yaml.safe_dump(tiny))
    return path


def test_points_of_another_file_under_the_same_name_are_left_out_and_counted(
    oat: Oat, study: Path, storage: Path, other: Path
) -> None:
    assert oat("sync", study, "--storage", storage).text == "MLflow has 5 points of this study.\n"
    command = ["runs", other, "--storage", storage]
    said = oat(*command, "--format", "json")
    assert said.code == 0
    assert [(row["method"], row["lam"]) for row in said.json] == [("pgd_at", 1.0)]
    assert "4 points of other settings under the same name are left out" in said.err
    assert oat("sync", other, "--storage", storage).text == "MLflow has 1 points of this study.\n"
    mine = oat("runs", study, "--storage", storage, "--format", "json")
    assert (len(mine.json), mine.err) == (5, "")  # the other file's sync took nothing away
    none = [*command, "--set", "methods.0.lam=0.25"]
    is_a_sentence(oat(*none), "no points of study 'tiny' yet", "5 of other settings", "`oat run`")
    is_a_sentence(oat(*none, "--where", "ra >= 0"), "no points of study 'tiny' yet")
    asked = oat(*command, "--where", "ra < 0", "--format", "json")
    assert (asked.code, asked.json) == (0, [])


def test_what_storage_has_lost_sync_takes_out_of_mlflow(
    oat: Oat, study: Path, storage: Path
) -> None:
    oat("sync", study, "--storage", storage)
    first, second, third, _ = studies.plan(load_study(study), storage=storage).trials
    place = storage / "tiny" / "trials"
    shutil.rmtree(place / second.run_key)
    (place / third.run_key / "points.jsonl").unlink()
    assert "missing" in oat("plan", study, "--storage", storage).text
    assert oat("sync", study, "--storage", storage).text == "MLflow has 3 points of this study.\n"
    table = oat("runs", study, "--storage", storage, "--format", "json").json
    assert {row["run_key"] for row in table}.isdisjoint({second.run_key, third.run_key})
    (place / first.run_key / "model.safetensors").write_bytes(b"damaged")
    assert oat("sync", study, "--storage", storage).text == "MLflow has 1 points of this study.\n"
    left = studies.points(load_study(study), storage=storage)
    again = oat("runs", study, "--storage", storage, "--format", "json").json
    assert [row["point_key"] for row in again] == left["point_key"].tolist()


def test_points_under_an_attack_that_the_file_has_no_more_are_left_out_and_counted(
    oat: Oat, study: Path, storage: Path
) -> None:
    oat("sync", study, "--storage", storage)
    command = ["runs", study, "--storage", storage, "--format", "json"]
    changed = ["--set", "evaluate.attacks.0.steps=9"]
    is_a_sentence(oat(*command, *changed), "no points of study 'tiny' yet", "5 of other settings")
    more = ["--set", "evaluate.images=7"]
    is_a_sentence(oat(*command, *more), "no points of study 'tiny' yet", "5 of other settings")
