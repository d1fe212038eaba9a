"""What tuning leaves in a study's folder: its record, the study of the winners, its trials."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from studies.errors import StudyError
from studies.planning.expand import make_plan
from studies.storage.local import LocalFolder
from studies.storage.sealed import ResultError
from studies.study_file.loading import load_study
from studies.study_file.study import Study
from studies.tuning.candidates import Tunable, tuned_methods
from studies.tuning.record import (
    TUNING_FILE,
    keep,
    read_record,
    searches_of,
    tuned_study,
    tuning_plan,
)
from studies.tuning.winners import Search, SearchTrial


def _trial(tuned: Tunable, number: int, params: dict[str, Any], **more: Any) -> SearchTrial:
    entry = tuned.entry(params)
    (planned,) = make_plan(tuned.judged(entry), LocalFolder("/nowhere"), "val").trials
    point = {"lam": None, "beta": None, "width_mult": 1.0, "sa": 0.8, "ra": 0.4}
    known = {"number": number, "state": "done", "run_key": planned.run_key, "entry": entry}
    return SearchTrial(**{**known, "points": [point], "device_seconds": 1.0, **more})


def _search(tuned: Tunable, trials: list[SearchTrial], winners: list[int], **more: Any) -> Search:
    whole: dict[str, Any] = {
        "method": tuned.name,
        "once": tuned.block.name in {"oat", "oats"},
        "starts": 1,
        "budget": 100.0,
        "device_seconds": 3.0,
        "ended": "the budget is spent",
        "trials": trials,
        "winners": [trials[i].run_key for i in winners],
        "dimensions": list(tuned.dimensions),
    }
    return Search(**{**whole, **more})


def _tuned(study: Study) -> dict[str, Tunable]:
    return {tuned.block.name: tuned for tuned in tuned_methods(study)}


@pytest.fixture
def record(tunable: dict[str, Any], tmp_path: Path) -> LocalFolder:
    """A folder in which OAT and PGD-AT were tuned, and TRADES found nothing."""
    tunable["seeds"] = [3, 1]
    study = load_study(tunable)
    folder = LocalFolder(tmp_path / "tiny")
    tuned = _tuned(study)
    oat = [_trial(tuned["oat"], n, {"train.lr": lr}) for n, lr in enumerate((0.1, 0.2))]
    pgd = [
        _trial(tuned["pgd_at"], n, {"train.lr": lr, "lam": lam})
        for n, (lr, lam) in enumerate([(0.1, 0.0), (0.1, 1.0), (0.3, 0.0), (0.4, 1.0)])
    ]
    failed = _trial(tuned["trades"], 0, {"train.lr": 0.1}, state="failed", points=[])
    keep(study, folder, _search(tuned["trades"], [failed], []))
    keep(study, folder, _search(tuned["pgd_at"], pgd, [1, 2]))
    keep(study, folder, _search(tuned["oat"], oat, [1]))
    return folder


def _record(folder: LocalFolder) -> dict[str, Any]:
    record = read_record(folder)
    assert record is not None
    return record


def test_a_study_that_was_not_tuned_has_no_record(tmp_path: Path) -> None:
    assert read_record(LocalFolder(tmp_path)) is None


def test_searches_are_kept_in_the_order_of_the_file(record: LocalFolder) -> None:
    methods = [search.method.split()[0] for search in searches_of(_record(record))]
    assert methods == ["oat", "pgd_at", "trades"]


def test_a_search_that_went_on_takes_the_place_of_the_earlier_one(
    tunable: dict[str, Any], record: LocalFolder
) -> None:
    tunable["seeds"] = [3, 1]
    study = load_study(tunable)
    before = searches_of(_record(record))
    keep(study, record, _search(_tuned(study)["oat"], [], [], device_seconds=99.0))
    after = searches_of(_record(record))
    assert [search.device_seconds for search in after] == [99.0, 3.0, 3.0]
    assert [search.dump() for search in after[1:]] == [search.dump() for search in before[1:]]


def test_the_winners_are_a_study_with_all_seeds_and_nothing_else_changed(
    tunable: dict[str, Any], record: LocalFolder, tmp_path: Path
) -> None:
    tunable["seeds"] = [3, 1]
    own = load_study(tunable)
    made = load_study(yaml.safe_load(yaml.safe_dump(tuned_study(_record(record)))))
    assert made.seeds == (3, 1)
    assert made.tune is None
    assert {**made.dump(), "methods": None} == {**own.without_tuning(), "methods": None}
    labels = [entry.label.split(" ", 1) for entry in made.entries()]
    assert [label[0] for label in labels] == ["oat", "pgd_at", "pgd_at", "trades"]
    assert [entry.train.lr for entry in made.entries()] == [0.2, 0.1, 0.3, 0.1]
    # what was trained by the search is what the study of the winners asks for
    won = [key for search in searches_of(_record(record)) for key in search.winners]
    planned = make_plan(made, LocalFolder(tmp_path / "none")).trials
    assert {t.run_key for t in planned if t.seed == 3} >= set(won)
    assert len(planned) == 8


def test_where_nothing_won_the_entry_stays_with_all_it_says(tunable: dict[str, Any]) -> None:
    tunable["train"]["lr"] = 0.3
    tunable["methods"][2]["train"] = {"lr": 0.1}  # the default of `lr`, and not the study's
    study = load_study(tunable)
    record = {
        "study": study.without_tuning(),
        "tune": study.dump()["tune"],
        "searches": [_search(_tuned(study)["trades"], [], []).dump()],
    }
    made = load_study(tuned_study(record))
    assert [entry.train for entry in made.entries()] == [entry.train for entry in study.entries()]


def test_winners_that_do_not_go_together_are_named(
    tunable: dict[str, Any], record: LocalFolder
) -> None:
    found = _record(record)
    found["searches"][1]["trials"][2]["entry"] = found["searches"][1]["trials"][1]["entry"]
    with pytest.raises(StudyError, match="Duplicate trial"):
        tuned_study(found)


@pytest.mark.parametrize("damage", [b"", b"{}", b"not JSON", b'{"check": "0", "study": {}}'])
def test_a_damaged_record_is_one_sentence_and_is_written_anew(
    tunable: dict[str, Any], record: LocalFolder, damage: bytes
) -> None:
    record.write(TUNING_FILE, damage)
    with pytest.raises(ResultError, match=r"tuning\.json' is damaged; `oat tune` writes it anew"):
        read_record(record)
    tunable["seeds"] = [3, 1]
    study = load_study(tunable)
    keep(study, record, _search(_tuned(study)["oat"], [], []))
    assert len(searches_of(_record(record))) == 1


def test_the_plan_of_tuning_has_each_training_once_judged_on_held_out_images(
    tunable: dict[str, Any], record: LocalFolder
) -> None:
    tunable["seeds"] = [3, 1]
    plan = tuning_plan(make_plan(load_study(tunable), record), record)
    keys = [trial.run_key for trial in plan.trials]
    recorded = [t.run_key for search in searches_of(_record(record)) for t in search.trials]
    assert keys == recorded
    assert {p["split"] for trial in plan.trials for p in trial.job["points"]} == {"val"}
    assert plan.foreign == ()


def test_a_study_without_a_record_has_an_empty_plan_of_tuning(
    tunable: dict[str, Any], tmp_path: Path
) -> None:
    folder = LocalFolder(tmp_path)
    assert tuning_plan(make_plan(load_study(tunable), folder), folder).trials == ()


def test_a_trial_that_died_and_the_one_that_took_its_place_are_one_training(
    tunable: dict[str, Any], tmp_path: Path
) -> None:
    study = load_study(tunable)
    folder = LocalFolder(tmp_path)
    tuned = _tuned(study)["oat"]
    params = {"train.lr": 0.2}
    trials = [_trial(tuned, 0, params, state="died"), _trial(tuned, 1, params)]
    trials.append(SearchTrial(number=2, state="not run", reason="the same as trial 1"))
    keep(study, folder, _search(tuned, trials, [1]))
    plan = tuning_plan(make_plan(study, folder), folder)
    assert [trial.run_key for trial in plan.trials] == [trials[1].run_key]
