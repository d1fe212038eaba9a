import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.studies.tracking.tracked import finish, plan_of


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
