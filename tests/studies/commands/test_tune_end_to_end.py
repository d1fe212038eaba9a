import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml
from mlflow.tracking import MlflowClient
from optuna.storages import RDBStorage
from optuna.trial import TrialState

import studies
from benchmarks.servers import postgres_programs, postgres_server
from studies.errors import QueryError, TuningError
from studies.planning.expand import make_plan
from studies.statistics.frontier import pareto_mask
from studies.storage.local import LocalFolder
from studies.study_file.loading import load_study
from studies.tuning.database import optuna_faults
from studies.tuning.record import TUNING_FILE, searches_of, tuning_plan
from tests.studies.cli.shell import Oat
from tests.studies.commands.tuned import open_of
from tests.studies.marks import NOLOAD

pytestmark = [NOLOAD]

OAT = Path(sys.executable).with_name("oat")

# from end to end


STUDY: dict[str, Any] = {
    "name": "tuned",
    "data": {"name": "digits", "train_images": 128},
    "model": {"name": "resnet8", "width": 4},
    "train": {"epochs": 2, "batch_size": 16, "val_images": 32},
    "attack": {"eps": 0.1, "steps": 1},
    "seeds": [0, 1],
    "methods": [
        {"name": "oat", "lambda_choices": [0, 1]},
        {"name": "pgd_at", "lam": [0.5, 1]},
        {"name": "trades", "beta": 1},
    ],
    "evaluate": {"attacks": [{"name": "pgd", "steps": 1}], "images": 50, "masking_images": 0},
    "tune": {
        "budget": "1h",  # until a trial has told what it costs
        "attack": {"steps": 1},
        "images": 50,
        "space": {
            "oat": {"zero_share": {"choices": [None, 0.25, 0.5, 0.75]}},
            "pgd_at": {"lam": {"low": 0.2, "high": 1}},
        },
    },
}


@dataclass(frozen=True)
class Ended:
    """How a command has ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Home:
    """A folder in which a study is tuned."""

    folder: Path

    @property
    def storage(self) -> Path:
        """Where results lie."""
        return self.folder / "outputs"

    @property
    def url(self) -> str:
        """Optuna's database."""
        return f"sqlite:///{self.storage / 'optuna.db'}"

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        """Start the command."""
        return subprocess.Popen(
            [OAT, *map(str, arguments)],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"},
        )

    def oat(self, *arguments: object) -> Ended:
        """Run the command to its end."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=1000)
        return Ended(process.returncode, out, err)

    def trials(self, *states: TrialState) -> list[optuna.trial.FrozenTrial]:
        """Return what Optuna has of all methods."""
        found = []
        for summary in optuna.get_all_study_summaries(self.url):
            search = optuna.load_study(study_name=summary.study_name, storage=self.url)
            found += search.get_trials(states=states or None)
        return found

    def states(self) -> set[str]:
        """Return the states of Optuna's trials; Optuna itself would make what is not there yet."""
        try:
            with closing(sqlite3.connect(f"file:{self.storage}/optuna.db?mode=ro", uri=True)) as db:
                return {state for (state,) in db.execute("SELECT state FROM trials")}
        except sqlite3.OperationalError:
            return set()

    def runs(self, kind: str, database: str = "mlflow.db") -> list[Any]:
        """Return MLflow's runs of a kind."""
        client = MlflowClient(tracking_uri=f"sqlite:///{self.storage / database}")
        experiment = client.get_experiment_by_name("tuned")
        return list(client.search_runs([experiment.experiment_id], f"tags.`oat.kind` = '{kind}'"))

    def folder_of(self, run_key: str) -> LocalFolder:
        """Return a trial's folder."""
        return LocalFolder(self.storage / "tuned" / "trials" / run_key)

    def set_budget(self, seconds: float) -> None:
        """Write another budget into the study file."""
        path = self.folder / "tuned.yaml"
        study = yaml.safe_load(path.read_text())
        study["tune"]["budget"] = f"{seconds:.3f}s"
        path.write_text(yaml.safe_dump(study))

    def longest(self) -> float:
        """Return the device seconds of the longest trial that is done."""
        return max(
            json.loads(path.read_text())["trained"]["device_seconds"]
            for path in (self.storage / "tuned" / "trials").glob("*/result.json")
        )

    def training_ids(self) -> dict[str, str]:
        """Return which training each finished trial is of."""
        found = {}
        for path in (self.storage / "tuned" / "trials").glob("*/result.json"):
            found[path.parent.name] = json.loads(path.read_text())["trained"]["training_id"]
        return found


def _kill_when_one_runs(home: Home) -> None:
    """Tune, and kill the driver once a trial is done and another is at work."""
    process = home.start("tune", "tuned.yaml")
    until = time.monotonic() + 1000
    try:
        while not home.states() >= {"COMPLETE", "RUNNING"}:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < until
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def tuned_home(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Ended]:
    """A study that was tuned, killed on the way, and tuned to its end.

    Its budget is four trials of this machine, by the longest that it has seen.
    """
    home = Home(tmp_path_factory.mktemp("tuned"))
    (home.folder / "tuned.yaml").write_text(yaml.safe_dump(STUDY))
    for _ in range(3):
        _kill_when_one_runs(home)
        if "RUNNING" in home.states():  # else it was finished at that very moment
            break
    home.set_budget(4 * home.longest())
    return home, home.oat("tune", "tuned.yaml", "--json")


@pytest.fixture
def copied(tuned_home: tuple[Home, Ended], tmp_path: Path) -> Home:
    """The same, yours to change; paths in its databases still point to the other."""
    return Home(Path(shutil.copytree(tuned_home[0].folder, tmp_path / "home")))


END_TO_END = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.mlflow,
]


def _marked(test: Any) -> Any:
    for mark in END_TO_END:
        test = mark(test)
    return test


def _front(values: list[tuple[float, float]]) -> set[tuple[float, float]]:
    return {value for value, on in zip(values, pareto_mask(values), strict=True) if on}


@_marked
def test_a_kill_on_the_way_loses_and_doubles_nothing(tuned_home: tuple[Home, Ended]) -> None:
    home, ended = tuned_home
    assert ended.code == 0, ended.err
    trials = home.trials()
    assert {trial.state for trial in trials} == {TrialState.COMPLETE, TrialState.FAIL}
    done = [t.user_attrs["run_key"] for t in trials if t.state == TrialState.COMPLETE]
    assert len(done) == len(set(done))
    dead = [t for t in trials if t.user_attrs["ended"] == "died"]
    assert dead
    assert {t.user_attrs["run_key"] for t in dead if "run_key" in t.user_attrs} <= set(done)
    assert set(home.training_ids()) == set(done), "every training is told of"
    assert "died with an earlier run" in ended.err
    # the same in MLflow
    keys = Counter(run.data.tags["oat.key"] for run in home.runs("trial"))
    assert keys == Counter(done)
    assert {run.info.status for run in home.runs("trial")} == {"FINISHED"}
    assert home.runs("point") == []
    parents = {run.data.tags["mlflow.parentRunId"] for run in home.runs("trial")}
    (study_run,) = home.runs("study")
    assert parents == {study_run.info.run_id}


@_marked
def test_the_front_of_optuna_is_that_of_mlflow(tuned_home: tuple[Home, Ended]) -> None:
    home, _ = tuned_home
    rows: dict[str, list[tuple[float, float]]] = {}
    for run in home.runs("validation"):
        value = (run.data.metrics["sa"], run.data.metrics["ra"])
        rows.setdefault(run.data.params["method"], []).append(value)
    assert set(rows) == {"oat", "pgd_at", "trades"}
    for summary in optuna.get_all_study_summaries(home.url):
        search = optuna.load_study(study_name=summary.study_name, storage=home.url)
        done = search.get_trials(states=(TrialState.COMPLETE,))
        told = [(p["sa"], p["ra"]) for t in done for p in t.user_attrs["points"]]
        mine = rows[summary.study_name.partition("/")[2].split()[0]]
        assert sorted(told) == sorted(mine)
        assert _front(told) == _front(mine)
        for t in done:
            points = t.user_attrs["points"]
            assert t.values == [np.mean([p[name] for p in points]) for name in ("sa", "ra")]
    # they are no points of the study
    with pytest.raises(QueryError, match="no points of study 'tuned' yet"):
        studies.runs(str(home.folder / "tuned.yaml"), storage=home.storage)


@_marked
def test_every_method_has_one_budget_and_the_one_without_a_space_is_trained_once(
    tuned_home: tuple[Home, Ended],
) -> None:
    home, ended = tuned_home
    searches = {s["method"].split()[0]: s for s in json.loads(ended.out)["searches"]}
    (budget,) = {s["budget"] for s in searches.values()}
    assert searches["trades"]["ended"] == "there is nothing to tune: trained once"
    assert "trades has nothing to tune; it is trained once." in ended.err
    assert [t["state"] for t in searches["trades"]["trials"]] == ["done"]
    assert searches["oat"]["ended"] in {"the budget is spent", "every candidate has been tried"}
    pgd_at = searches["pgd_at"]
    assert pgd_at["ended"] == "the budget is spent"
    took = [t["device_seconds"] for t in pgd_at["trials"] if t["state"] == "done"]
    assert pgd_at["device_seconds"] == pytest.approx(sum(took))
    # how long a trial takes is the machine's affair; what was spent when one was let in is not
    (name,) = (n for n in optuna.study.get_all_study_names(home.url) if "/pgd_at" in n)
    trials = optuna.load_study(study_name=name, storage=home.url).trials
    told = [t for t in trials if t.state == TrialState.COMPLETE]
    died = {t.user_attrs.get("run_key") for t in trials if t.state == TrialState.FAIL}
    for begun in (t for t in told if t.user_attrs["run_key"] not in died):
        spent = [
            t.user_attrs["device_seconds"]
            for t in told
            if t.datetime_complete is not None
            and begun.datetime_start is not None
            and t.datetime_complete <= begun.datetime_start
        ]
        assert sum(spent) < budget
    speed = np.median([t.user_attrs["device_seconds"] / t.user_attrs["units"] for t in told])
    dearest = speed * max(t.user_attrs["units"] for t in told)
    assert pgd_at["device_seconds"] + dearest > budget  # there was no room for another


@_marked
def test_a_second_time_does_nothing_and_says_so(
    copied: Home, oat: Oat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copied.folder)
    before = len(copied.trials())
    # nor is a smaller budget refused, as every method has been trained
    again = oat("tune", "tuned.yaml", "--set", "tune.budget=0.001s")
    assert again.code == 0, again.err
    assert "pgd_at: the budget is spent." in again.text
    assert "trades: there is nothing to tune: trained once." in again.text
    assert len(copied.trials()) == before
    # and with more to spend, it goes on
    trained = copied.training_ids()
    record = json.loads((copied.storage / "tuned" / TUNING_FILE).read_text())
    search = record["searches"][1]
    longest = max(trial["device_seconds"] for trial in search["trials"])
    budget = f"tune.budget={search['device_seconds'] + 2.5 * longest:.3f}s"
    ended = copied.oat("tune", "tuned.yaml", "--set", budget)
    assert ended.code == 0, ended.err
    more = copied.training_ids()
    assert len(more) > len(trained)
    assert more.items() >= trained.items()
    refused = oat("tune", "tuned.yaml", "--set", "tune.space.pgd_at.lam.low=0.1")
    assert refused.code == 2
    assert "with another space; give another `--optuna-storage`" in refused.err
    assert "Traceback" not in refused.err


@_marked
def test_the_winners_run_as_they_are_and_are_not_trained_again(
    copied: Home, oat: Oat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copied.folder)
    trained = copied.training_ids()
    tuned_file = copied.storage / "tuned" / "tuned.yaml"
    record = json.loads((copied.storage / "tuned" / TUNING_FILE).read_text())
    won = {key for search in record["searches"] for key in search["winners"]}
    ended = copied.oat("run", tuned_file)
    assert ended.code == 0, ended.err
    after = copied.training_ids()
    assert after.items() >= trained.items(), "what was trained for the search is used again"
    table = studies.points(str(tuned_file), storage=copied.storage)
    assert set(table["seed"]) == {0, 1}
    assert won <= set(table["run_key"])
    assert table["point_key"].is_unique
    compared = oat("compare", tuned_file, "--verbose")
    assert compared.code == 0, compared.err
    assert "What tuning gained" in compared.text
    page = (copied.storage / "tuned" / "report" / "index.html").read_text()
    assert "What tuning gained" in page
    assert "The winners were chosen on held-out images" in page
    # MLflow has both kinds of points, apart, and can be rebuilt
    runs = {kind: _keys(copied, kind) for kind in ("trial", "point", "validation")}
    assert runs["point"] == set(table["point_key"])
    assert not runs["point"] & runs["validation"]
    (copied.storage / "mlflow.db").unlink()
    ended = copied.oat("sync", tuned_file)
    assert ended.code == 0, ended.err
    assert f"{len(table)} points" in ended.out
    # this process has the earlier database open, and would not see that it is another
    (copied.storage / "mlflow.db").rename(copied.storage / "rebuilt.db")
    assert {kind: _keys(copied, kind, "rebuilt.db") for kind in runs} == runs
    states = {run.info.status for kind in runs for run in copied.runs(kind, "rebuilt.db")}
    assert states == {"FINISHED"}


def _keys(home: Home, kind: str, database: str = "mlflow.db") -> set[str]:
    found = [run.data.tags["oat.key"] for run in home.runs(kind, database)]
    assert len(found) == len(set(found))
    return set(found)


@_marked
def test_the_record_is_what_the_databases_say(tuned_home: tuple[Home, Ended]) -> None:
    home, ended = tuned_home
    folder = LocalFolder(home.storage / "tuned")
    record = json.loads(folder.read(TUNING_FILE))
    assert json.loads(ended.out)["searches"] == record["searches"]
    plan = make_plan(load_study(str(home.folder / "tuned.yaml")), folder)
    assert {t.run_key for t in tuning_plan(plan, folder).trials} == set(home.training_ids())
    assert all(search.winners for search in searches_of(record))


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.skipif(postgres_programs() is None, reason="PostgreSQL is not installed")
def test_a_database_behind_a_password_holds_searches_and_the_password_is_never_shown(
    tunable: dict[str, Any],
) -> None:
    with postgres_server() as server:
        url = server.make("optuna")
        with optuna_faults(url):
            database = RDBStorage(url)
            searches = open_of(tunable, database, url)
            for search in searches:
                search.ask()
        database.engine.dispose()
        tunable["tune"]["images"] = 19
        with pytest.raises(TuningError) as caught:
            open_of(tunable, RDBStorage(url), url)
        assert server.password not in str(caught.value)
        wrong = url.replace(server.password, "n0tThis0ne")
        with pytest.raises(TuningError) as caught, optuna_faults(wrong):
            RDBStorage(wrong)
        assert "n0tThis0ne" not in str(caught.value)
        assert "password authentication failed" in str(caught.value)
