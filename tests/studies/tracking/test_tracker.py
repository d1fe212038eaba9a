import json
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from studies.planning.plan import Plan
from studies.results.masking import CHECK_COLUMNS
from studies.results.points import COLUMNS, with_attack_columns
from studies.results.reading import study_points
from studies.storage.sealed import seal
from studies.study_file.loading import load_study
from studies.study_file.study import Study
from studies.tracking.background import BackgroundSync
from studies.tracking.run_values import flat
from studies.tracking.tracker import Tracker
from studies.tracking.trial_runs import EPOCH_METRICS
from studies.trial.records import read_epochs
from studies.trial.run import run_trial
from tests.studies.marks import NOLOAD
from tests.studies.tracking.tracked import (
    finish,
    folder_of,
    plan_of,
    runs_of,
    snapshot_of,
    steps_of,
    uri_of,
)

pytestmark = [pytest.mark.mlflow, NOLOAD]


def _is_whole(storage: Path, plan: Plan) -> None:
    """Check that there is one finished run for each key, each under its parent."""
    (study,) = runs_of(storage, "study")
    trials = {run.data.tags["oat.run_key"]: run for run in runs_of(storage, "trial")}
    assert len(trials) == len(runs_of(storage, "trial"))
    assert trials.keys() == {trial.run_key for trial in plan.trials}
    points = Counter(run.data.tags["oat.point_key"] for run in runs_of(storage, "point"))
    assert points == Counter(p["point_key"] for t in plan.trials for p in t.job["points"])
    assert {run.info.status for run in runs_of(storage)} == {"FINISHED"}
    for trial in trials.values():
        assert trial.data.tags["mlflow.parentRunId"] == study.info.run_id
    held_out = Counter(run.data.tags["oat.point_key"] for run in runs_of(storage, "validation"))
    assert held_out == Counter(p["point_key"] for t in plan.trials for p in t.job["held_out"])
    for point in [*runs_of(storage, "point"), *runs_of(storage, "validation")]:
        parent = trials[point.data.tags["oat.run_key"]]
        assert point.data.tags["mlflow.parentRunId"] == parent.info.run_id


def _equals_storage(storage: Path, plan: Plan) -> None:
    """Check that MLflow gives back the very points that storage has."""
    expected = study_points(plan, folder_of(storage)).drop(columns="folder")
    found = Tracker(uri_of(storage), "tiny").points()
    pd.testing.assert_frame_equal(found, with_attack_columns(expected), check_exact=True)


def test_a_finished_study_has_one_run_for_each_key(tiny: dict[str, Any], synced: Path) -> None:
    plan = plan_of(tiny, synced)
    _is_whole(synced, plan)
    assert len(runs_of(synced)) == 1 + 4 + 5 + 5


def test_points_come_back_exactly_as_storage_has_them(tiny: dict[str, Any], synced: Path) -> None:
    _equals_storage(synced, plan_of(tiny, synced))


def test_syncing_again_changes_nothing(tiny: dict[str, Any], synced: Path) -> None:
    before = snapshot_of(synced)
    finish(plan_of(tiny, synced), synced)
    tracker = finish(plan_of(tiny, synced), synced)
    tracker.sync(plan_of(tiny, synced), folder_of(synced))
    table = study_points(plan_of(tiny, synced), folder_of(synced))
    tracker.close(plan_of(tiny, synced), folder_of(synced), table)
    assert snapshot_of(synced) == before


def test_a_deleted_database_is_rebuilt_with_the_same_points(
    tiny: dict[str, Any], synced: Path, empty_database: Path
) -> None:
    before = Tracker(uri_of(synced), "tiny").points()
    rebuilt = synced / "rebuilt"
    shutil.copytree(synced / "tiny", rebuilt / "tiny")
    shutil.copy(empty_database, rebuilt / "mlflow.db")
    tracker = finish(plan_of(tiny, rebuilt), rebuilt)
    pd.testing.assert_frame_equal(tracker.points(), before, check_exact=True)
    _is_whole(rebuilt, plan_of(tiny, rebuilt))


def test_an_experiment_that_was_deleted_is_taken_up_again(
    tiny: dict[str, Any], synced: Path
) -> None:
    client = MlflowClient(tracking_uri=uri_of(synced))
    client.delete_experiment(client.get_experiment_by_name("tiny").experiment_id)
    finish(plan_of(tiny, synced), synced)
    _is_whole(synced, plan_of(tiny, synced))


@pytest.mark.parametrize("kind", ["study", "trial", "point"])
def test_a_run_that_a_crash_left_without_its_contents_is_made_whole(
    kind: str, tiny: dict[str, Any], synced: Path
) -> None:
    """A driver dies between opening a run and writing what it holds."""
    before = {run.data.tags["oat.key"]: run for run in runs_of(synced, kind)}
    client = MlflowClient(tracking_uri=uri_of(synced))
    whole = runs_of(synced, kind)[0]
    for run in runs_of(synced):
        if run.data.tags.get("mlflow.parentRunId") == whole.info.run_id and kind == "trial":
            client.delete_run(run.info.run_id)
    client.delete_run(whole.info.run_id)
    names = ("oat.kind", "oat.key", "oat.study", "oat.run_key", "oat.point_key")
    tags = {name: whole.data.tags[name] for name in names if name in whole.data.tags}
    if "mlflow.parentRunId" in whole.data.tags:
        tags["mlflow.parentRunId"] = whole.data.tags["mlflow.parentRunId"]
    client.create_run(whole.info.experiment_id, tags=tags, run_name=whole.info.run_name)

    plan = plan_of(tiny, synced)
    finish(plan, synced)
    _is_whole(synced, plan)
    _equals_storage(synced, plan)
    after = {run.data.tags["oat.key"]: run for run in runs_of(synced, kind)}
    assert {key: run.data.params for key, run in after.items()} == {
        key: run.data.params for key, run in before.items()
    }
    assert {key: run.data.metrics for key, run in after.items()} == {
        key: run.data.metrics for key, run in before.items()
    }


@pytest.mark.parametrize("kind", ["study", "trial", "point"])
def test_a_run_that_someone_deleted_is_brought_back_in_its_place(
    kind: str, tiny: dict[str, Any], synced: Path
) -> None:
    client = MlflowClient(tracking_uri=uri_of(synced))
    client.delete_run(runs_of(synced, kind)[0].info.run_id)
    plan = plan_of(tiny, synced)
    finish(plan, synced)
    _is_whole(synced, plan)
    _equals_storage(synced, plan)


@pytest.mark.parametrize("kind", ["study", "trial", "point"])
def test_of_several_runs_with_one_key_one_stays(
    kind: str, tiny: dict[str, Any], synced: Path
) -> None:
    client = MlflowClient(tracking_uri=uri_of(synced))
    for run in runs_of(synced, kind):
        again = client.create_run(run.info.experiment_id, tags=run.data.tags)
        client.set_terminated(again.info.run_id, "FINISHED")
    plan = plan_of(tiny, synced)
    finish(plan, synced)
    _is_whole(synced, plan)
    _equals_storage(synced, plan)


def test_runs_that_were_left_open_are_closed(tiny: dict[str, Any], synced: Path) -> None:
    client = MlflowClient(tracking_uri=uri_of(synced))
    experiment = client.get_experiment_by_name("tiny").experiment_id
    lost = [
        client.create_run(experiment, tags=tags).info.run_id
        for tags in ({}, {"oat.kind": "trial", "oat.key": "0123456789ab"})
    ]
    finish(plan_of(tiny, synced), synced)
    assert [client.get_run(run_id).info.status for run_id in lost] == ["KILLED", "KILLED"]
    assert not [run for run in runs_of(synced) if run.info.status == "RUNNING"]
    _equals_storage(synced, plan_of(tiny, synced))


def test_a_changed_study_takes_its_trials_along(tiny: dict[str, Any], synced: Path) -> None:
    trials = {run.info.run_id for run in runs_of(synced, "trial")}
    (old,) = runs_of(synced, "study")
    plan = plan_of(tiny, synced, "methods.1.lam=[0, 0.5, 1]")
    finish(plan, synced)
    studies = runs_of(synced, "study")
    assert len(studies) == 2
    (new,) = [run for run in studies if run.info.run_id != old.info.run_id]
    assert new.info.status == "FAILED"  # one of its trials is missing
    assert {run.info.run_id for run in runs_of(synced, "trial")} == trials
    assert {run.data.tags["mlflow.parentRunId"] for run in runs_of(synced, "trial")} == {
        new.info.run_id
    }
    assert (new.data.metrics["trials"], new.data.metrics["trials_done"]) == (5, 4)


def test_each_kind_of_run_holds_what_the_architecture_lists(
    tiny: dict[str, Any], synced: Path
) -> None:
    plan = plan_of(tiny, synced)
    (study,) = runs_of(synced, "study")
    assert study.data.params["train.epochs"] == "1"
    assert study.data.params["data.name"] == "digits"
    assert study.data.metrics["trials"] == 4
    assert study.data.metrics["points"] == 5
    assert study.data.metrics["device_hours"] > 0

    configs = {trial.run_key: trial.job["config"] for trial in plan.trials}
    for run in runs_of(synced, "trial"):
        config = configs[run.data.tags["oat.run_key"]]
        assert run.data.params["method.name"] == config["method"]["name"]
        assert float(run.data.params["attack.eps"]) == 0.1
        assert run.data.metrics.keys() >= {*EPOCH_METRICS, "device_seconds", "parameters"}
        assert "time" not in run.data.metrics

    storage = study_points(plan, folder_of(synced)).set_index("point_key")
    for run in runs_of(synced, "point"):
        row = storage.loc[run.data.tags["oat.point_key"]]
        missing = set(CHECK_COLUMNS)  # none were made
        missing |= {name for name in ("lam", "beta") if pd.isna(row[name])}
        numbers = {name for name, kind in COLUMNS.items() if kind != "str"}
        assert run.data.metrics.keys() == (numbers - missing) | {"ra_pgd1"}
        assert run.data.metrics["ra_pgd1"] == row["ra"]
        assert run.data.tags["oat.masking"] == row["masking"] == "not checked"
        assert not missing & run.data.params.keys()
        assert ("beta" in run.data.metrics) == (row["method"] == "trades")
        assert run.data.params["method"] == row["method"]
        for name, value in run.data.metrics.items():
            assert name == "ra_pgd1" or value == row[name]
            assert value < 1e300


def test_the_frontier_is_one_query(tiny: dict[str, Any], synced: Path) -> None:
    client = MlflowClient(tracking_uri=uri_of(synced))
    experiment = client.get_experiment_by_name("tiny").experiment_id
    points = study_points(plan_of(tiny, synced), folder_of(synced))
    level = float(points["ra"].median())
    found = client.search_runs(
        [experiment], f"tags.\"oat.kind\" = 'point' and metrics.ra > {level}"
    )
    assert len(found) == (points["ra"] > level).sum()


def test_an_experiment_without_points_gives_an_empty_frame(fresh: Path) -> None:
    table = Tracker(uri_of(fresh), "other").points()
    assert len(table) == 0
    # texts are of another type in pandas 2
    assert table.dtypes.to_dict() == {
        name: pd.Series([], dtype=kind).dtype for name, kind in COLUMNS.items()
    }


def test_a_diverged_and_a_failed_trial_are_closed_as_failed(
    tiny: dict[str, Any], fresh: Path
) -> None:
    plan = plan_of(tiny, fresh, "seeds=[0, 1]")
    diverged, failed, untouched = plan.trials[4:7]
    folder_of(fresh).write(
        f"trials/{diverged.run_key}/result.json",
        json.dumps(seal({"status": "diverged", "epoch": 3, "error": "The loss is nan."})).encode(),
    )
    folder_of(fresh).write(
        f"trials/{failed.run_key}/failure.json", json.dumps(seal({"error": "gone"})).encode()
    )
    finish(plan_of(tiny, fresh, "seeds=[0, 1]"), fresh)
    runs = {run.data.tags["oat.run_key"]: run for run in runs_of(fresh, "trial")}
    assert runs[diverged.run_key].info.status == "FAILED"
    assert runs[diverged.run_key].data.tags["oat.diverged_epoch"] == "3"
    assert runs[failed.run_key].info.status == "FAILED"
    assert untouched.run_key not in runs
    assert Counter(run.info.status for run in runs_of(fresh, "trial")) == {
        "FINISHED": 4,
        "FAILED": 2,
    }


def test_a_trial_that_was_trained_anew_replaces_its_runs(
    tiny: dict[str, Any], synced: Path, train_all: Callable[[Study, Path], None]
) -> None:
    trial = plan_of(tiny, synced).trials[0]
    old = {run.info.run_id for run in runs_of(synced) if trial.run_key in run.data.tags.values()}
    others = {run.info.run_id for run in runs_of(synced)} - old
    folder_of(synced).write(f"trials/{trial.run_key}/result.json", b"damaged")
    train_all(load_study(tiny), synced)
    plan = plan_of(tiny, synced)
    finish(plan, synced)
    _is_whole(synced, plan)
    _equals_storage(synced, plan)
    now = {run.info.run_id for run in runs_of(synced)}
    # the points' tag of the run key names the trial's runs too
    assert others - old <= now
    assert not any(r.data.tags.get("oat.kind") == "trial" and r.info.run_id in old
                   for r in runs_of(synced))  # fmt: skip


def test_epochs_are_logged_once_each_while_a_trial_runs_and_after(
    tiny: dict[str, Any], tmp_path: Path, empty_database: Path
) -> None:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    tiny["methods"] = [{"name": "pgd_at", "lam": 1}]
    plan = plan_of(tiny, tmp_path, "train.epochs=6", "train.val_every=3")
    (trial,) = plan.trials
    folder = folder_of(tmp_path).sub(f"trials/{trial.run_key}")
    told = 0

    for stop in (2, 4, 0):  # killed twice, each time with a new process to follow
        tracker = Tracker(uri_of(tmp_path), "tiny")
        tracker.load()
        follower = BackgroundSync(tracker, plan, folder_of(tmp_path))
        follower.start()

        def report(record: dict[str, Any], at: int = stop, to: BackgroundSync = follower) -> None:
            nonlocal told
            told += 1
            to.changed(trial.run_key)
            if record.get("epoch") == at:
                raise KeyboardInterrupt

        if stop:
            with pytest.raises(KeyboardInterrupt):
                run_trial(trial.job, folder, report)
        else:
            run_trial(trial.job, folder, report)
        follower.close()
        assert follower.error is None
        (steps,) = steps_of(tmp_path, "train_loss").values()
        assert steps == list(range(1, (stop or 6) + 1))
    assert told == 6 + 2, "six epochs, a point, and one on held-out images"

    plan = plan_of(tiny, tmp_path, "train.epochs=6", "train.val_every=3")
    finish(plan, tmp_path)
    _is_whole(tmp_path, plan)
    _equals_storage(tmp_path, plan)
    assert list(steps_of(tmp_path, "train_loss").values()) == [[1, 2, 3, 4, 5, 6]]
    assert list(steps_of(tmp_path, "sa_val").values()) == [[3, 6]]


def test_the_curve_of_a_training_that_was_lost_gives_way_to_the_one_in_storage(
    tiny: dict[str, Any], synced: Path
) -> None:
    """Its checkpoints were gone, so that the same trial began anew, and went further."""
    plan = plan_of(tiny, synced)
    trial = plan.trials[0]
    folder = folder_of(synced).sub(f"trials/{trial.run_key}")
    stored = read_epochs(folder)
    other: list[Any] = [{**e, "train_loss": e["train_loss"] + 1} for e in stored]
    folder.write("epochs.jsonl", "".join(json.dumps(e) + "\n" for e in other).encode())
    finish(plan, synced)
    client = MlflowClient(tracking_uri=uri_of(synced))
    (run,) = (
        run for run in runs_of(synced, "trial") if run.data.tags["oat.run_key"] == trial.run_key
    )
    logged = client.get_metric_history(run.info.run_id, "train_loss")
    assert [(m.step, m.value) for m in logged] == [(e["epoch"], e["train_loss"]) for e in other]
    _is_whole(synced, plan)
    _equals_storage(synced, plan)


def test_a_trial_that_is_named_often_is_followed_once(tiny: dict[str, Any], fresh: Path) -> None:
    plan = plan_of(tiny, fresh)
    tracker = Tracker(uri_of(fresh), "tiny")
    tracker.load()
    follower = BackgroundSync(tracker, plan, folder_of(fresh))
    follower.start()
    for trial in plan.trials:
        for _ in range(3):
            follower.changed(trial.run_key)
    follower.close()
    assert not follower.is_alive()
    finish(plan, fresh)
    _is_whole(fresh, plan)


def test_a_plan_without_results_opens_no_trial(tiny: dict[str, Any], fresh: Path) -> None:
    plan = plan_of(tiny, fresh, "train.epochs=9")
    assert {trial.state for trial in plan.trials} == {"missing"}
    finish(replace(plan, foreign=()), fresh)
    assert runs_of(fresh, "trial") == runs_of(fresh, "point") == []
    assert [run.info.status for run in runs_of(fresh, "study")] == ["FAILED"]


def test_what_mlflow_cannot_change_in_the_run_of_a_point_is_written_anew(
    tiny: dict[str, Any], synced: Path
) -> None:
    plan = plan_of(tiny, synced)
    rows = [*runs_of(synced, "point"), *runs_of(synced, "validation")]
    client = MlflowClient(tracking_uri=uri_of(synced))
    # settings that points share were others: a study whose λ have changed, or its learning rate
    with sqlite3.connect(synced / "mlflow.db") as database:
        database.execute("update params set value = 'old' where key = 'budget'")
    client.log_metric(rows[0].info.run_id, CHECK_COLUMNS[0], 0.5)  # of a check that was dropped
    finish(plan, synced)
    _is_whole(synced, plan)
    _equals_storage(synced, plan)
    before = snapshot_of(synced)
    finish(plan, synced)
    assert snapshot_of(synced) == before


def test_arguments_of_the_users_are_one_param_whatever_their_keys_are() -> None:
    given = {"data": {"name": "mine:make", "args": {"session": {"left|right": 1}, "ä": "λ"}}}
    assert flat(given) == {
        "data.name": "mine:make",
        "data.args": '{"session": {"left|right": 1}, "ä": "λ"}',
    }
