from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from studies.planning.plan import PlannedTrial
from studies.study_file.loading import load_study
from studies.trial.run import run_trial
from tests.studies.conftest import TINY, TrainAll
from tests.studies.trial.trials import ignore, place_of


@pytest.fixture
def tiny(tiny: dict[str, Any]) -> dict[str, Any]:
    """The tiny study without points on held-out images, so that one job means one point."""
    tiny["evaluate"]["held_out_images"] = 0
    return tiny


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, train_all: TrainAll) -> Path:
    """A storage folder in which that study is finished; not to be written."""
    storage = tmp_path_factory.mktemp("finished")
    train_all(load_study(TINY, ["evaluate.held_out_images=0"]), storage)
    return storage


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Run a trial of three epochs to its end, once for all who ask."""
    storage = tmp_path_factory.mktemp("undisturbed")

    def ask(trial: PlannedTrial) -> Path:
        run_trial(trial.job, place_of(trial, storage), ignore)
        return storage

    return ask
