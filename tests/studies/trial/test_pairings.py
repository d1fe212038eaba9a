"""Trials that pair two trained models, from their folders to their points."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

import studies
from studies.planning.plan import PlannedTrial
from studies.results.reading import read_trial
from studies.storage.sealed import unseal
from studies.study_file.loading import load_study
from studies.trial.records import read_failure
from studies.trial.run import run_trial
from studies.trial.weights import weights_file
from tests.studies.conftest import TrainAll
from tests.studies.planning.plans import plan_of
from tests.studies.trial.trials import ignore, place_of

STARTED = "pgd_at start=pgd_at:λ=0 epochs=1 λ=1"
PAIRINGS = ["mix", "interpolate"]
METHODS = [
    {"name": "pgd_at", "lam": [0, 1]},
    {"name": "pgd_at", "lam": 1, "start": {"from": "pgd_at λ=0", "epochs": 1}},
]
OVERRIDES = (
    "train.epochs=2",
    "train.ema=0.9",
    "evaluate.checkpoints=[last, averaged, chosen]",
    "evaluate.masking_images=10",
    "evaluate.attacks=[{steps: 2}, {name: fgsm}]",
)
ALPHAS = [0.0, 0.5, 1.0]


def _study(tiny: dict[str, Any], name: str, alphas: list[float]) -> dict[str, Any]:
    pairing = {"name": name, "of": ["pgd_at λ=0", STARTED], "alphas": alphas}
    return {**tiny, "methods": [*METHODS, pairing]}


@pytest.fixture(scope="module", params=PAIRINGS)
def pairing(request: pytest.FixtureRequest) -> str:
    """Each method that pairs two models."""
    return str(request.param)


@pytest.fixture(scope="module")
def finished_pair(
    pairing: str, tmp_path_factory: pytest.TempPathFactory, train_all: TrainAll, tiny_file: Path
) -> Path:
    """A storage folder in which a study with a pair is finished; not to be written."""
    storage = tmp_path_factory.mktemp(pairing)
    source = _study(load_study(tiny_file).dump(), pairing, ALPHAS)
    train_all(load_study(source, OVERRIDES), storage)
    return storage


@pytest.fixture
def planned(tiny: dict[str, Any], pairing: str, finished_pair: Path) -> list[PlannedTrial]:
    """The trials of that study: both ends from scratch, the started one, the pair."""
    return list(plan_of(_study(tiny, pairing, ALPHAS), finished_pair, *OVERRIDES).trials)


def test_a_pair_is_finished_without_training(
    planned: list[PlannedTrial], finished_pair: Path
) -> None:
    pair = planned[-1]
    assert pair.state == "done"
    assert pair.units == 0
    names = place_of(pair, finished_pair).names()
    assert {weights_file(rule) for rule in ("last", "averaged", "chosen")} <= set(names)
    assert "epochs.jsonl" not in names
    result = unseal(place_of(pair, finished_pair).read("result.json"))
    assert result["trained"]["device_seconds"] == result["trained"]["train_units"] == 0
    assert set(result["trained"]["sources"]) == set(pair.sources.values())
    for rule, known in result["trained"]["weights"].items():
        data = place_of(pair, finished_pair).read(weights_file(rule))
        assert hashlib.sha256(data).hexdigest() == known["sha256"]


def _points(trial: PlannedTrial, storage: Path) -> tuple[list[dict[str, Any]], Any]:
    rows, correct = read_trial(
        place_of(trial, storage), [point["point_key"] for point in trial.job["points"]]
    )
    return [dict(row) for row in rows], correct


def test_a_pair_is_at_its_ends_what_the_ends_are_image_for_image(
    planned: list[PlannedTrial], finished_pair: Path
) -> None:
    first, _, second, pair = planned
    rows, correct = _points(pair, finished_pair)
    for lam, end in ((0.0, first), (1.0, second)):
        theirs, right = _points(end, finished_pair)
        for other in theirs:
            (row,) = (
                one
                for one in rows
                if (one["lam"], one["checkpoint_rule"], one["attack"])
                == (lam, other["checkpoint_rule"], other["attack"])
            )
            same = ("sa", "ra", "flops", "deployed_bytes", "budget", "attack_settings")
            assert [row[name] for name in same] == [other[name] for name in same]
            for kind in ("clean", "robust"):
                mine = correct[f"{row['point_key']}.{kind}"]
                assert (mine == right[f"{other['point_key']}.{kind}"]).all()


def test_a_pair_costs_each_training_behind_it_once(
    planned: list[PlannedTrial], finished_pair: Path
) -> None:
    """The second end was started from the first: two trainings, and not that of λ = 1."""
    first, _, second, pair = planned
    rows = {trial.label: _points(trial, finished_pair)[0][0] for trial in (first, second)}
    for row in _points(pair, finished_pair)[0]:
        for name in ("train_units", "train_gradients", "train_device_seconds"):
            wanted = sum(other[name] for other in rows.values())
            assert row[name] == pytest.approx(wanted), name
        for name in ("parameters", "network_bytes"):
            assert row[name] == 2 * rows[first.label][name]


def test_a_pair_is_checked_for_masked_gradients_at_every_weight(
    planned: list[PlannedTrial], finished_pair: Path
) -> None:
    checks = place_of(planned[-1], finished_pair).read("checks.jsonl").splitlines()
    found = [(unseal(line)["checkpoint_rule"], unseal(line)["lam"]) for line in checks]
    assert sorted(found) == [(r, a) for r in ("averaged", "chosen", "last") for a in ALPHAS]


def test_more_weights_are_judged_by_the_same_trial_without_joining_anew(
    tiny: dict[str, Any], pairing: str, tmp_path: Path, train_all: TrainAll
) -> None:
    few, more = (_study(tiny, pairing, alphas) for alphas in ([0.5], [0.5, 0.25]))
    train_all(load_study(few), tmp_path)
    before = plan_of(few, tmp_path).trials[-1]
    weights = place_of(before, tmp_path).read("model.safetensors")
    known, _ = _points(before, tmp_path)
    after = plan_of(more, tmp_path).trials
    assert [trial.state for trial in after] == ["done"] * 3 + ["evaluate"]
    assert after[-1].run_key == before.run_key
    for source in before.sources.values():  # they are needed no more
        (tmp_path / "tiny" / "trials" / source / "model.safetensors").unlink()
        (tmp_path / "tiny" / "trials" / source / "result.json").unlink()
    outcome = run_trial(after[-1].job, place_of(before, tmp_path), ignore)
    assert outcome["status"] == "done"
    rows, _ = _points(after[-1], tmp_path)
    assert [row for row in rows if row["lam"] == 0.5] == known
    assert sorted(row["lam"] for row in rows) == [0.25, 0.5]
    assert place_of(before, tmp_path).read("model.safetensors") == weights


def test_a_pair_whose_end_was_trained_anew_is_joined_anew(
    tiny: dict[str, Any], pairing: str, tmp_path: Path, train_all: TrainAll
) -> None:
    source = _study(tiny, pairing, [0.5])
    train_all(load_study(source), tmp_path)
    first, _, second, pair = plan_of(source, tmp_path).trials
    known = json.loads(place_of(pair, tmp_path).read("result.json"))["trained"]["training_id"]
    for name in place_of(second, tmp_path).names():
        place_of(second, tmp_path).remove(name)
    states = [trial.state for trial in plan_of(source, tmp_path).trials]
    assert states == ["done", "done", "missing", "done"]
    train_all(load_study(source), tmp_path)
    trials = plan_of(source, tmp_path).trials
    assert [trial.state for trial in trials] == ["done", "done", "done", "damaged"]
    assert trials[-1].reason == "its source was trained anew"
    train_all(load_study(source), tmp_path)
    assert {trial.state for trial in plan_of(source, tmp_path).trials} == {"done"}
    now = json.loads(place_of(pair, tmp_path).read("result.json"))["trained"]
    assert now["training_id"] != known
    assert len(studies.points(source, storage=tmp_path)) == 4
    assert first.run_key in now["sources"]


def test_joining_the_same_models_again_keeps_what_was_judged(
    tiny: dict[str, Any], pairing: str, tmp_path: Path, train_all: TrainAll
) -> None:
    source = _study(tiny, pairing, [0.5])
    train_all(load_study(source), tmp_path)
    pair = plan_of(source, tmp_path).trials[-1]
    known, _ = _points(pair, tmp_path)
    for name in ("result.json", "model.safetensors"):
        place_of(pair, tmp_path).remove(name)
    train_all(load_study(source), tmp_path)
    assert _points(pair, tmp_path)[0] == known


def test_a_pair_of_a_model_that_is_not_there_says_so(
    tiny: dict[str, Any], pairing: str, tmp_path: Path
) -> None:
    *_, pair = plan_of(_study(tiny, pairing, [0.5]), tmp_path).trials
    assert (pair.state, pair.reason) == (
        "waiting",
        "It waits for pgd_at λ=0 seed 0, which is not trained yet.",
    )
    outcome = run_trial(pair.job, place_of(pair, tmp_path), ignore)
    assert outcome["status"] == "failed"
    said = read_failure(place_of(pair, tmp_path))
    first = next(iter(pair.sources.values()))
    assert said is not None
    assert said.partition(" (traceback in ")[0] == (
        f"SourceError: It cannot start: pgd_at λ=0 ({first}) is not trained."
    )
