"""That a study goes on with the data it began with: one set of images for all its trials."""

import json
from collections.abc import Mapping
from typing import NamedTuple

from studies.errors import StudyError
from studies.naming import listed
from studies.planning.plan import Plan
from studies.storage.folder import Folder
from studies.storage.opening import in_threads
from studies.trial.same_data import CURE, fingerprint_of


class KnownData(NamedTuple):
    """What the trials of a study were trained on.

    Attributes:
        root: Where the study file says that the data lie.
        trials: Fingerprint of the data of each trial that has weights or a checkpoint, by its name.
    """

    root: str
    trials: Mapping[str, str]

    def check(self, fingerprint: str) -> None:
        """Check that the data at hand are those of all trials.

        Raises:
            StudyError: They are others; names trials and both fingerprints.
        """
        odd = {name: then for name, then in self.trials.items() if then != fingerprint}
        if odd:
            then = " and ".join(sorted(set(odd.values())))
            raise StudyError(
                f"`data` (root '{self.root}') has changed since trials of this study were trained: "
                f"its fingerprint was {then} and is {fingerprint} now ({listed(odd)}); {CURE}."
            )


def data_of_plan(plan: Plan, folder: Folder) -> KnownData:
    """Read which data the trials of a plan were trained on; nothing where none is to be run.

    Args:
        plan: The plan.
        folder: The study's folder.
    """
    names = {t.run_key: f"{t.label} seed {t.seed} ({t.run_key})" for t in plan.trials}
    there = [t for t in plan.trials if t.state not in {"missing", "waiting", "damaged"}]
    asked = there if plan.ready() else []
    return _known(plan, folder, {trial.run_key: names[trial.run_key] for trial in asked})


def data_of_all(plan: Plan, folder: Folder) -> KnownData:
    """Read the same of every trial in a study's folder on data so named: of candidates as well.

    Args:
        plan: The plan of the study.
        folder: Its folder.
    """
    wanted, trials = plan.trials[0].job["config"]["data"], folder.sub("trials")
    keys = trials.names()
    configs = in_threads(lambda key: _data_config(trials.sub(key)), keys)
    same = [key for key, config in zip(keys, configs, strict=True) if config == wanted]
    return _known(plan, folder, {key: f"trial {key}" for key in same})


def _data_config(folder: Folder) -> object:
    try:
        return json.loads(folder.read("config.json"))["data"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # nothing goes on there
        return None


def _known(plan: Plan, folder: Folder, names: Mapping[str, str]) -> KnownData:
    found = in_threads(lambda key: fingerprint_of(folder.sub(f"trials/{key}")), names)
    told = zip(names.values(), found, strict=True)
    trials = {name: fingerprint for name, fingerprint in told if fingerprint is not None}
    return KnownData(plan.study.data.root, trials)
