"""Which MLflow run each trial and point has, so that a report can link to them."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypedDict

from studies.storage.addresses import without_credentials
from studies.storage.folder import Folder

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


class MlflowIndex(TypedDict):
    """What `write_index` writes.

    Attributes:
        experiment: Id of the study's experiment.
        study: Id of the study's own run.
        trials: Run ids by run key.
        runs: Run ids by point key.
        uri: Tracking URI, without credentials.
    """

    experiment: str
    study: str
    trials: Mapping[str, str]
    runs: Mapping[str, str]
    uri: str


def read_object(folder: Folder, name: str) -> dict[str, object] | None:
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
    record: MlflowIndex = {
        "experiment": experiment,
        "study": study,
        "trials": trials,
        "runs": runs,
        "uri": without_credentials(uri),
    }
    folder.write(INDEX, json.dumps(record, indent=1).encode())


def links_of(index: MlflowIndex | None) -> Links:
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
