from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oat.data import load
from studies.planning.plan import PlannedTrial
from studies.trial.run import run_trial
from tests.studies.trial.trials import ignore, place_of


@pytest.fixture
def _forget_data() -> Iterator[None]:
    """Let no test read what another one has put in place of the data."""
    yield
    load.cache_clear()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Run a trial of three epochs to its end, once for all who ask."""
    storage = tmp_path_factory.mktemp("undisturbed")

    def ask(trial: PlannedTrial) -> Path:
        run_trial(trial.job, place_of(trial, storage), ignore)
        return storage

    return ask
