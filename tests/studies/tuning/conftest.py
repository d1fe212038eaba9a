import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage

from studies.storage.local import LocalFolder
from tests.studies.tuning.searches import Driver, MakeDriver, of_of


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture
def one_price(tunable: dict[str, Any]) -> dict[str, Any]:
    """The tunable study with dedicated models of one price: at λ = 0 and 1 there is less to do."""
    tunable["methods"][1]["lam"] = [0.4, 0.6]
    return tunable


@pytest.fixture(scope="session")
def empty_optuna(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database of Optuna, whose making takes a second."""
    path = tmp_path_factory.mktemp("optuna") / "optuna.db"
    RDBStorage(f"sqlite:///{path}")
    return path


@pytest.fixture
def driver(tmp_path: Path, empty_optuna: Path, finish_trial: Callable[..., None]) -> MakeDriver:
    """Make a driver of a study's search in one and the same storage."""

    def make(source: dict[str, Any], method: str = "pgd_at", **options: Any) -> Driver:
        path = tmp_path / "optuna.db"
        if not path.exists():
            shutil.copy(empty_optuna, path)
        folder = LocalFolder(tmp_path / "tiny")
        return Driver(
            of_of(source, method), folder, RDBStorage(f"sqlite:///{path}"), finish_trial, **options
        )

    return make
