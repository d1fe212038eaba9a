"""Trials whose data change under them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from oat.data import load
from studies.planning.plan import PlannedTrial
from studies.storage.sealed import seal, unseal
from studies.trial.records import read_points
from studies.trial.run import run_trial
from tests.studies.conftest import TINY
from tests.studies.pictures import CHANGES, fingerprint_of
from tests.studies.planning.plans import plan_of
from tests.studies.trial.trials import Interrupt, ignore, place_of

pytestmark = pytest.mark.usefixtures("_forget_data")

MORE = "evaluate.attacks=[{name: pgd, steps: 1}, {name: fgsm}]"
BACK = "put the old data back"


@pytest.fixture
def study(root: Path) -> dict[str, Any]:
    """One dedicated model on images in folders."""
    evaluate = {**TINY["evaluate"], "held_out_images": 0}
    data = {"name": "imagefolder", "root": str(root)}
    return {**TINY, "data": data, "methods": [{"name": "pgd_at"}], "evaluate": evaluate}


def _trial(study: dict[str, Any], storage: Path, *overrides: str) -> PlannedTrial:
    return plan_of(study, storage, *overrides).trials[-1]


def _run(trial: PlannedTrial, storage: Path, report: Any = ignore) -> dict[str, Any]:
    load.cache_clear()  # as a new process would
    return dict(run_trial(json.loads(json.dumps(trial.job)), place_of(trial, storage), report))


def _files(trial: PlannedTrial, storage: Path) -> dict[str, bytes]:
    place = place_of(trial, storage)
    return {name: place.read(name) for name in place.names() if name != "failure.json"}


def _is_refused(outcome: dict[str, Any], root: Path, then: str, *words: str) -> None:
    assert (outcome["status"], outcome["kind"]) == ("failed", "data")
    for word in (then, fingerprint_of(root), BACK, "`name`", *words):
        assert word in outcome["error"]
    assert "\n" not in outcome["error"]


@pytest.mark.parametrize("change", CHANGES)
def test_a_finished_model_is_not_judged_on_other_images_than_its_own(
    change: str, study: dict[str, Any], root: Path, tmp_path: Path
) -> None:
    trial, then = _trial(study, tmp_path), fingerprint_of(root)
    trained = _run(trial, tmp_path)["trained"]
    assert trained["data_fingerprint"] == then
    more, before = _trial(study, tmp_path, MORE), _files(trial, tmp_path)
    shutil.copytree(root, tmp_path / "kept")
    CHANGES[change](root)
    _is_refused(_run(more, tmp_path), root, then, trial.run_key)
    assert _files(trial, tmp_path) == before
    assert _trial(study, tmp_path, MORE).state == "failed"
    shutil.rmtree(root)
    shutil.copytree(tmp_path / "kept", root)
    assert _run(more, tmp_path)["status"] == "done"
    rows, _ = read_points(place_of(trial, tmp_path), trained["training_id"])
    assert [row["data_fingerprint"] for row in rows] == [then] * 2


@pytest.mark.parametrize(
    "override", ["evaluate.held_out_images=4", "evaluate.masking_images=4", "evaluate.images=4"]
)
def test_nor_on_held_out_images_nor_checked_for_masked_gradients(
    override: str, study: dict[str, Any], root: Path, tmp_path: Path
) -> None:
    trial, then = _trial(study, tmp_path), fingerprint_of(root)
    _run(trial, tmp_path)
    CHANGES["all images"](root)
    _is_refused(_run(_trial(study, tmp_path, override), tmp_path), root, then, trial.run_key)


def _forget(record: bytes) -> bytes:
    """Return a record of a training as an earlier version wrote it."""
    known = unseal(record)
    del known["trained"]["data_fingerprint"]
    return json.dumps(seal(known)).encode()


def test_an_older_record_is_told_by_its_provenance(
    study: dict[str, Any], root: Path, tmp_path: Path
) -> None:
    trial, then = _trial(study, tmp_path), fingerprint_of(root)
    _run(trial, tmp_path)
    place = place_of(trial, tmp_path)
    place.write("result.json", _forget(place.read("result.json")))
    CHANGES["all images"](root)
    more = _trial(study, tmp_path, MORE)
    _is_refused(_run(more, tmp_path), root, then, trial.run_key)
    place.write("provenance.json", b"damaged")
    assert _run(more, tmp_path)["status"] == "done"  # nothing tells any more


def test_a_checkpoint_goes_on_with_its_own_data_alone(
    study: dict[str, Any], root: Path, tmp_path: Path
) -> None:
    trial, then = _trial(study, tmp_path, "train.epochs=2"), fingerprint_of(root)
    with pytest.raises(KeyboardInterrupt):
        _run(trial, tmp_path, Interrupt("epoch", 1))
    shutil.copytree(root, tmp_path / "kept")
    CHANGES["only one class"](root)
    before = _files(trial, tmp_path)
    _is_refused(_run(trial, tmp_path), root, then, trial.run_key)
    assert _files(trial, tmp_path) == before
    shutil.rmtree(root)
    shutil.copytree(tmp_path / "kept", root)
    told: list[dict[str, Any]] = []
    assert _run(trial, tmp_path, told.append)["status"] == "done"
    assert [record["epoch"] for record in told if record["kind"] == "epoch"] == [2]


ENDS = "{name: pgd_at, lam: [0, 1]}"
START = "{name: pgd_at, lam: 0.5, start: {from: 'pgd_at λ=1', epochs: 1}}"
PAIR = "of: ['pgd_at λ=0', 'pgd_at λ=1']"
TRANSFER = ("methods=[{name: pgd_at, lam: [0, 1]}]", "evaluate.attacks=[{name: transfer}]")


@pytest.mark.parametrize(
    ("overrides", "source"),
    [
        ((f"methods=[{ENDS}, {START}]",), "pgd_at λ=1"),
        ((f"methods=[{ENDS}, {{name: mix, {PAIR}}}]",), "pgd_at λ=0"),
        ((f"methods=[{ENDS}, {{name: interpolate, {PAIR}}}]",), "pgd_at λ=0"),
        (TRANSFER, ""),
    ],
    ids=["start", "mix", "interpolate", "transfer"],
)
def test_a_model_is_not_made_from_or_judged_by_models_of_other_data(
    overrides: tuple[str, ...], source: str, study: dict[str, Any], root: Path, tmp_path: Path
) -> None:
    *others, trial = plan_of(study, tmp_path, *overrides).trials
    then = fingerprint_of(root)
    for other in others:
        _run(other, tmp_path)
    CHANGES["only the test images"](root)
    key = next(t.run_key for t in others if t.label == (source or t.label))
    _is_refused(_run(trial, tmp_path), root, then, source, key)


def test_what_is_made_anew_takes_the_data_as_they_are(
    study: dict[str, Any], root: Path, tmp_path: Path
) -> None:
    trial = _trial(study, tmp_path)
    _run(trial, tmp_path)
    CHANGES["all images"](root)
    place_of(trial, tmp_path).write("model.safetensors", b"damaged")
    outcome = _run(trial, tmp_path)
    assert outcome["trained"]["data_fingerprint"] == fingerprint_of(root)
