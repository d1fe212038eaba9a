"""Trained models in MLflow, logged with the runs of their trials."""

import shutil
import time
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow.entities import LoggedModel, Run
from mlflow.tracking import MlflowClient
from rich.console import Console

import studies
from studies.deploying.logged import log_models
from studies.deploying.model_logger import logging_models
from studies.errors import TrackingError
from studies.planning.expand import make_plan
from studies.planning.plan import Plan
from studies.storage.local import LocalFolder
from studies.study_file.loading import load_study
from studies.study_file.study import Study
from studies.tracking.logged_models import MODEL, WEIGHTS
from studies.tracking.tracker import Tracker
from studies.trial.records import read_result
from tests.studies.conftest import TrainAll

pytestmark = [
    pytest.mark.slow,
    pytest.mark.mlflow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

METHODS = (
    "{name: oat, lambda_choices: [0, 1]}",
    "{name: pgd_at, lam: [0, 1]}",
    "{name: interpolate, of: [pgd_at λ=0, pgd_at λ=1], alphas: [0, 1]}",
)

OAT, OAT_NAME = "oat lambda_choices=(0.0,1.0)", "oat lambda_choices=(0_0,1_0) seed 0"


@dataclass(frozen=True)
class Place:
    """A study in storage and in MLflow."""

    study: Study
    storage: Path

    @property
    def folder(self) -> LocalFolder:
        return LocalFolder(self.storage / self.study.name)

    @property
    def plan(self) -> Plan:
        return make_plan(self.study, self.folder)

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.storage / 'mlflow.db'}"

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(tracking_uri=self.uri)

    @property
    def experiment(self) -> str:
        found = self.client.get_experiment_by_name(self.study.name)
        assert found is not None
        return str(found.experiment_id)

    def run_of(self, label: str) -> Run:
        """Return the run of a trial."""
        (key,) = (trial.run_key for trial in self.plan.trials if trial.label == label)
        where = f"tags.`oat.kind` = 'trial' and tags.`oat.key` = '{key}'"
        (run,) = self.client.search_runs([self.experiment], where)
        return run

    def models(self) -> dict[str, LoggedModel]:
        """Return every logged model, by the id of its run; there is one of each run at most."""
        found = self.client.search_logged_models([self.experiment])
        models = {model.source_run_id: model for model in found}
        assert len(models) == len(found)
        return models


@dataclass(frozen=True)
class Story:
    """What was seen while the models of a study were logged, in its order."""

    place: Place
    by_process: set[str]
    faults: dict[str, str]
    refused: str
    synced: str
    before: set[str]
    rerun: str
    notes: list[str]


def _console() -> Console:
    return Console(file=StringIO(), record=True, width=10_000)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, tiny_file: Path, train_all: TrainAll) -> Story:
    overrides = ["name=logged", f"methods=[{', '.join(METHODS)}]", "tracking.log_models=true"]
    place = Place(load_study(tiny_file, overrides), tmp_path_factory.mktemp("logged"))
    train_all(place.study, place.storage)
    artifacts = place.storage / "mlflow-artifacts"
    tracker = Tracker(place.uri, place.study.name, artifacts.as_uri())
    tracker.sync(place.plan, place.folder)

    # as while a study runs: two of its trials are done
    keys = {trial.label: trial.run_key for trial in place.plan.trials}
    (pair,) = (label for label in keys if label.startswith("interpolate"))
    with logging_models(place.study, place.folder, place.uri) as logger:
        assert logger is not None
        until = time.monotonic() + 500
        for label in (OAT, pair):
            logger.brought(keys[label])
        while keys[pair] not in logger.faults:
            assert time.monotonic() < until
            time.sleep(0.05)
        logger.brought(keys[OAT])  # once more, as for every point
    by_process = {model.name for model in place.models().values()}

    # the end of the run, where MLflow's artifacts cannot be written
    artifacts.rename(place.storage / "away")
    artifacts.write_text("in the place of the folder")
    with pytest.raises(TrackingError) as caught:
        log_models(place.plan, place.folder, tracker, _console(), logger.faults)
    artifacts.unlink()
    (place.storage / "away").rename(artifacts)

    console = _console()
    studies.sync(place.study, storage=place.storage, console=console)
    before = {model.model_id for model in place.models().values()}
    again = _console()
    outcome = studies.run(place.study, storage=place.storage, console=again)
    return Story(
        place,
        by_process,
        logger.faults,
        str(caught.value),
        console.export_text(),
        before,
        again.export_text(),
        outcome.notes,
    )


def test_a_process_logs_the_models_of_trials_that_are_done(story: Story) -> None:
    assert story.by_process == {OAT_NAME}


def test_what_mlflow_loads_is_each_trained_network(story: Story) -> None:
    place = story.place
    images = torch.rand(3, 1, 8, 8)
    mlflow.set_tracking_uri(place.uri)
    try:
        for label, lams in ((OAT, (0.0, 1.0)), ("pgd_at λ=0", (None,)), ("pgd_at λ=1", (None,))):
            loaded = mlflow.pyfunc.load_model(place.run_of(label).data.tags[MODEL])
            model = studies.load_model(place.study, label, storage=place.storage)
            for lam in lams:
                found = loaded.predict(images.numpy(), params=None if lam is None else {"lam": lam})
                expected = model.at(lam)(images)
                np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    finally:
        mlflow.set_tracking_uri(None)


def test_a_run_says_of_which_weights_its_model_is(story: Story) -> None:
    for trial in story.place.plan.trials:
        if not trial.label.startswith("interpolate"):
            result = read_result(story.place.folder.sub(f"trials/{trial.run_key}"))
            assert result is not None
            assert result["status"] == "done"
            run = story.place.run_of(trial.label)
            assert run.data.tags[WEIGHTS] == result["trained"]["weights"]["last"]["sha256"]
            assert run.info.status == "FINISHED"


def test_what_mlflow_refused_is_brought_by_sync_and_nothing_is_there_twice(story: Story) -> None:
    assert "did not take all models" in story.refused
    assert "`oat sync logged` logs the rest" in story.refused
    assert "Logging 3 trained models in MLflow." in story.synced  # the pair is tried again
    models = story.place.models()
    assert {str(model.status) for model in models.values()} == {"READY"}
    assert {model.name for model in models.values()} == {
        OAT_NAME,
        "pgd_at λ=0 seed 0",
        "pgd_at λ=1 seed 0",
    }


def test_a_second_run_logs_none_again(story: Story) -> None:
    assert {model.model_id for model in story.place.models().values()} == story.before


def test_a_model_that_cannot_be_exported_is_told_in_a_sentence_and_stops_nothing(
    story: Story,
) -> None:
    (said,) = story.faults.values()
    assert "is not logged in MLflow: interpolate" in said
    assert "has other weights at each α" in said
    assert story.synced.count(said) == 1
    assert said in story.notes


def test_no_version_is_registered(story: Story) -> None:
    assert story.place.client.search_registered_models() == []


def test_the_model_of_a_trial_that_storage_has_no_more_goes_with_its_run(
    story: Story, tmp_path: Path
) -> None:
    storage = Path(shutil.copytree(story.place.storage, tmp_path / "storage"))
    place = Place(story.place.study, storage)
    gone = place.run_of("pgd_at λ=1")
    kept = place.run_of("pgd_at λ=0")
    for run in (gone, kept):
        shutil.rmtree(storage / "logged" / "trials" / run.data.tags["oat.key"])
    mlflow.set_tracking_uri(place.uri)
    try:
        mlflow.register_model(place.models()[kept.info.run_id].model_uri, "chosen")
    finally:
        mlflow.set_tracking_uri(None)
    tracker = Tracker(place.uri, "logged")
    tracker.sync(place.plan, place.folder)
    left = place.models()
    assert gone.info.run_id not in left
    assert kept.info.run_id in left, "a registered version is made of it"
