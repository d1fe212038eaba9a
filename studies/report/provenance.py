"""The part of the page that says where the numbers come from: trials, machines, versions, gaps."""

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from studies.comparison.answer import Comparison
from studies.planning.plan import PlannedTrial
from studies.report.cells import Cell, Row
from studies.report.origin import Origin
from studies.trial.provenance import git_revision
from studies.trial.stored import Provenance


def trial_rows(origin: Origin) -> list[Row]:
    """Return a row for each trial of the study: state, machine, versions, as text."""
    return [
        _trial_row(trial, origin.provenance.get(trial.run_key, {})) for trial in origin.plan.trials
    ]


def _trial_row(trial: PlannedTrial, record: Provenance) -> Row:
    started = record.get("started")
    return {
        "trial": Cell(trial.label),
        "seed": Cell(str(trial.seed), trial.seed),
        "run": Cell(trial.run_key),
        "state": Cell(trial.state),
        "device": Cell(_text(record.get("device"))),
        "threads": Cell(_text(record.get("threads")), record.get("threads") or math.nan),
        "revision": Cell(_text(record.get("git_revision"))),
        "started": Cell(_time(started), started or math.nan),
        "versions": Cell(_versions(record)),
    }


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _versions(record: Provenance) -> str:
    found = record.get("versions") or {}
    return ", ".join(f"{name} {version}" for name, version in found.items() if version)


def provenance_rows(origin: Origin) -> list[tuple[str, str]]:
    """Return what all trials have in common, and in what they differ: labels and texts."""
    study, records = origin.plan.study, origin.provenance.values()
    settings = study.dump()
    return [
        ("command", origin.command or "from Python"),
        ("seeds", ", ".join(map(str, study.seeds))),
        (
            "data",
            f"{study.data.name}, fingerprint "
            + _distinct(record.get("data_fingerprint") for record in records),
        ),
        ("network", _settings(settings["model"])),
        ("training", _settings(settings["train"])),
        ("attack in training", _settings(settings["attack"])),
        *(
            (f"attack {block.expand()[0].label}", _settings(chosen))
            for block, chosen in zip(
                study.evaluate.attacks, settings["evaluate"]["attacks"], strict=True
            )
        ),
        ("devices", _distinct(record.get("device") for record in records)),
        ("revisions of the trials", _distinct(record.get("git_revision") for record in records)),
        ("revision of the report", git_revision() or "unknown"),
        ("packages", _distinct(map(_versions, records))),
    ]


def _distinct(values: Iterable[Any]) -> str:
    """Write the different values there are, in order."""
    return " · ".join(dict.fromkeys(str(value) for value in values if value)) or "unknown"


def _settings(block: Mapping[str, object]) -> str:
    """Write a block of the study's file in a line; what is not set is left out."""
    return ", ".join(f"{key} {_short(value)}" for key, value in block.items() if value is not None)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(_short, value)) + "]"
    return str(value)


def gaps(comparison: Comparison, origin: Origin) -> list[str]:
    """Say what of the provenance is not known."""
    own = {trial.run_key for trial in origin.plan.trials}
    used = {run for runs in comparison.cells["run_keys"] for run in runs.split()}
    said = []
    lost = [
        t for t in origin.plan.trials if t.run_key in used and t.run_key not in origin.provenance
    ]
    if lost:
        names = ", ".join(trial.run_key for trial in lost)
        said.append(f"No provenance is stored, or it cannot be read, for {names}.")
    if used - own:
        belong = "1 model belongs" if len(used - own) == 1 else f"{len(used - own)} models belong"
        said.append(
            f"{belong} to other studies; their provenance lies in those studies' own folders."
        )
    if not origin.links.points:
        said.append(
            "The study's folder names no MLflow runs, so there are no links; "
            f"'oat sync {origin.plan.study.name}' writes them, for the next report."
        )
    return said
