"""Remove what a study's folder no longer needs: `studies.clean`."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from studies.console import plain_console
from studies.driver.lease import only_driver
from studies.driver.places import study_folder
from studies.errors import StudyError, TuningError
from studies.known_methods import WithMethod, begins_in_words, describe, method_of
from studies.planning.expand import make_plan
from studies.storage.addresses import DEFAULT_STORAGE
from studies.storage.folder import Folder
from studies.storage.opening import in_threads
from studies.storage.sealed import ResultError
from studies.study_file.loading import Source, load_study
from studies.study_file.study import Study
from studies.trial.checkpoints import SLOTS
from studies.trial.records import read_result

RUN_KEY = re.compile("[0-9a-f]{12}")
MARKERS = (".preflight-", ".writable-")
"""How files begin by which storage is tried out; each is removed at once unless a kill comes."""


@dataclass(frozen=True)
class Removable:
    """Something in a study's folder that nothing needs any more.

    Attributes:
        what: A trial that is not in the plan, a checkpoint of a finished one, or a leftover.
        place: Below the study's folder.
        size: In bytes.
        said: What it is, for people.
    """

    what: Literal["trial", "checkpoint", "leftover"]
    place: str
    size: int
    said: str


@dataclass(frozen=True)
class Cleaning:
    """What can go from a study's folder.

    Attributes:
        found: What can go, trials first.
        kept: Run keys of trials that are not in the plan and stay, as tuning or others need them.
        removed: Whether it was removed.
    """

    found: tuple[Removable, ...]
    kept: tuple[str, ...]
    removed: bool

    @property
    def size(self) -> int:
        """Bytes of all of it."""
        return sum(one.size for one in self.found)


def clean(
    study: Source,
    *,
    storage: str | Path = DEFAULT_STORAGE,
    overrides: Sequence[str] = (),
    yes: bool = False,
) -> Cleaning:
    """List what a study's folder no longer needs, and remove it if told so.

    These are trials that are not in the plan, checkpoints of finished trials, and what a kill has
    left. Trials of tuning, and models that others were made from, stay.

    Args:
        study: A preset's name, a YAML file, a mapping, or a study.
        storage: Folder or URI of all studies' results.
        overrides: ``path.to.key=value`` each, the same as of the runs whose trials are to stay.
        yes: Whether to remove it; no driver may run the study then.

    Raises:
        StudyError: The study is faulty.
        TuningError: The record of tuning is damaged, so that its trials cannot be told.
        LeaseError: The study runs at the moment; nothing was removed.
    """
    resolved = load_study(study, overrides)
    folder = study_folder(resolved, storage)
    listed = _look(resolved, folder)
    if not yes or not listed.found:
        return listed
    with only_driver(resolved, folder, plain_console(stderr=True)):
        found = _look(resolved, folder)  # a run may have ended meanwhile
        for one in found.found:
            folder.remove(one.place)
    return Cleaning(found.found, found.kept, removed=True)


def _look(study: Study, folder: Folder) -> Cleaning:
    """Find what can go."""
    trials = folder.sub("trials")
    current = make_plan(study, folder)
    own = {trial.run_key for trial in current.trials}
    there = [name for name in trials.names() if RUN_KEY.fullmatch(name)]
    kept = _with_sources(own | _of_tuning(study, folder, set(there) - own), trials)
    foreign = [key for key in there if key not in kept]
    found = in_threads(lambda key: _trial(trials, key), foreign)
    staying = [key for key in there if key in kept]
    for checkpoints in in_threads(lambda key: _checkpoints(trials, key), staying):
        found += checkpoints
    for name in folder.names():
        if name.startswith(MARKERS):
            found.append(Removable("leftover", name, folder.size(name) or 0, "of a check"))
    return Cleaning(tuple(found), tuple(key for key in staying if key not in own), removed=False)


def _of_tuning(study: Study, folder: Folder, others: set[str]) -> set[str]:
    """Return the run keys that tuning has or may have."""
    from studies.tuning.kept import kept_by_tuning, may_be_candidate, searched

    try:
        kept, open_studies = kept_by_tuning(folder), searched(study, folder)
    except ResultError as error:
        raise TuningError(
            f"{error} Until then nothing can be cleaned, as its trials cannot be told."
        ) from error
    unknown = sorted(others - kept)
    open_ones = in_threads(
        lambda key: any(may_be_candidate(one, folder.sub(f"trials/{key}")) for one in open_studies),
        unknown,
    )
    return kept | {key for key, may_be in zip(unknown, open_ones, strict=True) if may_be}


def _with_sources(kept: set[str], trials: Folder) -> set[str]:
    """Add the trials whose weights those were made from or start from, and so on."""
    known, left = set[str](), kept
    while left:
        known |= left
        found = in_threads(lambda key: _sources(trials.sub(key)), left)
        left = set().union(*found) - known
    return known


def _sources(folder: Folder) -> set[str]:
    """Return the run keys of the models behind a trial, as far as its folder names them."""
    found = set[str]()
    try:
        result = read_result(folder)
        if result is not None and result["status"] == "done":
            found |= result["trained"].get("sources", {}).keys()
        found.add(json.loads(folder.read("config.json"))["start"]["run_key"])
    except (FileNotFoundError, ResultError, ValueError, KeyError, TypeError):
        pass  # damaged, not begun, or starting from none
    return found


def _trial(trials: Folder, key: str) -> Removable:
    """Describe a trial that is not in the plan."""
    folder = trials.sub(key)
    try:
        config = json.loads(folder.read("config.json"))
        said = f"{_label(config)} seed {config['seed']}"
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # never begun, or damaged
        said = "unknown"
    said += ", not finished" if folder.size("result.json") is None else ", finished"
    size = sum(folder.size(name) or 0 for name in folder.names())
    return Removable("trial", f"trials/{key}", size, said)


def _label(config: WithMethod) -> str:
    begins = (config["start"]["source"], config["start"]["epochs"]) if "start" in config else None
    try:
        return describe(method_of(config), begins=begins_in_words(*begins) if begins else ())
    except StudyError:  # code of the user's that has changed since, or is gone
        return f"{config['method']['name']} (its code is not here as it was)"


def _checkpoints(trials: Folder, key: str) -> list[Removable]:
    """Return the checkpoints of a trial that stays, if it is finished: a kill has left them."""
    folder = trials.sub(key)
    sizes = {name: folder.size(name) for name in SLOTS}
    there = {name: size for name, size in sizes.items() if size is not None}
    try:
        if not there or read_result(folder) is None:
            return []
    except ResultError:  # redone by the next run
        return []
    return [
        Removable("checkpoint", f"trials/{key}/{name}", size, "of a finished trial")
        for name, size in there.items()
    ]
