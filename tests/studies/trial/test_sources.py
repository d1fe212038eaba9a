"""Trials that start from the weights of others."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from studies.planning.expand import make_plan
from studies.planning.plan import PlannedTrial
from studies.storage.local import LocalFolder
from studies.storage.sealed import unseal
from studies.study_file.loading import load_study
from studies.study_file.study import Study
from studies.trial.checkpoints import Checkpoints
from studies.trial.records import read_failure
from studies.trial.run import run_trial
from tests.studies.planning.plans import plan_of
from tests.studies.trial.trials import Interrupt, ignore, place_of, weights_of

STARTED = "pgd_at start=pgd_at:λ=0 epochs=2 λ=0.5"


@pytest.fixture
def started(tiny: dict[str, Any]) -> dict[str, Any]:
    """A study of a model, and one that starts from it."""
    begins = {"from": "pgd_at λ=0", "epochs": 2}
    methods = [{"name": "pgd_at", "lam": 0}, {"name": "pgd_at", "lam": 0.5, "start": begins}]
    return {**tiny, "methods": methods}


def _run(trial: PlannedTrial, storage: Path, report: Any = ignore) -> dict[str, Any]:
    job = json.loads(json.dumps(trial.job))
    return dict(run_trial(job, place_of(trial, storage), report))


def test_a_started_training_begins_with_the_weights_and_statistics_of_its_source(
    started: dict[str, Any], tmp_path: Path
) -> None:
    """With a rate of almost nothing the weights stay, bit for bit; statistics move on."""
    started["methods"][1]["train"] = {"lr": 1e-30, "weight_decay": 0}
    source, trial = plan_of(started, tmp_path).trials
    before = _run(source, tmp_path)
    outcome = _run(trial, tmp_path)
    assert outcome["trained"]["sources"] == {source.run_key: before["trained"]["training_id"]}
    assert outcome["trained"]["train_units"] < before["trained"]["train_units"] * 2 * 8
    provenance = json.loads(place_of(trial, tmp_path).read("provenance.json"))
    assert provenance["sources"] == outcome["trained"]["sources"]
    (row,) = map(unseal, place_of(trial, tmp_path).read("points.jsonl").splitlines())
    assert row["variant"] == "pgd_at start=pgd_at:λ=0 epochs=2"
    assert (row["method"], row["lam"], row["epochs"]) == ("pgd_at", 0.5, 2)
    ours, theirs = (load(place_of(t, tmp_path).read("model.safetensors")) for t in (trial, source))
    for name, value in ours.items():
        if name.endswith("num_batches_tracked"):  # one pass an epoch there, two passes here
            steps = theirs[name]
            assert value == steps + 2 * 2 * steps
        elif "running" not in name:
            assert torch.equal(value, theirs[name]), name


def test_the_price_of_a_started_training_is_that_of_its_own_epochs(
    started: dict[str, Any], tmp_path: Path
) -> None:
    plain = {**started, "methods": [{"name": "pgd_at", "lam": [0, 0.5]}]}
    plain["train"] = {**started["train"], "epochs": 2}
    scratch = plan_of(plain, tmp_path).trials[1]
    trial = plan_of(started, tmp_path).trials[1]
    assert trial.units == scratch.units
    assert trial.judge_units == scratch.judge_units


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_started_training_that_is_stopped_goes_on_to_the_same_weights(
    epoch: int, started: dict[str, Any], tmp_path: Path
) -> None:
    source, trial = plan_of(started, tmp_path).trials
    _run(source, tmp_path)
    _run(trial, tmp_path)
    whole = weights_of(place_of(trial, tmp_path))
    for name in place_of(trial, tmp_path).names():
        place_of(trial, tmp_path).remove(name)
    with pytest.raises(KeyboardInterrupt):
        _run(trial, tmp_path, Interrupt("epoch", epoch))
    place_of(source, tmp_path).remove("result.json")  # the checkpoint needs no source
    outcome = _run(trial, tmp_path)
    assert outcome["status"] == "done"
    assert list(outcome["trained"]["sources"]) == [source.run_key]
    assert weights_of(place_of(trial, tmp_path)) == whole


def _damage(place: LocalFolder) -> None:
    data = bytearray(place.read("model.safetensors"))
    data[-1] ^= 1
    place.write("model.safetensors", bytes(data))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda place: place.remove("result.json"), "is not trained"),
        (lambda place: place.remove("model.safetensors"), "is damaged"),
        (_damage, "is not what was written"),
    ],
)
def test_a_trial_whose_source_cannot_be_had_says_so_and_is_tried_again(
    spoil: Callable[[LocalFolder], None], words: str, started: dict[str, Any], tmp_path: Path
) -> None:
    source, trial = plan_of(started, tmp_path).trials
    _run(source, tmp_path)
    spoil(place_of(source, tmp_path))
    assert _run(trial, tmp_path)["status"] == "failed"
    assert words in str(read_failure(place_of(trial, tmp_path)))
    place_of(source, tmp_path).remove("result.json")
    _run(source, tmp_path)
    assert _run(trial, tmp_path)["status"] == "done"
    assert read_failure(place_of(trial, tmp_path)) is None


def _train_anew(study: Study, storage: Path, source: PlannedTrial) -> None:
    place = place_of(source, storage)
    for name in place.names():
        place.remove(name)
    _run(source, storage)


def test_a_trial_is_made_anew_from_a_source_that_was_trained_anew(
    started: dict[str, Any], tmp_path: Path
) -> None:
    source, trial = plan_of(started, tmp_path).trials
    _run(source, tmp_path)
    before = _run(trial, tmp_path)["trained"]
    _train_anew(load_study(started), tmp_path, source)
    assert [(t.state, t.reason) for t in plan_of(started, tmp_path).trials] == [
        ("done", None),
        ("damaged", "its source was trained anew"),
    ]
    after = _run(trial, tmp_path)["trained"]
    assert after["training_id"] != before["training_id"]
    assert after["sources"] != before["sources"]
    assert [t.state for t in plan_of(started, tmp_path).trials] == ["done", "done"]


def test_a_checkpoint_of_a_source_that_was_trained_anew_is_not_gone_on_with(
    started: dict[str, Any], tmp_path: Path
) -> None:
    source, trial = plan_of(started, tmp_path).trials
    _run(source, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        _run(trial, tmp_path, Interrupt("epoch", 1))
    state = Checkpoints(place_of(trial, tmp_path)).newest("cpu")
    assert state is not None
    assert list(state["sources"]) == [source.run_key]
    _train_anew(load_study(started), tmp_path, source)
    told: list[dict[str, Any]] = []
    outcome = _run(trial, tmp_path, told.append)
    assert [record["epoch"] for record in told if record["kind"] == "epoch"] == [1, 2]
    assert outcome["trained"]["training_id"] != state["training_id"]


def test_a_source_whose_config_is_damaged_is_known_by_its_weights(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    ends = ["pgd_at λ=0", "pgd_at λ=1"]
    methods = [{"name": "pgd_at", "lam": [0, 1]}, {"name": "mix", "of": ends, "alphas": [0.5]}]
    study, folder = load_study({**tiny, "methods": methods}), LocalFolder(tmp_path / "tiny")

    def run() -> None:
        for trial in make_plan(study, folder).ready():
            run_trial(trial.job, folder.sub(f"trials/{trial.run_key}"), lambda _: None)

    run()
    first, *_, pair = make_plan(study, folder).trials
    folder.write(f"trials/{first.run_key}/config.json", b"")
    run()
    assert {trial.state for trial in make_plan(study, folder).trials} == {"done"}
    assert pair.label.startswith("mix")
