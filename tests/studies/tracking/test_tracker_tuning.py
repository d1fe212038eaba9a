import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

import studies
from studies.errors import TuningError
from studies.planning.expand import make_plan
from studies.results.points import COLUMNS
from studies.storage.sealed import write_sealed
from studies.study_file.loading import load_study
from studies.tracking.tracker import Tracker
from studies.trial.run import run_trial
from studies.tuning.candidates import tuned_methods
from studies.tuning.record import TUNING_FILE, WINNERS_FILE, keep, read_record, tuning_plan
from studies.tuning.winners import Search, SearchTrial
from tests.studies.marks import NOLOAD
from tests.studies.tracking.tracked import finish, folder_of, plan_of, runs_of, uri_of

pytestmark = [pytest.mark.mlflow, NOLOAD]


@pytest.fixture
def searched(tunable: dict[str, Any], fresh: Path) -> Path:
    """The finished tiny study, whose own settings were also judged on held-out images."""
    study, folder = load_study(tunable), folder_of(fresh)
    for tuned in tuned_methods(study):
        trials = []
        for number, start in enumerate(tuned.starts()):
            (planned,) = make_plan(tuned.candidate(start), folder, "val").trials
            run_trial(planned.job, folder.sub(f"trials/{planned.run_key}"), lambda _: None)
            entry = tuned.entry(start)
            trials.append(SearchTrial(number, "done", planned.run_key, entry, True))
        ended = "the budget is spent"
        keep(study, folder, Search(tuned.name, False, 1, 9.0, 9.0, ended, trials, [], []))
    folder.write(WINNERS_FILE, b"name: tiny")
    return fresh


def test_points_of_tuning_are_runs_of_a_kind_of_their_own(
    tunable: dict[str, Any], searched: Path
) -> None:
    folder, plan = folder_of(searched), plan_of(tunable, searched)
    tuning = tuning_plan(plan, folder)
    tracker = finish(plan, searched)
    before = tracker.points()
    tracker.keep_tuning(folder, tuning)
    pd.testing.assert_frame_equal(tracker.points()[[*COLUMNS]], before[[*COLUMNS]])
    held = tracker.points(kind="validation")
    # tuning has judged 20 images; by the others a comparison chooses λ
    assert held.groupby("images")["point_key"].nunique().to_dict() == {20: 5, 135: 5}
    assert not set(held["point_key"]) & set(before["point_key"])
    assert Counter(run.data.tags["oat.kind"] for run in runs_of(searched)) == {
        "study": 1,
        "trial": 4,
        "point": 5,
        "validation": 10,
    }
    (study_run,) = runs_of(searched, "study")
    client = MlflowClient(tracking_uri=uri_of(searched))
    kept = [file.path for file in client.list_artifacts(study_run.info.run_id, "tuning")]
    assert sorted(kept) == ["tuning/tuned.yaml", "tuning/tuning.json"]
    index = json.loads((searched / "tiny" / "mlflow.json").read_text())
    assert set(index["runs"]) == set(before["point_key"]), "the report links to test points"


def test_points_of_tuning_are_rebuilt_with_the_others_and_only_once(
    tunable: dict[str, Any], searched: Path, empty_database: Path
) -> None:
    for _ in range(2):
        assert studies.sync(tunable, storage=searched) == 5
        kinds = Counter(run.data.tags["oat.kind"] for run in runs_of(searched))
        assert kinds == {"study": 1, "trial": 4, "point": 5, "validation": 10}
    (study_run,) = runs_of(searched, "study")
    assert study_run.info.status == "FINISHED"
    known = Tracker(uri_of(searched), "tiny").points(kind="validation")
    shutil.copy(empty_database, searched / "mlflow.db")
    assert studies.sync(tunable, storage=searched) == 5
    again = Tracker(uri_of(searched), "tiny").points(kind="validation")
    pd.testing.assert_frame_equal(again, known, check_exact=True)
    assert len(studies.runs(tunable, storage=searched)) == 5


def test_a_damaged_record_of_tuning_keeps_no_point_of_the_study_from_mlflow(
    tunable: dict[str, Any], searched: Path
) -> None:
    folder_of(searched).write(TUNING_FILE, b"{}")
    with pytest.raises(TuningError, match="`oat tune` writes it anew"):
        studies.sync(tunable, storage=searched)
    assert len(runs_of(searched, "point")) == 5


def test_a_trial_of_tuning_that_cannot_be_planned_is_told_and_keeps_no_point_from_mlflow(
    tunable: dict[str, Any], searched: Path
) -> None:
    record = read_record(folder_of(searched))
    assert record is not None
    record["searches"][0]["trials"][0]["entry"]["train"] = {"lr": -1}
    write_sealed(folder_of(searched), TUNING_FILE, record)
    with pytest.raises(
        TuningError, match=r"tuning\.json' has a trial .*`lr` must be.*`oat tune` writes it anew"
    ):
        studies.sync(tunable, storage=searched)
    assert len(runs_of(searched, "point")) == 5


def test_a_kill_before_the_study_of_the_winners_is_written_keeps_nothing_from_mlflow(
    tunable: dict[str, Any], searched: Path
) -> None:
    folder_of(searched).remove(WINNERS_FILE)
    assert studies.sync(tunable, storage=searched) == 5
    assert len(runs_of(searched, "validation")) == 10


def test_a_trial_that_was_trained_anew_replaces_its_points_of_tuning_too(
    tunable: dict[str, Any], searched: Path
) -> None:
    studies.sync(tunable, storage=searched)
    folder, plan = folder_of(searched), plan_of(tunable, searched)
    trial = tuning_plan(plan, folder).trials[0]
    place = folder.sub(f"trials/{trial.run_key}")
    for name in place.names():
        place.remove(name)
    run_trial(trial.job, place, lambda _: None)
    studies.sync(tunable, storage=searched)
    held = Tracker(uri_of(searched), "tiny").points(kind="validation")
    trained = json.loads(place.read("result.json"))["trained"]["training_id"]
    assert set(held[held["run_key"] == trial.run_key]["training_id"]) == {trained}
    assert len(held) == 8, "its one on held-out images is evaluated by the next run"
