"""Where the numbers of a report come from: trials, training curves, machines, MLflow runs."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from studies.addresses import without_credentials
from studies.planning import Plan
from studies.results import read_epochs
from studies.storage import Folder

INDEX = "mlflow.json"
"""File in a study's folder that says which MLflow run each trial and point has."""

LOCAL_SERVER = "http://127.0.0.1:5000"
"""Where ``mlflow ui`` listens."""


@dataclass(frozen=True)
class Links:
    """Addresses of MLflow runs.

    Attributes:
        study: Of the study's own run; None if it is not known.
        trials: By run key.
        points: By point key.
        serve: The command that must run for the links to work; None where a server is there.
    """

    study: str | None = None
    trials: Mapping[str, str] = field(default_factory=dict)
    points: Mapping[str, str] = field(default_factory=dict)
    serve: str | None = None


@dataclass(frozen=True)
class Origin:
    """Where the numbers of a report come from.

    Attributes:
        plan: The study's trials.
        epochs: Records of each epoch, by run key; see `studies.results.read_epochs`.
        provenance: What each trial recorded of its machine, by run key; a trial whose record is
            missing or cannot be read is not there.
        links: Addresses of the MLflow runs.
        command: The command that made the report; empty if it was called from Python.
    """

    plan: Plan
    epochs: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)
    provenance: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    links: Links = field(default_factory=Links)
    command: str = ""


def gather(plan: Plan, folder: Folder, command: str = "") -> Origin:
    """Read from a study's folder where its numbers come from.

    Args:
        plan: The plan of the study.
        folder: The study's folder.
        command: The command that asked; credentials in it are left out.
    """
    epochs, provenance = {}, {}
    for trial in plan.trials:
        place = folder.sub(f"trials/{trial.run_key}")
        if found := read_epochs(place):
            epochs[trial.run_key] = found
        if (record := _read_json(place, "provenance.json")) is not None:
            provenance[trial.run_key] = record
    links = _links(_read_json(folder, INDEX))
    return Origin(plan, epochs, provenance, links, without_credentials(command))


def _read_json(folder: Folder, name: str) -> dict[str, Any] | None:
    """Read an object of JSON; None where it is missing or damaged."""
    try:
        found = json.loads(folder.read(name))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write_index(
    folder: Folder,
    uri: str,
    experiment: str,
    study: str,
    trials: Mapping[str, str],
    runs: Mapping[str, str],
) -> None:
    """Write which MLflow run each trial and point has, so that a report can link to them.

    Args:
        folder: The study's folder.
        uri: Tracking URI; credentials are not written.
        experiment: Id of the study's experiment.
        study: Id of the study's own run.
        trials: Run ids by run key.
        runs: Run ids by point key.
    """
    record = {
        "experiment": experiment,
        "study": study,
        "trials": trials,
        "runs": runs,
        "uri": without_credentials(uri),
    }
    folder.write(INDEX, json.dumps(record, indent=1).encode())


def _links(index: Mapping[str, Any] | None) -> Links:
    """Make addresses from what `write_index` wrote; none if it is missing or faulty."""
    if index is None:
        return Links()
    try:
        uri = without_credentials(index["uri"])
        served = uri.startswith(("http://", "https://"))
        server = uri.rstrip("/") if served else LOCAL_SERVER
        base = f"{server}/#/experiments/{index['experiment']}/runs/"
        return Links(
            base + index["study"],
            {key: base + run for key, run in index["trials"].items()},
            {key: base + run for key, run in index["runs"].items()},
            None if served else shlex.join(["mlflow", "ui", "--backend-store-uri", uri]),
        )
    except (KeyError, TypeError, AttributeError):
        return Links()
