"""A study that trains in seconds, and a storage folder in which it is finished."""

import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from studies.config import Study, load_study
from studies.planning import make_plan
from studies.storage import LocalFolder
from studies.trial import run_trial

TINY: dict[str, Any] = {
    "name": "tiny",
    "data": {"name": "digits", "train_images": 128},
    "model": {"name": "resnet8", "width": 4},
    "train": {"epochs": 1, "batch_size": 16, "val_images": 32},
    "attack": {"eps": 0.1, "steps": 1},
    "methods": [
        {"name": "oat", "lambda_choices": [0, 1]},
        {"name": "pgd_at", "lam": [0, 1]},
        {"name": "trades", "beta": [1]},
    ],
    "evaluate": {"attacks": [{"name": "pgd", "steps": 1}], "images": 50},
}

TrainAll = Callable[[Study, Path], None]


def _train_all(study: Study, storage: Path) -> None:
    folder = LocalFolder(storage / study.name)
    for trial in make_plan(study, folder).to_run():
        run_trial(trial.job, folder.sub(f"trials/{trial.run_key}"), lambda _: None)


@pytest.fixture(autouse=True)
def _no_server_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def tiny() -> dict[str, Any]:
    """A study of four trials and five operating points, two of them OAT's; yours to change."""
    return deepcopy(TINY)


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same study as a file."""
    path = tmp_path_factory.mktemp("study") / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


@pytest.fixture(scope="session")
def train_all() -> TrainAll:
    """Run what a study lacks in a storage folder, here and without Ray."""
    return _train_all


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage folder in which the tiny study is finished; not to be written."""
    storage = tmp_path_factory.mktemp("finished")
    _train_all(load_study(TINY), storage)
    return storage


@pytest.fixture
def storage(finished: Path, tmp_path: Path) -> Path:
    """A storage folder in which the tiny study is finished; yours to damage."""
    return Path(shutil.copytree(finished, tmp_path / "storage"))
