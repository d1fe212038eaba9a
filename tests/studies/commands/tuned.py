"""What the tests of tune share."""

from typing import Any

import optuna
from optuna.storages import RDBStorage

from studies.study_file.loading import load_study
from studies.tuning.candidates import tuned_methods
from studies.tuning.database import open_search


def open_of(source: dict[str, Any], database: RDBStorage, url: str) -> list[optuna.Study]:
    return [open_search(tuned, database, url) for tuned in tuned_methods(load_study(source))]
