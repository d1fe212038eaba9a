"""What the tests of study share."""

from copy import deepcopy
from typing import Any

import pytest
import yaml

from studies.errors import StudyError
from studies.study_file.loading import load_study
from studies.study_file.study import Study

GOOD: dict[str, Any] = {
    "name": "good",
    "data": {"name": "digits"},
    "model": {"name": "resnet8", "width": 4},
    "train": {"epochs": 2},
    "attack": {"eps": "8/255"},
    "methods": [
        {"name": "oat", "lambda_choices": [0, 0.5, 1]},
        {"name": "pgd_at", "lam": [0, 1]},
        {"name": "trades", "beta": [1, 6]},
    ],
    "evaluate": {"attacks": [{"name": "pgd", "steps": 20}]},
    "resources": {"cpu": 1},
}


def good_study() -> dict[str, Any]:
    return deepcopy(GOOD)


def fault_of(source: Any, *overrides: str) -> str:
    """Load what is faulty and return what is said of it."""
    with pytest.raises(StudyError) as caught:
        load_study(source, overrides)
    return str(caught.value)


def says(message: str, words: tuple[str, ...]) -> None:
    """Check that a message is one sentence for people and holds the words."""
    assert "\n" not in message
    assert message.endswith(".")
    for jargon in ("pydantic", "Traceback", "validation error", "Input should"):
        assert jargon not in message
    for word in words:
        assert word in message


def through_yaml_of(study: Study) -> Study:
    return load_study(yaml.safe_load(yaml.safe_dump(study.dump(), allow_unicode=True)))
