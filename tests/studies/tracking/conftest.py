import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from tests.studies.tracking.tracked import finish, plan_of


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that MLflow has set up, which takes it seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def fresh(storage: Path, empty_database: Path) -> Path:
    """The finished tiny study beside a database that knows nothing of it."""
    shutil.copy(empty_database, storage / "mlflow.db")
    return storage


@pytest.fixture
def synced(fresh: Path, tiny: dict[str, Any]) -> Path:
    """The finished tiny study beside a database that has all of it."""
    finish(plan_of(tiny, fresh), fresh)
    return fresh
