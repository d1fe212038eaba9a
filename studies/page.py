"""The report as one interactive HTML page, which needs no other file and no network."""

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from studies import charts
from studies.comparison import Comparison
from studies.intervals import LEVEL
from studies.masking import masking_verdict
from studies.methods import name_point
from studies.origin import Origin
from studies.planning import PlannedTrial
from studies.records import git_revision
from studies.tables import (
    GAINED,
    HEADINGS,
    PRICE,
    Cell,
    Row,
    front_rows,
    gain_rows,
    heading_of,
    percent,
    rows,
    variant_rows,
)

CHECKS = {
    "check_sa": "SA",
    "check_ra": "RA",
    "check_ra_restarts": "RA, 5 starts",
    "check_ra_noise": "RA, noise",
    "check_ra_eps_0": "RA at ε = 0",
    "check_ra_eps_2x": "RA at 2ε",
    "check_ra_eps_4x": "RA at 4ε",
    "check_ra_eps_half": "RA at 0.5",
    "check_zero_gradients": "zero gradients",
    "check_gap_autoattack": "less under AutoAttack",
    "check_gap_black_box": "less without gradients",
}
"""Columns of `Comparison.masking` that the page shows, fractions, and their headings."""


def page(comparison: Comparison, origin: Origin, others: Iterable[Comparison] = ()) -> str:
    """Write the HTML page: one file, no address outside loaded, everything escaped.

    Args:
        comparison: What the page is about.
        origin: Where its numbers come from.
        others: The same study under other attacks; their tables stand below the main one.
    """
    environment = Environment(
        loader=PackageLoader("studies"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    points = charts.operating_points(comparison, origin)
    loss, accuracy = charts.training(comparison, origin)
    fronts = front_rows(comparison)
    figures = {
        "front": charts.front(comparison, points),
        "price": charts.price(comparison),
        "loss": loss,
        "accuracy": accuracy,
    }
    text: str = environment.get_template("report.html").render(
        study=origin.plan.study,
        comparison=comparison,
        level=f"{LEVEL:.0%}",
        heading=heading_of(comparison),
        headings=HEADINGS,
        rows=rows(comparison),
        others=[(heading_of(other), other.answer(), rows(other)) for other in others],
        variants=variant_rows(comparison),
        fronts=[{k: cell for k, cell in row.items() if k not in PRICE} for row in fronts],
        prices=[{k: row[k] for k in ("front", *PRICE) if k in row} for row in fronts],
        masking=masking_verdict(comparison.masking),
        checks=[_masking_row(row) for row in comparison.masking.to_dict("records")],
        once=any(point["once"] for point in points),
        trials=trial_rows(origin),
        facts=provenance(origin),
        gaps=gaps(comparison, origin),
        links=origin.links,
        gained=gain_rows(comparison.gains.table) if comparison.gains else [],
        tuning_notes=comparison.gains.notes if comparison.gains else [],
        gained_heading=GAINED,
        curves=bool(loss["data"]),
        data=charts.json_safe({"points": points, "figures": figures}),
        plotly=Markup(get_plotlyjs()),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    return text


def _masking_row(row: Mapping[Any, Any]) -> Row:
    images = row.get("check_images", math.nan)
    return {
        "operating point": Cell(name_point(row)),
        "signs": Cell(row["flags"] or "none"),
        "images": Cell("" if math.isnan(images) else f"{images:g}", images),
        **{name: percent(row.get(key, math.nan)) for key, name in CHECKS.items()},
    }


def trial_rows(origin: Origin) -> list[Row]:
    """Return a row for each trial of the study: state, machine, versions, as text."""
    return [
        _trial_row(trial, origin.provenance.get(trial.run_key, {})) for trial in origin.plan.trials
    ]


def _trial_row(trial: PlannedTrial, record: Mapping[str, Any]) -> Row:
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


def _versions(record: Mapping[str, Any]) -> str:
    found = record.get("versions") or {}
    return ", ".join(f"{name} {version}" for name, version in found.items() if version)


def provenance(origin: Origin) -> list[tuple[str, str]]:
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
            (f"attack {attack.label}", _settings(chosen))
            for attack, chosen in zip(study.attacks(), settings["evaluate"]["attacks"], strict=True)
        ),
        ("devices", _distinct(record.get("device") for record in records)),
        ("revisions of the trials", _distinct(record.get("git_revision") for record in records)),
        ("revision of the report", git_revision() or "unknown"),
        ("packages", _distinct(map(_versions, records))),
    ]


def _distinct(values: Iterable[Any]) -> str:
    """Write the different values there are, in order."""
    return " · ".join(dict.fromkeys(str(value) for value in values if value)) or "unknown"


def _settings(block: Mapping[str, Any]) -> str:
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
        said.append(
            f"{len(used - own)} models belong to other studies; their provenance lies in those "
            "studies' own folders."
        )
    if not origin.links.points:
        said.append(
            "The study's folder names no MLflow runs, so there are no links; "
            f"'oat sync {origin.plan.study.name}' writes them, for the next report."
        )
    return said
