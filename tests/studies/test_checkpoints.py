"""Networks from outside: adopted as they are, evaluated like the others, in no verdict."""

import hashlib
import re
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

import studies
from baselines import Checkpoint
from baselines.checkpoint import weights_digest
from oat.data import DataConfig, load
from oat.models import ModelConfig, build
from studies.comparison.answer import Comparison
from studies.comparison.comparing import compare
from studies.driver import nodes
from studies.driver.checks import check_evaluation, check_own_code
from studies.driver.node_checks import judge_node
from studies.driver.same_data import KnownData
from studies.errors import ComparisonError, StudyError, TuningError
from studies.planning.expand import make_plan
from studies.report.figures import paper_figure
from studies.report.origin import Origin
from studies.report.page import render_page
from studies.results.reading import study_points
from studies.storage.local import LocalFolder
from studies.study_file.loading import load_study
from studies.study_file.study import Study
from studies.trial.run import run_trial
from studies.tuning.candidates import tuned_methods

MODEL = {"name": "resnet8", "width": 4}


def _network(seed: int = 0, width: int = 4) -> torch.nn.Module:
    torch.manual_seed(seed)
    network: torch.nn.Module = build(
        ModelConfig("resnet8", width=width), in_channels=1, num_classes=10
    )
    return network.eval()


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "theirs.pt"
    torch.save(_network().state_dict(), path)
    return path


def _study(tiny: dict[str, Any], *entries: dict[str, Any], **more: Any) -> Study:
    data = {"name": "digits", "train_images": 300}
    methods = [*tiny["methods"], *entries]
    return load_study({**tiny, "data": data, "methods": methods, **more})


def _run(study: Study, folder: LocalFolder) -> None:
    for trial in make_plan(study, folder).trials:
        if trial.label.startswith("checkpoint"):
            outcome = run_trial(trial.job, folder.sub(f"trials/{trial.run_key}"), lambda said: None)
            assert outcome["status"] == "done", outcome


@pytest.mark.parametrize("form", ["state dict", "nested and wrapped", "safetensors"])
def test_its_accuracy_is_that_of_the_network_whose_weights_the_file_holds(
    form: str, weights: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    state, path = _network().state_dict(), weights
    if form == "nested and wrapped":
        torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    elif form == "safetensors":
        path = weights.with_suffix(".safetensors")
        save_file(state, path)
    study = _study(tiny, {"name": "checkpoint", "path": path.name, "model": MODEL, "title": "A b"})
    folder = LocalFolder(tmp_path / "out")
    _run(study, folder)
    points = study_points(make_plan(study, folder), folder)
    own = points[points["method"] == "checkpoint"]
    assert set(own["variant"]) == {"checkpoint A-b"}
    assert own[["lam", "beta", "train_device_seconds", "train_units"]].isna().all(axis=None)
    test = load(DataConfig("digits", train_images=300)).test.head(study.evaluate.images)
    with torch.no_grad():
        right = _network()(test.images.float() / 255).argmax(1) == test.labels
    assert own["sa"].iloc[0] == pytest.approx(right.double().mean().item())
    again = make_plan(study, folder)
    assert {t.state for t in again.trials if t.label.startswith("checkpoint")} == {"done"}


def test_several_seeds_judge_it_once_and_another_file_is_another_network(
    weights: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    entry = {"name": "checkpoint", "path": "theirs.pt", "model": MODEL}
    study, folder = _study(tiny, entry, seeds=[0, 1, 2]), LocalFolder(tmp_path / "out")

    def keys(study: Study) -> list[str]:
        trials = make_plan(study, folder).trials
        return [trial.run_key for trial in trials if trial.label == "checkpoint theirs"]

    (key,) = keys(study)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "theirs.pt").write_bytes(weights.read_bytes())
    moved = _study(tiny, {**entry, "path": str(elsewhere / "theirs.pt")}, seeds=[0, 1, 2])
    assert keys(moved) == [key]
    longer = _study(tiny, entry, seeds=[0], train={**tiny["train"], "epochs": 9})
    assert keys(longer) == [key]  # it is not trained
    job = next(t.job for t in make_plan(study, folder).trials if t.run_key == key)
    titled = _study(tiny, {**entry, "title": "Theirs"}, seeds=[1, 0])
    named = {trial.run_key for trial in make_plan(titled, folder).trials if "Theirs" in trial.label}
    assert named == {key}  # neither its name nor the order of seeds makes another network of it
    torch.save(_network(seed=1).state_dict(), weights)
    assert keys(study) != [key]
    done = run_trial(job, folder.sub(f"trials/{key}"), lambda said: None)
    assert done["status"] == "failed"
    assert "has changed since the trial was planned; give the command again" in str(done["error"])


def test_once_it_is_adopted_its_file_is_not_needed_and_every_rule_can_be_evaluated(
    weights: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    entry = {"name": "checkpoint", "path": "theirs.pt", "model": MODEL}
    study, folder = _study(tiny, entry), LocalFolder(tmp_path / "out" / tiny["name"])
    _run(study, folder)
    train = {**tiny["train"], "ema": 0.9}
    more = {**tiny["evaluate"], "checkpoints": ["last", "averaged", "chosen"]}
    longer = _study(tiny, entry, train=train, evaluate=more)
    _run(longer, folder)
    points = study_points(make_plan(longer, folder), folder)
    own = points[points["method"] == "checkpoint"]
    assert set(own["checkpoint_rule"]) == {"last", "averaged", "chosen"}
    assert own["sa"].nunique() == 1
    moved = tmp_path / "moved.pt"
    weights.rename(moved)
    again = _study(tiny, {**entry, "path": str(moved), "title": "theirs"})
    model = studies.load_model(again, "checkpoint theirs", storage=tmp_path / "out")
    images = torch.rand(3, *model.image_shape)
    assert torch.allclose(model.at()(images), _network()(images), atol=1e-5)


def test_two_of_one_name_are_refused(weights: Path, tiny: dict[str, Any]) -> None:
    (weights.parent / "a").mkdir()
    other = weights.parent / "a" / weights.name
    torch.save(_network(seed=1).state_dict(), other)
    entries = [{"name": "checkpoint", "path": str(p), "model": MODEL} for p in (weights, other)]
    with pytest.raises(StudyError, match="2 networks are called 'checkpoint theirs'; give each a"):
        _study(tiny, *entries)
    _study(tiny, entries[0], {**entries[1], "title": "other"})


def test_with_transfer_it_is_attacked_from_the_models_of_the_first_seed(
    weights: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    entry = {"name": "checkpoint", "path": "theirs.pt", "model": MODEL}
    evaluate = {**tiny["evaluate"], "attacks": [{"name": "transfer"}]}
    study = _study(tiny, entry, seeds=[3, 4], evaluate=evaluate)
    trials = make_plan(study, LocalFolder(tmp_path / "out")).trials
    (own,) = (trial for trial in trials if trial.label.startswith("checkpoint"))
    first = {t.run_key for t in trials if t.seed == 3 and t.label.startswith(("pgd_at", "trades"))}
    assert set(own.job["points"][0]["sources"]) == first


OUTSIDE = """
from torch import nn

def net(in_channels, num_classes, classes=10):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
"""


def test_a_network_of_other_classes_is_refused_before_anything_starts_and_in_the_worker(
    weights: Path, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", sys.path.copy())
    (tmp_path / "outside_net.py").write_text(OUTSIDE)
    model = {"name": "outside_net:net", "args": {"classes": 1000}}
    study = _study(tiny, {"name": "checkpoint", "model": model})
    (check,) = check_own_code(study, (1, 8, 8), 10)
    assert "must give logits of shape (4, 10) for 4 images of shape (1, 8, 8), got (4, 1000)" in (
        check.said
    )
    folder = LocalFolder(tmp_path / "out")
    (trial,) = (t for t in make_plan(study, folder).trials if t.label.startswith("checkpoint"))
    outcome = run_trial(trial.job, folder.sub(f"trials/{trial.run_key}"), lambda said: None)
    assert outcome["status"] == "failed"
    assert "gives logits of shape (2, 1000) for 2 images; the data have 10 classes" in str(
        outcome["error"]
    )


FILES: dict[str, tuple[Any, str]] = {
    "a tensor is missing": (
        lambda state: {k: v for k, v in state.items() if k != "head.bias"},
        r"it lacks the tensor 'head.bias' \(1 in all\)",
    ),
    "a tensor too many": (
        lambda state: {**state, "more": torch.zeros(1)},
        "it has the tensor 'more', which the network has not",
    ),
    "another width": (
        lambda state: _network(width=8).state_dict(),
        r"its tensor 'stem.conv.weight' has the shape \(8, 1, 3, 3\), the network's has \(4, 1, ",
    ),
    "not finite": (
        lambda state: {**state, "head.bias": torch.full((10,), float("nan"))},
        "its tensor 'head.bias' has values that are not finite",
    ),
    "no state dict": (lambda state: [1, 2], "must hold a state dict, names and tensors; got list"),
    "a training's whole state": (
        lambda state: {"optimizer": {}, "weights": state},
        r'names and tensors; got dict \["optimizer", "weights"\]',
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_does_not_fit_is_told_by_its_tensor(
    case: str, weights: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    make, said = FILES[case]
    torch.save(make(_network().state_dict()), weights)
    assert pd.Series([_failure(tiny, tmp_path)]).str.contains(said).all(), _failure(tiny, tmp_path)
    study = _study(tiny, {"name": "checkpoint", "path": "theirs.pt", "model": MODEL})
    first, *_ = check_evaluation(study, KnownData("", {}))
    assert first.state == "failed"
    assert re.search(said, first.said), first.said


def test_a_file_of_code_is_not_run(weights: Path, tiny: dict[str, Any], tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "it has run",)

    torch.save({"weight": Evil()}, weights)
    assert "cannot be read (UnpicklingError" in _failure(tiny, tmp_path)
    weights.write_bytes(b"no weights")
    assert "it cannot be read" in _failure(tiny, tmp_path)
    assert not (tmp_path / "it has run").exists()


def _failure(tiny: dict[str, Any], tmp_path: Path) -> str:
    study = _study(tiny, {"name": "checkpoint", "path": "theirs.pt", "model": MODEL})
    folder = LocalFolder(tmp_path / "out")
    (trial,) = (t for t in make_plan(study, folder).trials if t.label.startswith("checkpoint"))
    outcome = run_trial(trial.job, folder.sub(f"trials/{trial.run_key}"), lambda said: None)
    assert outcome["status"] == "failed"
    assert outcome["kind"] == "data"
    return str(outcome["error"])


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({}, "`model` must name the network"),
        ({"model": {"name": "resnet8"}}, "`path` must name the file of the weights of 'resnet8'"),
        ({"model": {"name": "resnet9"}, "path": "theirs.pt"}, "`model`: Unknown model 'resnet9'"),
        ({"model": {**MODEL, "depth": 3}, "path": "theirs.pt"}, "a key that no network has"),
        ({"model": MODEL, "path": "none.pt"}, "there is none at 'none.pt'"),
        ({"model": MODEL, "path": "theirs.pt", "train": {"lr": 1}}, "which trains nothing"),
        ({"model": MODEL, "path": "theirs.pt", "lam": 1}, "Unknown key"),
    ],
)
def test_what_is_wrong_with_an_entry_is_one_sentence(
    entry: dict[str, Any], said: str, weights: Path, tiny: dict[str, Any]
) -> None:
    with pytest.raises(StudyError) as refused:
        _study(tiny, {"name": "checkpoint", **entry})
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_dedicated_model_cannot_start_from_it_nor_transfer_images_from_it(
    weights: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    entry = {"name": "checkpoint", "path": "theirs.pt", "model": MODEL}
    start = {"name": "pgd_at", "lam": 0.5, "start": {"from": "checkpoint theirs", "epochs": 1}}
    with pytest.raises(StudyError, match="got 'checkpoint theirs', which was trained elsewhere"):
        _study(tiny, entry, start)
    attacks = [{"name": "transfer"}]
    study = _study(tiny, entry, evaluate={**tiny["evaluate"], "attacks": attacks})
    trials = make_plan(study, LocalFolder(tmp_path / "out")).trials
    outside = next(t.run_key for t in trials if t.label == "checkpoint theirs")
    assert all(outside not in p["sources"] for t in trials for p in t.job["points"])


def test_a_node_without_the_file_or_with_another_is_named(
    weights: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    entry = {"name": "checkpoint", "path": weights.name, "model": MODEL}
    study, folder = _study(tiny, entry), LocalFolder(tmp_path / "storage")
    folder.write("marker", b"")
    assert study.weights_outside() == (str(weights),)
    told = nodes._look_around(
        study.data, folder.uri, "marker", study.own_code(), study.weights_outside()
    )
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:12]
    assert told["files"] == {str(weights): digest}

    def said_of(there: str) -> tuple[str, str]:
        answer: Any = {"name": "node 10.0.0.7", **told, "files": {str(weights): there}}
        checks = judge_node(study, folder, answer, time.time(), KnownData("", {}))
        (check,) = (check for check in checks if check.name == "node 10.0.0.7: weights")
        return check.state, check.said

    assert said_of(digest) == ("ok", f"{weights} {digest}")
    state, said = said_of("0123456789ab")
    assert state == "failed"
    assert f"has another file there (0123456789ab there, {digest} here)" in said
    weights.rename(tmp_path / "elsewhere")
    reason = weights_digest(str(weights))
    weights.parent.joinpath("elsewhere").rename(weights)
    state, said = said_of(reason)
    assert state == "failed"
    assert "cannot read it (No such file or directory); give every node the same file." in said


def test_tuning_refuses_a_network_that_is_trained_elsewhere(
    weights: Path, tunable: dict[str, Any]
) -> None:
    entry = {"name": "checkpoint", "path": "theirs.pt", "model": MODEL}
    space = {"oat": {"dual_bn": {"choices": [True, False]}}}
    tune = {**tunable["tune"], "space": space}
    study = load_study({**tunable, "methods": [*tunable["methods"], entry], "tune": tune})
    with pytest.raises(TuningError, match="trained from scratch to be tuned, got checkpoint thei"):
        tuned_methods(study)


def _as_outside(points: pd.DataFrame, **values: Any) -> pd.DataFrame:
    row = points.iloc[[0]].assign(
        method="checkpoint", variant="checkpoint theirs", run_key="f" * 12, point_key="e" * 12,
        lam=float("nan"), beta=float("nan"), sa=0.999, ra=0.998, budget="none",
        train_device_seconds=float("nan"), train_units=float("nan"), **values,
    )  # fmt: skip
    return pd.concat([points, row], ignore_index=True)


def test_a_better_network_from_outside_changes_no_number_of_the_comparison(
    finished: Path, tiny_file: Path
) -> None:
    points = studies.points(tiny_file, storage=finished)
    alone, beside = compare(points), compare(_as_outside(points))
    (row,) = beside.outside.to_dict("records")
    assert (row["name"], row["sa"], row["ra"]) == ("theirs", 0.999, 0.998)
    assert row["sa_low"] < 0.999 < row["sa_high"]
    assert beside.answer() == alone.answer()
    for name in ("table", "same_knob", "fronts", "cells", "nearest", "masking"):
        pd.testing.assert_frame_equal(getattr(beside, name), getattr(alone, name))
    told = [note for note in beside.notes if note not in alone.notes]
    assert len(told) == 1
    assert told[0].startswith("Networks from outside, not trained like OAT and in no verdict")
    lacking = compare(_as_outside(points, checkpoint_rule="chosen"))  # not evaluated yet
    assert lacking.outside.empty
    assert lacking.answer() == alone.answer()
    other = compare(_as_outside(points, attack_settings="another"))
    assert other.outside.empty
    assert any("not evaluated like the models of the study: theirs" in note for note in other.notes)


def test_two_networks_of_one_title_in_two_studies_are_two_rows(
    finished: Path, tiny_file: Path
) -> None:
    points = _as_outside(studies.points(tiny_file, storage=finished))
    other = points.iloc[[-1]].assign(run_key="another", point_key="its point", sa=0.8)
    result = compare(pd.concat([points, other], ignore_index=True))
    assert sorted(result.outside["sa"]) == [0.8, 0.999]
    assert set(result.outside["name"]) == {"theirs"}
    assert all(f"SA {said} " in str(result) for said in ("80.0", "99.9"))


def test_it_is_drawn_and_tabled_apart(
    finished: Path, tiny_file: Path, found: tuple[Comparison, Origin]
) -> None:
    points = _as_outside(studies.points(tiny_file, storage=finished))
    beside, (alone, origin) = compare(points), found
    texts = [text.get_text() for text in paper_figure(beside, "title").axes[0].texts]
    assert "theirs" in texts
    page = render_page(replace(alone, outside=beside.outside), origin)
    assert "<h2>Networks from outside, in percent</h2>" in page
    assert "from outside (not trained like OAT, in no verdict)" in page
    assert "99.9 [" in page
    assert "Networks from outside" not in render_page(alone, origin)
    assert beside.record()["outside"][0]["name"] == "theirs"


def test_a_study_of_nothing_else_compares_nothing(finished: Path, tiny_file: Path) -> None:
    points = _as_outside(studies.points(tiny_file, storage=finished))
    with pytest.raises(ComparisonError, match="There are only networks from outside"):
        compare(points[points["method"] == "checkpoint"])


def test_its_config_says_what_it_needs() -> None:
    with pytest.raises(ValueError, match="`args` must hold numbers"):
        Checkpoint(path=None, model={"name": {1, 2}})
