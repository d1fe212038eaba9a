"""Names of points are those of the study file as it is now; what they are of does not change."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import studies
from studies.errors import StudyError
from studies.planning.expand import make_plan
from studies.results.shown import brief
from studies.storage.local import LocalFolder
from studies.study_file.loading import load_study
from studies.study_file.study import Study
from tests.studies.conftest import FinishTrial, MakeUp

NETWORK = {"name": "resnet8", "width": 4}


def _outside(tiny: dict[str, Any], place: Path, *titles: str, **changed: Any) -> Study:
    """Return the tiny study with networks from outside, each a file of its own."""
    entries = []
    for number, title in enumerate(titles):
        path = place / f"{number}.pt"
        path.write_bytes(bytes([number]))
        entries.append({"name": "checkpoint", "path": str(path), "model": NETWORK, "title": title})
    return load_study({**tiny, **changed, "methods": [*tiny["methods"], *entries]})


def _accuracies(study: Study, storage: Path) -> dict[str, float]:
    found = studies.compare(study, storage=storage).outside
    return dict(zip(found["name"], found["sa"], strict=True))


def test_titles_that_were_the_wrong_way_round_can_be_put_right(
    tiny: dict[str, Any], make_up: MakeUp, tmp_path: Path
) -> None:
    first = _outside(tiny, tmp_path, "Alpha", "Beta")
    make_up(first, tmp_path)
    before = _accuracies(first, tmp_path)
    assert before["Alpha"] != before["Beta"]
    swapped = _outside(tiny, tmp_path, "Beta", "Alpha")
    assert not make_plan(swapped, LocalFolder(tmp_path / "tiny")).to_run()
    after = _accuracies(swapped, tmp_path)
    assert after == {"Alpha": before["Beta"], "Beta": before["Alpha"]}


def test_seeds_of_a_model_stay_together_when_the_label_of_its_source_changes(
    tiny: dict[str, Any], make_up: MakeUp, finish_trial: FinishTrial, tmp_path: Path
) -> None:
    def study(said: bool, seeds: list[int]) -> Study:
        own, label = ({"train": {"lr": 0.1}}, " lr=0.1") if said else ({}, "")
        ends = [f"pgd_at λ=0{label}", f"pgd_at λ=1{label}"]
        methods = [
            {"name": "oat", "lambda_choices": [0, 1]},
            {"name": "pgd_at", "lam": [0, 1], **own},
            {"name": "mix", "of": ends, "alphas": [0.5]},
            {"name": "pgd_at", "lam": [0.5], "start": {"from": ends[1], "epochs": 1}},
        ]
        train = {**tiny["train"], "lr": 0.1}
        return load_study({**tiny, "train": train, "seeds": seeds, "methods": methods})

    make_up(study(True, [0]), tmp_path)
    dropped, folder = study(False, [0, 1]), LocalFolder(tmp_path / "tiny")
    for trial in make_plan(dropped, folder).trials:
        if trial.state != "done":
            assert trial.seed == 1
            finish_trial(folder, trial)
    cells = studies.compare(dropped, storage=tmp_path).cells
    assert set(cells["seeds"]) == {2}


def test_the_name_of_an_attack_follows_the_radius_of_training(
    tiny: dict[str, Any], finish_trial: FinishTrial, tmp_path: Path
) -> None:
    folder = LocalFolder(tmp_path / "tiny")
    judged = {**tiny["evaluate"], "attacks": [{"steps": 1, "eps": [0.1, 0.2]}]}
    for eps in (0.1, 0.2):
        attack = {"eps": eps, "steps": 1}
        study = _outside(tiny, tmp_path, "theirs", attack=attack, evaluate=judged)
        for trial in make_plan(study, folder).to_run():
            finish_trial(folder, trial)
        points = studies.points(study, storage=tmp_path)
        own = points[points["method"] == "checkpoint"]
        assert dict(zip(own["attack"], own["eps"], strict=True))["pgd1"] == eps
        assert len(studies.compare(study, storage=tmp_path).outside)


def test_the_same_network_twice_is_refused(tiny: dict[str, Any], tmp_path: Path) -> None:
    copies = [tmp_path / "one.pt", tmp_path / "two.pt"]
    for path in copies:
        path.write_bytes(b"the same")
    entries = [{"name": "checkpoint", "path": str(p), "model": NETWORK} for p in copies]
    study = load_study({**tiny, "methods": [*tiny["methods"], *entries]})
    said = "lists the same network twice, as 'checkpoint one' and 'checkpoint two'; leave one out"
    with pytest.raises(StudyError, match=said):
        make_plan(study, LocalFolder(tmp_path / "tiny"))


def test_models_with_settings_of_their_own_are_told_apart_in_the_brief_table(
    tiny: dict[str, Any], make_up: MakeUp, tmp_path: Path
) -> None:
    entries = [{"name": "pgd_at", "lam": 1}, {"name": "pgd_at", "lam": 1, "train": {"lr": 0.02}}]
    study = load_study({**tiny, "methods": [tiny["methods"][0], *entries]})
    make_up(study, tmp_path)
    shown = pd.DataFrame(brief(studies.points(study, storage=tmp_path)))
    assert sorted(shown.loc[shown["variant"] == "pgd_at", "recipe"]) == ["", "lr=0.02"]
