"""Storage of version 0.1 opens: nothing is trained again, and what it lacks is filled in.

The fixture takes from a finished study what that version did not write. What that was is read off
a storage that commit 877a051, the first whose run keys are today's, has written: the same run keys,
point keys and accuracies, fewer keys in each record, and weights that say nothing of themselves.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load, save

import oat.data
import studies
from oat.data import DataConfig, unit
from studies.errors import ModelError
from studies.storage.sealed import seal
from studies.study_file.loading import load_study
from tests.studies.conftest import TrainAll
from tests.studies.marks import NOLOAD

Record = dict[str, Any]

ADDED = {
    "trained": ("data_fingerprint", "execution"),
    "provenance": ("execution",),
    "train": ("capture", "compile", "deterministic", "tf32"),
    "point": ("attack_settings", "precision", "train_gradients", "warnings"),
}
"""Keys that later versions have added to each record of the tiny study."""

ALONE = ("evaluate.held_out_images=0",)
"""Version 0.1 evaluated no held-out images."""


def _write(path: Path, record: Record) -> None:
    path.write_text(json.dumps(record, indent=1))


def _without(record: Record, *keys: str) -> Record:
    assert set(keys) <= record.keys(), "the fixture would strip what is not there"
    return {key: value for key, value in record.items() if key not in {*keys, "check"}}


def _as_written_by_0_1(trial: Path) -> None:
    """Make of a finished trial's folder what version 0.1 would have left."""
    result = json.loads((trial / "result.json").read_text())
    trained = _without(result["trained"], *ADDED["trained"])
    for rule, weights in trained["weights"].items():
        path = trial / ("model.safetensors" if rule == "last" else f"model-{rule}.safetensors")
        path.write_bytes(save(load(path.read_bytes())))
        weights |= {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
        }
    _write(trial / "result.json", seal({**_without(result), "trained": trained}))
    provenance = json.loads((trial / "provenance.json").read_text())
    _write(trial / "provenance.json", _without(provenance, *ADDED["provenance"]))
    config = json.loads((trial / "config.json").read_text())
    config["train"] = _without(config["train"], *ADDED["train"])
    for block in ("data", "model"):
        config[block] = _without(config[block], "args")
    config["method"].pop("attack", None)
    _write(trial / "config.json", config)
    rows = [json.loads(line) for line in (trial / "points.jsonl").read_text().splitlines()]
    kept = [seal(_without(row, *ADDED["point"])) for row in rows if "split" not in row]
    (trial / "points.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    with np.load(trial / "correct.npz") as archive:
        own = {row["point_key"] for row in kept}
        right = {k: archive[k] for k in archive.files if k.partition(".")[0] in own}
    np.savez(trial / "correct.npz", **right)


@pytest.fixture(scope="module")
def stored(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny study as version 0.1 stored it; not to be written."""
    storage = Path(shutil.copytree(finished, tmp_path_factory.mktemp("old") / "storage"))
    trials = sorted((storage / "tiny" / "trials").iterdir())
    assert len(trials) == 4
    for trial in trials:
        _as_written_by_0_1(trial)
    return storage


@pytest.fixture
def old(stored: Path, tmp_path: Path) -> Path:
    """The same; yours to change."""
    return Path(shutil.copytree(stored, tmp_path / "storage"))


def _numbers(study: Record, storage: Path) -> list[list[Any]]:
    names = ["point_key", "training_id", "sa", "ra", "images", "data_fingerprint"]
    found: list[list[Any]] = studies.points(study, storage=storage)[names].to_numpy().tolist()
    return found


def test_it_plans_as_done_and_has_the_same_points(
    tiny: Record, stored: Path, finished: Path
) -> None:
    plan = studies.plan(tiny, storage=stored, overrides=ALONE)
    assert [trial.state for trial in plan.trials] == ["done"] * 4
    assert plan.foreign == ()
    assert _numbers(tiny, stored) == _numbers(tiny, finished)
    points = studies.points(tiny, storage=stored)
    assert set(points["precision"]) == {"not recorded"}
    assert points["train_gradients"].isna().all()


def test_what_it_lacks_is_evaluated_and_nothing_is_trained(
    tiny: Record, old: Path, finished: Path, train_all: TrainAll
) -> None:
    states = {trial.state for trial in studies.plan(tiny, storage=old).trials}
    assert states == {"evaluate"}
    weights = {path: path.read_bytes() for path in old.rglob("*.safetensors")}
    train_all(load_study(tiny), old)
    assert {trial.state for trial in studies.plan(tiny, storage=old).trials} == {"done"}
    assert {path: path.read_bytes() for path in old.rglob("*.safetensors")} == weights
    assert _numbers(tiny, old) == _numbers(tiny, finished)
    assert studies.compare(tiny, storage=old).question == "best λ"


def test_it_compares_at_the_same_lam_and_says_why(tiny: Record, stored: Path) -> None:
    answer = studies.compare(tiny, storage=stored)
    assert len(answer.table) == 2
    assert answer.paired
    assert "at the same λ, as too few held-out images are evaluated" in answer.answer()


def test_its_models_load_by_their_study_and_are_the_networks_that_were_judged(
    tiny: Record, stored: Path
) -> None:
    test = oat.data.load(DataConfig(**load_study(tiny).dump()["data"])).test.head(50)
    points = studies.points(tiny, storage=stored)
    model = studies.load_model(tiny, storage=stored)
    for row in points[points["method"] == "oat"].to_dict("records"):
        right = model.at(row["lam"])(unit(test.images)).argmax(1) == test.labels
        assert float(right.float().mean()) == pytest.approx(row["sa"])
    alone = Path(points["folder"].iloc[0]) / "model.safetensors"
    with pytest.raises(ModelError, match="does not say which network it is of; name the study"):
        studies.load_model(alone)


@pytest.mark.mlflow
@NOLOAD
def test_it_syncs_to_mlflow(tiny: Record, old: Path, empty_database: Path) -> None:
    shutil.copy(empty_database, old / "mlflow.db")
    assert studies.sync(tiny, storage=old) == 5
    names = ["point_key", "sa", "ra"]
    in_mlflow = studies.runs(tiny, storage=old)[names].sort_values("point_key")
    stored = studies.points(tiny, storage=old)[names].sort_values("point_key")
    assert in_mlflow.to_numpy().tolist() == stored.to_numpy().tolist()
