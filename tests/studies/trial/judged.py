"""What the tests of judging share."""

from copy import deepcopy
from pathlib import Path
from typing import Any

from studies.planning.expand import make_plan
from studies.planning.plan import PlannedTrial
from studies.storage.local import LocalFolder
from studies.study_file.loading import load_study
from studies.trial.run import run_trial
from tests.studies.trial.trials import LABELS, place_of

DEDICATED = LABELS[1:]


def trials_of(source: dict[str, Any], storage: Path, *overrides: str) -> dict[str, PlannedTrial]:
    study = load_study(deepcopy(source), overrides)
    plan = make_plan(study, LocalFolder(storage / study.name))
    return {f"{trial.label}#{trial.seed}": trial for trial in plan.trials}


def trial_of(source: dict[str, Any], label: str, storage: Path, *overrides: str) -> PlannedTrial:
    return trials_of(source, storage, *overrides)[f"{label}#0"]


def run_and_read(trial: PlannedTrial, storage: Path) -> list[dict[str, Any]]:
    """Run a trial to its end; return what it reported."""
    told: list[dict[str, Any]] = []
    outcome = run_trial(trial.job, place_of(trial, storage), told.append)
    assert outcome["status"] == "done", outcome
    return told
