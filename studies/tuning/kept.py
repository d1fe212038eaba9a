"""Which trials of a folder tuning needs: those on record, and those of searches under way."""

import json
from collections.abc import Mapping

from studies.errors import TuningError
from studies.planning.run_keys import entry_config, run_keys
from studies.storage.folder import Folder
from studies.study_file.loading import load_study
from studies.study_file.study import Study
from studies.study_file.tune_block import TRAIN
from studies.trial.shapes import TrialConfig
from studies.tuning.candidates import Tunable, tuned_methods
from studies.tuning.record import read_record, searched_study, searches_of, tuned_study


def kept_by_tuning(folder: Folder) -> set[str]:
    """Return the run keys of a tuned study: what it was, its candidates, and its winners.

    Args:
        folder: The study's folder.

    Raises:
        ResultError: The record of tuning is damaged.
        StudyError: This version cannot read the study that it is of.
    """
    record = read_record(folder)
    if record is None:
        return set()
    kept = {trial.run_key for search in searches_of(record) for trial in search.trials}
    kept |= run_keys(load_study(record["study"]))
    return kept | run_keys(load_study(tuned_study(record)))


def searched(study: Study, folder: Folder) -> list[Study]:
    """Return the studies of which searches may be under way: as it is now, and as it was tuned.

    A file of the winners, ``tuned.yaml``, has the name of the study and nothing to search.

    Args:
        study: The study.
        folder: Its folder.

    Raises:
        ResultError: The record of tuning is damaged.
        StudyError: This version cannot read the study that it is of.
    """
    record = read_record(folder)
    own = [] if study.tune is None else [study]
    return own if record is None else [*own, searched_study(record)]


def may_be_candidate(study: Study, folder: Folder) -> bool:
    """Tell whether a trial may be of a search of a study, which is on record at its end only.

    It may be if it differs from the study's own settings in nothing but what is searched.

    Args:
        study: The study; see `searched`.
        folder: Of the trial.
    """
    try:
        config: TrialConfig = json.loads(folder.read("config.json"))
        tuned = tuned_methods(study)
    except (FileNotFoundError, ValueError):  # it never began
        return False
    except TuningError:  # no search of the study as it is now can tell
        return True
    return any(_differ_in_dimensions(one, config) for one in tuned)


def _differ_in_dimensions(tuned: Tunable, config: TrialConfig) -> bool:
    one = tuned.judged(tuned.entry(tuned.starts()[0]))
    own = json.loads(json.dumps(entry_config(one, one.entries()[0], one.seeds[0])))
    free = {"train": set[str](), "method": set[str]()}
    for name in tuned.dimensions:
        group, _, key = name.rpartition(".")
        free["train" if group == TRAIN else "method"].add(key)
    sections = ("data", "model", "train", "attack", "method")
    found: Mapping[str, object] = {**config}
    return config.get("seed") == own["seed"] and all(
        _same(found.get(name), own[name], free.get(name, set())) for name in sections
    )


def _same(found: object, own: Mapping[str, object], free: set[str]) -> bool:
    """Tell whether two parts of configs agree in what both have, but for what is searched."""
    return isinstance(found, dict) and all(
        found[key] == own[key] for key in found.keys() & own.keys() - free
    )
