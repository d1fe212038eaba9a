"""What the tests of run share."""

import hashlib
from copy import deepcopy
from pathlib import Path
from typing import Any

from studies.planning.expand import make_plan
from studies.planning.plan import PlannedTrial
from studies.results.reading import read_trial
from studies.storage.local import LocalFolder
from studies.study_file.loading import load_study

LABELS = ["oat lambda_choices=(0.0,1.0)", "pgd_at λ=0", "pgd_at λ=1", "trades β=1"]

WIDE = (
    "methods=[{name: oats, lambda_choices: [0, 1], width_mults: [0.5, 1], head_per_width: true}, "
    "{name: pgd_at, lam: 1, width_mults: 0.5}, {name: trades, beta: 1, width_mults: [0.5]}, "
    "{name: oat, lambda_choices: [0, 1], encoding: continuous, lambda_sampling: steep}]",
    "train.ema=0.9",
    "train.label_smoothing=0.1",
    "train.eps_warmup=2",
    "train.clip_norm=1",
    "train.schedule=onecycle",
    "evaluate.checkpoints=[last, averaged, chosen]",
    "evaluate.lams=[0, 1]",
)
"""Overrides that switch on what the paper has beyond OAT, and what makes training better."""

WIDE_LABELS = [
    "oats lambda_choices=(0.0,1.0) width_mults=(0.5,1.0) head_per_width=True",
    "pgd_at λ=1 width=0.5",
    "trades β=1 width=0.5",
    "oat lambda_choices=(0.0,1.0) lambda_sampling=steep encoding=continuous",
]


def trial_of(source: dict[str, Any], label: str, storage: Path, *overrides: str) -> PlannedTrial:
    study = load_study(deepcopy(source), overrides)
    trials = make_plan(study, LocalFolder(storage / study.name)).trials
    (found,) = [trial for trial in trials if trial.label == label]
    return found


def states_of(source: dict[str, Any], storage: Path, *overrides: str) -> dict[str, str]:
    study = load_study(deepcopy(source), overrides)
    trials = make_plan(study, LocalFolder(storage / study.name)).trials
    return {trial.label: trial.state for trial in trials}


def place_of(trial: PlannedTrial, storage: Path) -> LocalFolder:
    return LocalFolder(storage / "tiny" / "trials" / trial.run_key)


def ignore(record: dict[str, Any]) -> None:
    pass


class Interrupt:
    """Stop a trial as Ctrl-C would, at the so-many-th report of a kind."""

    def __init__(self, kind: str, count: int) -> None:
        self.kind, self.left = kind, count

    def __call__(self, record: dict[str, Any]) -> None:
        self.left -= record["kind"] == self.kind
        if not self.left:
            raise KeyboardInterrupt


def weights_of(folder: LocalFolder) -> str:
    return hashlib.sha256(folder.read("model.safetensors")).hexdigest()


def numbers_of(trial: PlannedTrial, folder: LocalFolder) -> list[dict[str, Any]]:
    """Return the points of a finished trial less what names or times the training."""
    rows, correct = read_trial(folder, [point["point_key"] for point in trial.job["points"]])
    assert len(rows) == len(trial.job["points"])
    kept = [
        {k: v for k, v in row.items() if k not in {"training_id", "train_device_seconds"}}
        for row in rows
    ]
    for row in kept:
        for kind in ("clean", "robust"):
            row[kind] = correct[f"{row['point_key']}.{kind}"].tolist()
    return sorted(kept, key=lambda row: str(row["point_key"]))
