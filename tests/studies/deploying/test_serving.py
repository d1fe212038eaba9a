"""A model in MLflow answers over HTTP, at the λ and width of each request."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

import studies
from oat.data import load
from studies.deploying.model import TrainedModel
from studies.deploying.serving import to_log
from studies.errors import ModelError, TrackingError
from studies.study_file.loading import load_study
from studies.study_file.study import Study
from tests.studies.conftest import TrainAll

pytestmark = [
    pytest.mark.slow,
    pytest.mark.mlflow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

METHODS = (
    "{name: oats, lambda_choices: [0, 0.5, 1], width_mults: [0.5, 1]}",
    "{name: pgd_at, lam: [0, 1]}",
)

ACTIVATED = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
"""The search path of an activated environment: MLflow starts `uvicorn` by its name."""


class Place:
    """A study in storage and in MLflow, two models of it registered."""

    def __init__(self, study: Study, storage: Path) -> None:
        self.study, self.storage = study, storage
        self.uri = f"sqlite:///{storage / 'mlflow.db'}"
        self.model: TrainedModel = studies.load_model(study, storage=storage)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_file: Path, train_all: TrainAll) -> Place:
    storage = tmp_path_factory.mktemp("served")
    study = load_study(tiny_file, ["name=served", f"methods=[{', '.join(METHODS)}]"])
    train_all(study, storage)
    studies.sync(study, storage=storage)
    studies.export(study, to="mlflow", at_lam=0.5, alias="calibrated", storage=storage)
    studies.export(study, "pgd_at", lam=1, to="mlflow", storage=storage)
    return Place(study, storage)


def test_a_version_is_registered_under_the_studys_name_with_its_alias(place: Place) -> None:
    client = MlflowClient(tracking_uri=place.uri)
    version = client.get_model_version_by_alias("served", "calibrated")
    assert str(version.version) == "1"
    (run,) = (
        run
        for run in client.search_runs(
            [client.get_experiment_by_name("served").experiment_id], "tags.`oat.kind` = 'trial'"
        )
        if run.info.run_id == version.run_id
    )
    assert run.data.tags["oat.key"] == place.model.about["run_key"]
    assert run.info.status == "FINISHED"
    found = client.search_model_versions("name='served'")
    assert sorted(str(one.version) for one in found) == ["1", "2"]


def test_sync_leaves_registered_models_and_their_runs_alone(place: Place) -> None:
    client = MlflowClient(tracking_uri=place.uri)
    before = client.get_model_version_by_alias("served", "calibrated")
    studies.sync(place.study, storage=place.storage)
    assert client.get_model_version_by_alias("served", "calibrated") == before


def test_what_mlflow_loads_is_the_network_at_each_point(place: Place) -> None:
    images = torch.rand(3, *place.model.image_shape)
    mlflow.set_tracking_uri(place.uri)
    try:
        loaded = mlflow.pyfunc.load_model("models:/served@calibrated")
        other = mlflow.pyfunc.load_model("models:/served/2")
    finally:
        mlflow.set_tracking_uri(None)
    for lam, width in ((0.0, 1.0), (0.5, 0.5), (1.0, 0.5)):
        found = loaded.predict(images.numpy(), params={"lam": lam, "width_mult": width})
        expected = place.model.at(lam, width)(images)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    default = place.model.at(0.5, 1.0)(images)
    np.testing.assert_allclose(loaded.predict(images.numpy()), default, rtol=1e-4, atol=1e-4)
    dedicated = studies.load_model(place.study, "pgd_at", lam=1, storage=place.storage)
    expected = dedicated.at()(images)
    np.testing.assert_allclose(other.predict(images.numpy()), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(MlflowException, match="lam must be left out"):
        other.predict(images.numpy(), params={"lam": 0.3})


@pytest.mark.parametrize(("choices", "never"), [("[0.5, 1]", 0.0), ("[0]", 0.5)])
def test_a_lam_whose_batch_norms_were_never_trained_is_refused_and_no_file_answers_it(
    choices: str, never: float, tiny_file: Path, train_all: TrainAll, tmp_path: Path
) -> None:
    from mlflow.pyfunc import PythonModelContext

    from studies.deploying.served_model import Served

    method = f"{{name: oat, lambda_choices: {choices}, encoding: continuous}}"
    few = ["evaluate.held_out_images=0", "evaluate.masking_images=0", "evaluate.images=10"]
    study = load_study(
        tiny_file, ["train.epochs=1", f"methods=[{method}]", f"evaluate.lams={choices}", *few]
    )
    train_all(study, tmp_path)
    model = studies.load_model(study, storage=tmp_path)
    sound = 0.0 if never else 0.7
    done = studies.export(study, to="pt2", out=tmp_path / "a.pt2", storage=tmp_path)
    assert never not in done.record["check"]["lams"]
    images = torch.rand(2, *model.image_shape)
    found = torch.export.load(done.path).module()(images, torch.tensor([never, sound]))
    assert found[0].isnan().all()
    assert torch.allclose(found[1], model.at(sound)(images)[1], atol=1e-5)
    with to_log(model, load(study.data).val.head(8), study=study.name) as logged:
        served = Served()
        served.load_context(PythonModelContext({"model": str(logged.folder)}, {}))
        with pytest.raises(MlflowException, match="were never trained, as the model was trained"):
            served.predict(None, images.numpy(), {"lam": never})
        answer = served.predict(None, images.numpy(), {"lam": sound})
    np.testing.assert_allclose(answer, model.at(sound)(images), rtol=1e-4, atol=1e-4)


def test_a_network_of_narrow_widths_alone_is_exported_and_served_at_its_widest(
    tiny_file: Path, train_all: TrainAll, tmp_path: Path
) -> None:
    from mlflow.pyfunc import PythonModelContext

    from studies.deploying.served_model import Served

    methods = "{name: oats, lambda_choices: [0, 1], width_mults: [0.5]}"
    few = ["evaluate.held_out_images=0", "evaluate.masking_images=0", "evaluate.images=10"]
    study = load_study(tiny_file, ["train.epochs=1", f"methods=[{methods}]", *few])
    train_all(study, tmp_path)
    model = studies.load_model(study, storage=tmp_path)
    images, lams = torch.rand(3, *model.image_shape), torch.tensor([0.0, 1.0, 0.0])
    done = studies.export(study, to="pt2", out=tmp_path / "a.pt2", storage=tmp_path)
    found = torch.export.load(done.path).module()(images, lams)
    assert torch.allclose(found, model.knob(0.5)(images, lams), atol=1e-5)
    with to_log(model, load(study.data).val.head(8), study=study.name) as logged:
        assert logged.params["width_mult"] == 0.5
        served = Served()
        served.load_context(PythonModelContext({"model": str(logged.folder)}, {}))
        answer = served.predict(None, images.numpy(), {"lam": 1.0})
        with pytest.raises(MlflowException, match=r"width_mult must be one of 0.5, got 1\."):
            served.predict(None, images.numpy(), {"lam": 1.0, "width_mult": 1.0})
    np.testing.assert_allclose(answer, model.at(1.0, 0.5)(images), rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def address(place: Place) -> Iterator[str]:
    """Where `mlflow models serve` answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/served@calibrated"]
    command += ["--env-manager", "local", "-p", str(port), "-h", "127.0.0.1"]
    log = place.storage / "served.log"
    with log.open("wb") as said:
        server = subprocess.Popen(
            command,
            stdout=said,
            stderr=said,
            start_new_session=True,
            env={**os.environ, "MLFLOW_TRACKING_URI": place.uri, "PATH": ACTIVATED},
        )
    try:
        until = time.monotonic() + 600
        while True:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(server.pid, 15)
        server.wait()


def _ask(address: str, body: object) -> tuple[int, Any]:
    request = urllib.request.Request(
        address, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_a_served_model_answers_at_any_point_of_a_request(place: Place, address: str) -> None:
    images = torch.rand(2, *place.model.image_shape)
    for lam, width in ((0.0, 1.0), (1.0, 0.5), (0.5, 1.0)):
        params = {"lam": lam, "width_mult": width}
        code, answer = _ask(address, {"inputs": images.tolist(), "params": params})
        assert code == 200, answer
        expected = place.model.at(lam, width)(images)
        np.testing.assert_allclose(answer["predictions"], expected, rtol=1e-4, atol=1e-4)
    code, answer = _ask(address, {"inputs": images.tolist()})
    expected = place.model.at(0.5, 1.0)(images)
    np.testing.assert_allclose(answer["predictions"], expected, rtol=1e-4, atol=1e-4)


FAULTS: dict[str, tuple[dict[str, Any], Any, str]] = {
    "a λ that was not trained": ({"lam": 0.25}, None, "lam must be one of 0, 0.5, 1, got 0.25"),
    "a width it has not": ({"width_mult": 0.7}, None, "width_mult must be one of 0.5, 1"),
    "a λ that is no number": ({"lam": "much"}, None, "lam"),
    "a param that is unknown": ({"lambda": 0.5}, None, "lambda"),
    "images of another size": ({}, np.zeros((1, 1, 9, 9)), "shape"),
    "one image without its axis": ({}, np.zeros((1, 8, 8)), "shape"),
    "bytes instead of fractions": ({}, np.full((1, 1, 8, 8), 255.0), "must be in [0, 1]"),
    "no image": ({}, np.zeros((0, 1, 8, 8)), ""),
    "words": ({}, [["a cat"]], ""),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_request_that_does_not_fit_is_an_answer_of_4xx_with_a_sentence(
    case: str, place: Place, address: str
) -> None:
    params, images, said = FAULTS[case]
    if images is None:
        images = np.zeros((1, *place.model.image_shape))
    body = {"inputs": np.asarray(images).tolist(), "params": params}
    code, answer = _ask(address, body)
    if case == "a param that is unknown":  # MLflow itself warns of it and goes on
        assert code == 200
        return
    assert 400 <= code < 500, answer
    assert said in answer["message"]


def test_a_study_that_mlflow_does_not_have_is_one_sentence(
    finished: Path, tiny: dict[str, Any], tmp_path: Path, storage: Path
) -> None:
    with pytest.raises(TrackingError, match="no results of study 'tiny'"):
        studies.export(tiny, to="mlflow", storage=finished)
    studies.sync({**tiny, "methods": tiny["methods"][1:]}, storage=storage)
    with pytest.raises(ModelError, match="has no run of oat"):
        studies.export(tiny, to="mlflow", storage=storage)
    with pytest.raises(ModelError, match="knows λ = 0, 1 only"):
        studies.export(tiny, to="mlflow", at_lam=0.3, storage=storage)
