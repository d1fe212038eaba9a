"""A study that trains in seconds, and a storage folder in which it is finished."""

import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from studies import api
from studies.comparison import Comparison
from studies.config import Study, load_study
from studies.origin import Origin, gather
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


Found = tuple[Comparison, Origin]


def _found(study: Study, storage: Path) -> Found:
    points = api.points(study, storage=storage)
    folder = LocalFolder(storage / study.name)
    return api.compare(points), gather(make_plan(study, folder), folder, "oat compare tiny")


@pytest.fixture(scope="session")
def found(finished: Path) -> Found:
    """The comparison of the finished tiny study, and where its numbers come from."""
    return _found(load_study(TINY), finished)


@pytest.fixture(scope="session")
def along_widths(tiny_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """The same of a study with OAT, OATS and narrow dedicated models."""
    blocks = (
        "{name: oats, lambda_choices: [0, 1], width_mults: [0.5, 1]}",
        "{name: oat, lambda_choices: [0, 1]}",
        "{name: oat, lambda_choices: [0, 1], encoding: continuous}",
        "{name: pgd_at, lam: 1, width_mults: [0.5, 1]}",
    )
    study = load_study(tiny_file, [f"methods=[{', '.join(blocks)}]"])
    storage = tmp_path_factory.mktemp("along_widths")
    _train_all(study, storage)
    return _found(study, storage)


@pytest.fixture(scope="session")
def renamed() -> Callable[[Comparison, str], Comparison]:
    """Put a text, such as one that must be escaped, before every name of a comparison."""

    def apply(comparison: Comparison, name: str) -> Comparison:
        return replace(
            comparison,
            table=comparison.table.assign(
                dedicated=name + comparison.table["dedicated"],
                once=name + comparison.table["once"],
            ),
            cells=comparison.cells.assign(variant=name + comparison.cells["variant"]),
            fronts=comparison.fronts.assign(front=name + comparison.fronts["front"]),
            notes=[name],
        )

    return apply
