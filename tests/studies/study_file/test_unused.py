from typing import Any

import pytest

from studies.study_file.loading import load_study, presets
from studies.study_file.unused import without_effect
from tests.studies.study_file.faulty import good_study

RETRAINED = {"methods": [{"name": "pgd_at", "lam": [0, 1]}]}


@pytest.mark.parametrize(
    ("change", "overrides", "told"),
    [
        ({}, [], []),
        ({}, ["train.milestones=[0.6]"], ["`train.milestones`", "multistep", "cosine"]),
        ({}, ["train.gamma=0.2"], ["`train.gamma`", "multistep"]),
        ({}, ["train.gamma=0.2", "train.schedule=multistep"], []),
        ({}, ["train.gamma=0.2", "methods.1.train={schedule: multistep}"], []),
        ({}, ["data.root=/there"], ["`data.root`", "digits"]),
        ({}, ["data={name: cifar10, root: /there}"], []),
        ({}, ["evaluate.lams=[0, 0.5]"], []),
        (RETRAINED, ["evaluate.lams=[0, 0.5]"], ["`evaluate.lams`", "OAT and OATS"]),
    ],
)
def test_a_setting_that_changes_nothing_is_named(
    change: dict[str, Any], overrides: list[str], told: list[str]
) -> None:
    said = without_effect(load_study(good_study() | change, overrides))
    assert len(said) == bool(told)
    assert all(word in sentence for sentence in said for word in told)


@pytest.mark.parametrize("preset", presets())
def test_no_preset_has_a_setting_without_effect(preset: str) -> None:
    assert without_effect(load_study(preset)) == []
