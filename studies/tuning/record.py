"""What tuning leaves in a study's folder: its record, and the study of the winners."""

from typing import TypedDict, cast

from studies.errors import StudyError
from studies.planning.expand import make_plan
from studies.planning.plan import Plan, PlannedTrial
from studies.storage.folder import Folder
from studies.storage.sealed import ResultError, unseal, write_sealed
from studies.study_file.loading import load_study
from studies.study_file.method_blocks import FileBlock
from studies.study_file.study import Study
from studies.tuning.candidates import tuned_methods
from studies.tuning.winners import Search, SearchRecord, search_of

TUNING_FILE = "tuning.json"
WINNERS_FILE = "tuned.yaml"


class TuningRecord(TypedDict):
    """What ``tuning.json`` holds.

    Attributes:
        study: The study that was tuned, without its ``tune`` block, as a study file says it.
        tune: That block.
        searches: What the search of each method has found, in the order of the study.
    """

    study: FileBlock
    tune: FileBlock
    searches: list[SearchRecord]


def read_record(folder: Folder) -> TuningRecord | None:
    """Read what tuning has left in a study's folder; None where it was not tuned.

    Raises:
        ResultError: It is damaged.
    """
    try:
        return cast(TuningRecord, unseal(folder.read(TUNING_FILE)))
    except FileNotFoundError:
        return None
    except ResultError as error:
        raise ResultError(
            f"'{folder.sub(TUNING_FILE).uri}' is damaged; `oat tune` writes it anew."
        ) from error


def keep(study: Study, folder: Folder, search: Search) -> None:
    """Write a search into the study's record, beside those of the other methods."""
    assert study.tune is not None
    try:
        record = read_record(folder)
    except ResultError:  # the others are found again in Optuna's storage
        record = None
    known = [] if record is None else record["searches"]
    others = [s for s in known if s["method"] != search.method]
    order = [tuned.name for tuned in tuned_methods(study)]
    found = [s for s in [*others, search.dump()] if s["method"] in order]
    tune = study.dump()["tune"]
    write_sealed(
        folder,
        TUNING_FILE,
        {
            "study": study.without_tuning(),
            "tune": tune,
            "searches": sorted(found, key=lambda s: order.index(s["method"])),
        },
    )


def searches_of(record: TuningRecord) -> list[Search]:
    """Return the searches of a record."""
    return [search_of(found) for found in record["searches"]]


def searched_study(record: TuningRecord) -> Study:
    """Return the study that was tuned, with what was searched."""
    return load_study({**record["study"], "tune": record["tune"]})


def tuned_study(record: TuningRecord) -> FileBlock:
    """Return the study of the winners: the one that was tuned, with their entries.

    Raises:
        StudyError: The winners do not go together in one study.
    """
    found = {search.method: search.entries() for search in searches_of(record)}
    study = searched_study(record)
    entries = []
    for tuned in tuned_methods(study):
        own = [tuned.block.entry()]
        entries += [dict(entry) for entry in found.get(tuned.name, [])] or own
    made = {**record["study"], "methods": entries}
    load_study(made)
    return made


def tuning_plan(current: Plan, folder: Folder) -> Plan:
    """Return the trials of a study's tuning as a plan, from its record; empty without one.

    Raises:
        ResultError: The record is damaged, or has a trial that this version cannot plan.
    """
    record = read_record(folder)
    trials: list[PlannedTrial] = []
    if record is not None:
        study = searched_study(record)
        by_name = {tuned.name: tuned for tuned in tuned_methods(study)}
        entries = {
            trial.run_key: (by_name[search.method], trial.entry)
            for search in searches_of(record)
            if search.method in by_name
            for trial in search.trials
            if trial.run_key and trial.state != "not run"
        }
        for run_key, (tuned, entry) in entries.items():
            try:
                trials += make_plan(tuned.judged(entry), folder, "val").trials
            except StudyError as error:
                raise ResultError(
                    f"'{folder.sub(TUNING_FILE).uri}' has a trial {run_key} that cannot be planned "
                    f"({error}); `oat tune` writes it anew."
                ) from error
    return Plan(current.study, tuple(trials), (), current.seconds_per_unit, current.measured)
