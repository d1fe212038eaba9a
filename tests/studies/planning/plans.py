"""What the tests of expand share."""

from copy import deepcopy
from pathlib import Path
from typing import Any

from studies.planning.expand import make_plan
from studies.planning.plan import Plan
from studies.storage.local import LocalFolder
from studies.study_file.loading import load_study


def plan_of(source: dict[str, Any], storage: Path, *overrides: str) -> Plan:
    study = load_study(deepcopy(source), overrides)
    return make_plan(study, LocalFolder(storage / study.name))


def keys_of(source: dict[str, Any], storage: Path, *overrides: str) -> list[str]:
    return [trial.run_key for trial in plan_of(source, storage, *overrides).trials]
