"""Tuning a study: what is refused before anything starts, and one study from end to end."""

import io
import itertools
import sqlite3
from collections import Counter
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
import ray
from optuna.storages import RDBStorage
from ray.tune.search import Searcher
from rich.console import Console

import studies
from oat.data import DataError, Dataset
from studies.cluster import capacity
from studies.cluster import launching as runner
from studies.commands import tune as tuning
from studies.commands.tune import check_budget
from studies.errors import TuningError
from studies.planning.expand import make_plan
from studies.planning.plan import Plan
from studies.storage.local import LocalFolder
from studies.study_file.loading import load_study
from studies.trial import run as trial
from studies.trial.records import read_points
from studies.trial.run import run_trial
from studies.tuning.candidates import tuned_methods
from studies.tuning.database import optuna_faults
from tests.studies.commands.tuned import open_of
from tests.studies.marks import NOLOAD

pytestmark = [NOLOAD]


# what is refused


def test_a_budget_of_less_than_one_trial_says_what_one_takes(
    tunable: dict[str, Any], finished: Path
) -> None:
    tunable["tune"]["budget"] = "0.001s"
    study = load_study(tunable)
    plan = make_plan(study, LocalFolder(finished / "tiny"))
    assert plan.measured
    with pytest.raises(TuningError) as caught:
        check_budget(tuned_methods(study), plan, {"trades"})
    said = str(caught.value)
    assert said.startswith("`tune.budget` 0.001s is too small: one trial of oat")
    assert "takes about" in said
    assert "as measured" in said
    unknown = make_plan(study, LocalFolder(finished / "none"))
    with pytest.raises(TuningError, match=r"takes at least .* a rough guess before any has run"):
        check_budget(tuned_methods(study), unknown)
    # a guess that may be wrong by three to each side refuses nothing that may fit
    dearest = max(one.dearest_units() for one in tuned_methods(study)) * unknown.seconds_per_unit
    check_budget(tuned_methods(load_study(tunable, [f"tune.budget={dearest / 2:.9f}s"])), unknown)
    check_budget(tuned_methods(load_study(tunable, ["tune.budget=20h"])), plan)
    check_budget(tuned_methods(study), plan, {tuned.name for tuned in tuned_methods(study)})


def test_every_method_must_fit_not_only_the_first(tunable: dict[str, Any], finished: Path) -> None:
    study = load_study(tunable)
    plan = make_plan(study, LocalFolder(finished / "tiny"))
    methods = tuned_methods(study)
    units = [tuned.dearest_units() for tuned in methods]
    assert units[2] == max(units)
    between = 0.5 * (units[2] + max(units[:2])) * plan.seconds_per_unit
    study = load_study(tunable, [f"tune.budget={between:.6f}s"])
    with pytest.raises(TuningError, match="one trial of trades"):
        check_budget(tuned_methods(study), plan)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"tune": {"images": 19}}, "evaluation"),
        ({"tune": {"space": {}}}, "space"),
        ({"train": {"momentum": 0.5}}, "train"),
        ({"attack": {"eps": 0.2}}, "attack"),
        ({"seeds": [5]}, "seed"),
        ({"tune": {"images": 19}, "model": {"width": 8}}, "model and evaluation"),
    ],
)
def test_a_storage_of_another_study_is_refused_with_what_differs(
    tunable: dict[str, Any], tmp_path: Path, changes: dict[str, Any], what: str
) -> None:
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    database = RDBStorage(url)
    names = [search.study_name for search in open_of(tunable, database, url)]
    assert [search.study_name for search in open_of(tunable, database, url)] == names
    other = deepcopy(tunable)
    for key, value in changes.items():
        other[key] = {**other[key], **value} if isinstance(value, dict) else value
    with pytest.raises(TuningError) as caught:
        open_of(other, database, url)
    said = str(caught.value)
    assert f"with another {what};" in said
    assert "`--optuna-storage`" in said
    assert "`name`" in said


def test_a_study_of_someone_else_in_the_storage_is_refused(
    tunable: dict[str, Any], tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    database = RDBStorage(url)
    name = f"tiny/{tuned_methods(load_study(tunable))[0].name}"
    other = optuna.create_study(study_name=name, storage=url, directions=["maximize", "maximize"])
    other.add_trial(optuna.create_trial(values=[0.5, 0.5]))
    with pytest.raises(TuningError, match="has a study 'tiny/oat"):
        open_of(tunable, database, url)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg2://oat:secret@127.0.0.1:1/optuna",
        "postgresql+nosuchdriver://oat:secret@127.0.0.1/optuna",
        "nosuchthing://oat:secret@127.0.0.1/optuna",
        "not a url",
        "sqlite:////no/such/folder/optuna.db",
    ],
)
def test_a_storage_that_does_not_answer_is_one_sentence_without_its_password(url: str) -> None:
    with pytest.raises(TuningError) as caught, optuna_faults(url):
        RDBStorage(url)
    said = str(caught.value)
    assert said.startswith("Optuna's storage '")
    assert "secret" not in said
    assert "\n" not in said


def test_a_file_that_is_no_database_and_one_of_another_version_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "notes.db"
    text.write_text("these are not the tables you are looking for" * 100)
    with pytest.raises(TuningError, match="file is not a database"), optuna_faults("sqlite://x"):
        RDBStorage(f"sqlite:///{text}")
    path = tmp_path / "optuna.db"
    RDBStorage(f"sqlite:///{path}").engine.dispose()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v0.9.0.a'")
        connection.execute("UPDATE version_info SET schema_version = 3")
    connection.close()
    with (
        pytest.raises(TuningError, match="Optuna's storage") as caught,
        optuna_faults("sqlite://x"),
    ):
        RDBStorage(f"sqlite:///{path}")
    assert "\n" not in str(caught.value)


# test images


class Untouchable:
    """Test images that nobody may look at."""

    def to(self, device: object) -> "Untouchable":
        return self

    def __getattr__(self, name: str) -> None:
        raise AssertionError(f"Tuning has looked at the test images: {name}")


@pytest.mark.parametrize("method", ["oat", "pgd_at"])
def test_tuning_never_looks_at_test_images(
    tunable: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    tunable["evaluate"]["masking_images"] = 10
    real = trial.load

    def without_test(data: Any) -> Dataset:
        return replace(real(data), test=Untouchable())

    monkeypatch.setattr(trial, "load", without_test)
    folder = LocalFolder(tmp_path)
    (tuned,) = (t for t in tuned_methods(load_study(tunable)) if t.block.name == method)
    (planned,) = make_plan(tuned.candidate(tuned.starts()[0]), folder, "val").trials
    place = folder.sub(f"trials/{planned.run_key}")
    outcome = run_trial(planned.job, place, lambda _: None)
    assert outcome["status"] == "done", outcome
    rows, _ = read_points(place, outcome["trained"]["training_id"])
    assert [row["split"] for row in rows] == ["val"] * len(planned.job["points"])
    assert {row["images"] for row in rows} == {20}
    # the same training, judged on test images, needs them
    (planned,) = make_plan(tuned.candidate(tuned.starts()[0]), folder).trials
    assert planned.state == "evaluate"
    with pytest.raises(AssertionError, match="looked at the test images"):
        _raise(run_trial(planned.job, place, lambda _: None))


def _raise(outcome: dict[str, Any]) -> None:
    raise AssertionError(outcome["error"])


def test_points_of_tuning_and_of_the_study_stand_side_by_side(
    tunable: dict[str, Any], storage: Path
) -> None:
    # the study is finished on test images; now a search judges the same weights
    study = load_study(tunable)
    folder = LocalFolder(storage / "tiny")
    before = studies.points(tunable, storage=storage)
    for tuned in tuned_methods(study):
        for start in tuned.starts():
            (planned,) = make_plan(tuned.candidate(start), folder, "val").trials
            assert planned.state == "evaluate"
            run_trial(planned.job, folder.sub(f"trials/{planned.run_key}"), lambda _: None)
    after = studies.points(tunable, storage=storage)
    pd.testing.assert_frame_equal(before, after)
    assert make_plan(study, folder).to_run() == []
    comparison = studies.compare(after)
    assert comparison.gains is None
    pd.testing.assert_frame_equal(comparison.masking, studies.compare(before).masking)


# all but Ray


class Cluster:
    """Runs the trials of a search in this process, one after another."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.interrupt_after = float("inf")

    def search(self, name: str, folder: LocalFolder, make: Any, *_: Any, **options: Any) -> None:
        algorithm = make(lambda trial: {"job": trial.job})
        for number in itertools.count():
            asked = algorithm.suggest(str(number))
            if asked == Searcher.FINISHED:
                return
            self._run(folder, asked["trial"]["job"])
            algorithm.on_trial_complete(str(number), {})

    def launch(self, plan: Plan, folder: LocalFolder, *_: Any, **options: Any) -> dict[str, str]:
        for planned in plan.to_run():
            self._run(folder, planned.job)
        return {}

    def _run(self, folder: LocalFolder, job: Any) -> None:
        if len(self.ran) >= self.interrupt_after:
            raise KeyboardInterrupt
        self.ran.append(job["run_key"])
        run_trial(job, folder.sub(f"trials/{job['run_key']}"), lambda _: None)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Let searches run without Ray."""
    made = Cluster()
    monkeypatch.setattr(runner, "search", made.search)
    monkeypatch.setattr(runner, "launch", made.launch)
    monkeypatch.setattr(capacity, "node_sizes", lambda nodes: [{"CPU": 2.0}])
    monkeypatch.setattr(ray, "nodes", list)
    monkeypatch.setattr(tuning, "join_cluster", lambda *_: None)
    return made


@pytest.mark.mlflow
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_ctrl_c_loses_nothing_and_the_same_command_goes_on(
    tunable: dict[str, Any], tmp_path: Path, cluster: Cluster
) -> None:
    tunable["tune"] |= {
        "budget": "1000s",
        "space": {"oat": {"zero_share": {"choices": [None, 0.25, 0.5]}}},
    }
    console = Console(file=io.StringIO())

    def tune() -> tuning.TuneOutcome:
        return studies.tune(tunable, storage=tmp_path, console=console)

    for interrupt_after in (0, 2, 4):
        cluster.interrupt_after = interrupt_after
        with pytest.raises(KeyboardInterrupt):
            tune()
    cluster.interrupt_after = float("inf")
    outcome = tune()
    assert outcome.complete
    assert outcome.notes == []
    assert sorted(Counter(cluster.ran).values()) == [1] * 6, "3 of OAT, 2 of PGD-AT, 1 of TRADES"
    table = outcome.trials()
    assert set(table[table["state"] == "done"]["run_key"]) == set(cluster.ran)
    assert list(table["state"]).count("died") == 3
    assert {s.ended for s in outcome.searches} == {
        "every candidate has been tried",
        "there is nothing to tune: trained once",
    }
    # another time nothing runs, and the same is found
    ran = list(cluster.ran)
    again = tune()
    assert cluster.ran == ran
    assert [s.dump() for s in again.searches] == [s.dump() for s in outcome.searches]
    assert len(studies.plan(outcome.tuned, storage=tmp_path).trials) == sum(
        len(search.winners) for search in outcome.searches
    )


@pytest.mark.mlflow
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_method_with_nothing_to_tune_that_failed_is_tried_again(
    tunable: dict[str, Any],
    tmp_path: Path,
    cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tunable["methods"] = [{"name": "trades", "beta": 1}]
    tunable["tune"]["space"] = {}
    console = Console(file=io.StringIO())

    def no_data(data: Any) -> Dataset:
        raise DataError("There are no images.")

    with monkeypatch.context() as patched:
        patched.setattr(trial, "load", no_data)
        outcome = studies.tune(tunable, storage=tmp_path, console=console)
    assert not outcome.complete
    assert "trades: no trial was finished, so that the study's own settings stay." in outcome.notes
    assert "There are no images." in outcome.trials()["reason"][0]
    assert len(studies.plan(outcome.tuned, storage=tmp_path).trials) == 1
    outcome = studies.tune(tunable, storage=tmp_path, console=console)
    assert outcome.complete
    assert list(outcome.trials()["state"]) == ["failed", "done"]
