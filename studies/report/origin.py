"""Where the numbers of a report come from: trials, training curves, machines, MLflow runs."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import cast

from studies.known_methods import CONDITIONAL
from studies.planning.plan import Plan
from studies.results.mlflow_index import INDEX, Links, MlflowIndex, links_of, read_object
from studies.storage.addresses import without_credentials
from studies.storage.folder import Folder
from studies.study_file.loading import presets
from studies.trial.records import read_epochs
from studies.trial.stored import Epoch, Provenance


@dataclass(frozen=True)
class Origin:
    """Where the numbers of a report come from.

    Attributes:
        plan: The study's trials.
        epochs: Records of each epoch, by run key; see `studies.trial.records.read_epochs`.
        provenance: What each trial recorded of its machine, by run key; a trial whose record is
            missing or cannot be read is not there.
        links: Addresses of the MLflow runs.
        command: The command that made the report; empty if it was called from Python.
    """

    plan: Plan
    epochs: Mapping[str, list[Epoch]] = field(default_factory=dict)
    provenance: Mapping[str, Provenance] = field(default_factory=dict)
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
        if (record := read_object(place, "provenance.json")) is not None:
            provenance[trial.run_key] = cast(Provenance, record)
    links = links_of(cast(MlflowIndex | None, read_object(folder, INDEX)))
    return Origin(plan, epochs, provenance, links, without_credentials(command))


def demo_command(origin: Origin) -> str:
    """Write the command that tries a model of the study on images.

    It names the study as the report's own command did, with the same settings and storage, and the
    model where `oat demo` would not know which.
    """
    study, options = _named_by(origin.command)
    trials = origin.plan.trials
    once = [t.label for t in trials if t.job["config"]["method"]["name"] in CONDITIONAL]
    labels = list(dict.fromkeys(once or [trial.label for trial in trials]))
    model = [] if once and len(labels) == 1 else labels[:1]
    return shlex.join(["oat", "demo", study or origin.plan.study.name, *model, *options])


def _named_by(command: str) -> tuple[str | None, list[str]]:
    """Return the study that a command names, None if it is not seen, and where and how it is."""
    try:
        words = shlex.split(command)
    except ValueError:  # from Python it may be any text
        return None, []
    pairs, known = list(pairwise(words)), presets()
    studies = [
        word
        for before, word in pairs
        if not before.startswith("-") and (word in known or word.endswith((".yaml", ".yml")))
    ]
    options = [word for pair in pairs if pair[0] in ("--set", "--storage") for word in pair]
    options += [word for word in words if word.startswith(("--set=", "--storage="))]
    return next(iter(studies), None), options
