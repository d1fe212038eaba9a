"""A study that trains in seconds, and a storage folder in which it is finished."""

import itertools
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import studies
from benchmarks.servers import S3, s3_server
from oat.data import load
from studies.cli import app as cli
from studies.comparison.answer import Comparison
from studies.known_methods import ONCE, RESULTS_VERSION, method_of, variant_of
from studies.planning.expand import make_plan
from studies.planning.plan import PlannedTrial
from studies.report.origin import Origin, gather
from studies.results.points import COLUMNS
from studies.storage.folder import Folder
from studies.storage.local import LocalFolder
from studies.storage.opening import open_folder
from studies.storage.sealed import digest, write_sealed
from studies.study_file.loading import load_study
from studies.study_file.study import Study
from studies.trial.records import write_points
from studies.trial.run import run_trial
from studies.trial.weights import weights_file
from tests.studies.cli.shell import Oat, Said
from tests.studies.pictures import draw

TINY: dict[str, Any] = {
    "name": "tiny",
    "data": {"name": "digits", "train_images": 128},
    "model": {"name": "resnet8", "width": 4},
    "train": {"epochs": 1, "batch_size": 16, "val_images": 32},
    "attack": {"eps": 0.1, "steps": 1},
    "methods": [
        {"name": "oat", "lambda_choices": [0, 1]},
        {"name": "pgd_at", "lam": [0, 1]},
        {"name": "trades", "beta": [1]},
    ],
    "evaluate": {"attacks": [{"name": "pgd", "steps": 1}], "images": 50, "masking_images": 0},
}

TUNE: dict[str, Any] = {
    "budget": "100s",
    "attack": {"steps": 1},
    "images": 20,
    "space": {"train": {"lr": {"low": 0.01, "high": 1, "log": True}}},
}
"""How the tiny study is tuned."""

IMAGES = 200
"""Test images of a study that was made up."""

MakeUp = Callable[..., None]
TrainAll = Callable[[Study, Path | str], None]


def _train_all(study: Study, storage: Path | str) -> None:
    folder = open_folder(storage).sub(study.name)
    for trial in chain.from_iterable(make_plan(study, folder).waves()):
        run_trial(trial.job, folder.sub(f"trials/{trial.run_key}"), lambda _: None)


Right = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def _finish(
    folder: Folder,
    trial: PlannedTrial,
    right: Callable[[Mapping[str, Any]], Right],
    points: Iterable[Mapping[str, Any]],
    seconds: float,
) -> None:
    """Write what a finished trial leaves, with made-up images right: clean ones, and robust."""
    place, config = folder.sub(f"trials/{trial.run_key}"), trial.job["config"]
    method = method_of(config)
    zeros = {name: 0 for name, kind in COLUMNS.items() if kind != "str"}
    rows, correct = [], {}
    for point in points:
        clean, robust = right(point)
        key = point["point_key"]
        correct |= {f"{key}.clean": clean, f"{key}.robust": robust}
        texts = {
            "point_key": key,
            "run_key": trial.run_key,
            "training_id": f"training of {trial.run_key}",
            "method": config["method"]["name"],
            "variant": variant_of(config),
            "attack": point["attack_label"],
            "attack_settings": point["attack_settings"],
            "warnings": "",
            "dataset": config["data"]["name"],
            "data_fingerprint": "none",
            "model": config["model"]["name"],
            "budget": trial.job["budget"],
            "checkpoint_rule": point["checkpoint_rule"],
            **({"split": point["split"]} if "split" in point else {}),
        }
        numbers = {
            "lam": getattr(method, "lam", None) if point["lam"] is None else point["lam"],
            "beta": getattr(method, "beta", None),
            "width_mult": point["width_mult"],
            "seed": config["seed"],
            "eps": point["attack"]["eps"],
            "sa": float(clean.mean()),
            "ra": float(robust.mean()),
            "images": len(clean),
            "results_version": RESULTS_VERSION,
            "flops": 10**6,
            "train_device_seconds": seconds,
            "train_units": 1.0,
        }
        rows.append({**zeros, **texts, **numbers})
    rules = dict.fromkeys(point["checkpoint_rule"] for point in trial.job["points"])
    for rule in rules:
        place.write(weights_file(rule), b"none")
    trained = {
        "training_id": f"training of {trial.run_key}",
        "device_seconds": seconds,
        "train_units": 1.0,
        "parameters": 100,
        "network_bytes": 400,
        "weights": {rule: {"bytes": 4, "sha256": "", "epoch": 1} for rule in rules},
    }
    write_points(place, rows, correct)
    write_sealed(place, "result.json", {"status": "done", "trained": trained})


def _make_up(
    study: Study,
    storage: Path,
    judged: Callable[[Mapping[str, Any]], bool] = lambda point: True,
) -> None:
    folder = LocalFolder(storage / study.name)
    for i, trial in enumerate(make_plan(study, folder).trials):

        def right(point: Mapping[str, Any], i: int = i) -> Right:
            # the same numbers whenever it is called, and for clean images under every attack
            draw = np.random.default_rng([i, int(100 * (point["lam"] or 0))])
            clean = draw.random(IMAGES) < draw.uniform(0.9, 1)
            robust = clean & (draw.random(IMAGES) < draw.uniform(0.3, 1))
            robust &= np.arange(IMAGES) % (200 // point["attack"]["steps"]) > 0
            return clean, robust

        points = [*trial.job["points"], *trial.job["held_out"]]
        _finish(folder, trial, right, filter(judged, points), 10.0 + i)


FinishTrial = Callable[..., None]


def _finish_trial(
    folder: Folder,
    trial: PlannedTrial,
    sa: float = 0.8,
    ra: float = 0.4,
    *,
    seconds: float = 10.0,
    images: int = IMAGES,
) -> None:
    """Finish a trial of which so many images are right at each of its points, on top of others."""
    number = np.arange(images)
    right = number < round(sa * images), number < round(ra * images)
    points = [*trial.job["points"], *trial.job["held_out"]]
    _finish(folder, trial, lambda point: right, points, seconds)


@pytest.fixture(scope="session")
def finish_trial() -> FinishTrial:
    """Write what one trial leaves that is finished at some SA and RA; trains nothing."""
    return _finish_trial


MakeRow = Callable[..., dict[str, Any]]


def _make_row(method: str, **values: Any) -> dict[str, Any]:
    values = {"variant": method, "width_mult": 1.0, "seed": 0, **values}
    place = () if method in ONCE else ("lam", "beta", "width_mult")
    run = [values["variant"], *(values.get(name) for name in place), values["seed"]]
    run_key = "-".join(map(str, run))
    row: dict[str, Any] = {name: 0 if kind != "str" else "" for name, kind in COLUMNS.items()}
    row |= {
        "method": method,
        "lam": np.nan,
        "beta": np.nan,
        "sa": 0.8,
        "ra": 0.4,
        "images": 1000,
        "eps": 0.1,
        "attack": "pgd20",
        "checkpoint_rule": "last",
        "train_units": 10.0,
        "run_key": run_key,
        **values,
    }
    told = ("lam", "beta", "width_mult", "attack", "checkpoint_rule")
    return {**row, "point_key": digest([row["run_key"], *(str(row[name]) for name in told)])}


@pytest.fixture(scope="session")
def make_row() -> MakeRow:
    """Make up one row of a frame of points: its method, and the columns that matter."""
    return _make_row


@pytest.fixture(autouse=True)
def _no_server_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def oat(monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> Oat:
    """Run the command in this process, from its arguments to its exit code."""

    def call(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["oat", *map(str, arguments)])
        capsysbinary.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        written = capsysbinary.readouterr()
        return Said(int(ended.value.code or 0), written.out, written.err.decode())

    return call


@pytest.fixture
def _forget_data() -> Iterator[None]:
    """Let no test read data that another one has read, or put in their place."""
    load.cache_clear()
    yield
    load.cache_clear()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small data set of images in folders, yours to change."""
    draw(tmp_path / "pictures")
    return tmp_path / "pictures"


@pytest.fixture
def tiny() -> dict[str, Any]:
    """A study of four trials and five operating points, two of them OAT's; yours to change."""
    return deepcopy(TINY)


@pytest.fixture
def tunable(tiny: dict[str, Any]) -> dict[str, Any]:
    """The same study with a block that tunes its learning rate; yours to change."""
    return {**tiny, "tune": deepcopy(TUNE)}


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same study as a file."""
    path = tmp_path_factory.mktemp("study") / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


@pytest.fixture(scope="session")
def train_all() -> TrainAll:
    """Run what a study lacks in a storage folder, here and without Ray."""
    return _train_all


@pytest.fixture(scope="session")
def make_up() -> MakeUp:
    """Finish a study in a storage folder with drawn results; trains nothing.

    Its third argument tells which of the planned points have been judged.
    """
    return _make_up


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage folder in which the tiny study is finished; not to be written."""
    storage = tmp_path_factory.mktemp("finished")
    _train_all(load_study(TINY), storage)
    return storage


@pytest.fixture
def storage(finished: Path, tmp_path: Path) -> Path:
    """A storage folder in which the tiny study is finished; yours to damage."""
    return Path(shutil.copytree(finished, tmp_path / "storage"))


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that MLflow has set up, which takes it seconds."""
    from mlflow.tracking import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


Found = tuple[Comparison, Origin]


def _found(study: Study, storage: Path) -> Found:
    points = studies.points(study, storage=storage)
    folder = LocalFolder(storage / study.name)
    return studies.compare(points), gather(make_plan(study, folder), folder, "oat compare tiny")


@pytest.fixture(scope="session")
def found(finished: Path) -> Found:
    """The comparison of the finished tiny study, and where its numbers come from."""
    return _found(load_study(TINY), finished)


@pytest.fixture(scope="session")
def at_radii(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """The same study judged at three radii; at the smallest by one attack, else by two."""
    attacks = [{"steps": 1, "eps": [0.02, 0.1, "16/255"]}, {"name": "fgsm", "eps": [0.1, "16/255"]}]
    study = load_study({**TINY, "evaluate": {**TINY["evaluate"], "attacks": attacks}})
    storage = tmp_path_factory.mktemp("at_radii")
    shutil.copytree(finished, storage, dirs_exist_ok=True)
    _train_all(study, storage)
    return _found(study, storage)


@pytest.fixture(scope="session")
def along_widths(tiny_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """The same of a study with OAT, OATS and narrow dedicated models."""
    blocks = (
        "{name: oats, lambda_choices: [0, 1], width_mults: [0.5, 1]}",
        "{name: oat, lambda_choices: [0, 1]}",
        "{name: oat, lambda_choices: [0, 1], encoding: continuous}",
        "{name: pgd_at, lam: 1, width_mults: [0.5, 1]}",
    )
    study = load_study(tiny_file, [f"methods=[{', '.join(blocks)}]"])
    storage = tmp_path_factory.mktemp("along_widths")
    _train_all(study, storage)
    return _found(study, storage)


@pytest.fixture(scope="session")
def renamed() -> Callable[[Comparison, str], Comparison]:
    """Put a text, such as one that must be escaped, before every name of a comparison."""

    def apply(comparison: Comparison, name: str) -> Comparison:
        radii = comparison.radii
        return replace(
            comparison,
            table=comparison.table.assign(
                dedicated=name + comparison.table["dedicated"],
                once=name + comparison.table["once"],
            ),
            cells=comparison.cells.assign(variant=name + comparison.cells["variant"]),
            fronts=comparison.fronts.assign(front=name + comparison.fronts["front"]),
            notes=[name],
            radii=radii
            and replace(
                radii,
                at={eps: apply(one, name) for eps, one in radii.at.items()},
                table=radii.table.assign(front=name + radii.table["front"]),
                **{
                    key: table.assign(variant=name + table["variant"], point=name + table["point"])
                    for key, table in (("curves", radii.curves), ("areas", radii.areas))
                },
            ),
        )

    return apply


@pytest.fixture(scope="session")
def s3_on_loopback() -> Iterator[S3]:
    """An S3 server that all tests share."""
    with s3_server() as server:
        yield server


_BUCKETS = itertools.count()


@pytest.fixture
def s3(s3_on_loopback: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """The S3 server, without faults; its address and credentials are in the environment."""
    for name, value in s3_on_loopback.environment.items():
        monkeypatch.setenv(name, value)
    s3_on_loopback.requests.clear()
    yield s3_on_loopback
    s3_on_loopback.fault = None


@pytest.fixture
def bucket(s3: S3) -> str:
    """The URI of an empty bucket."""
    name = f"bucket-{next(_BUCKETS)}"
    s3.make_bucket(name)
    s3.requests.clear()
    return f"s3://{name}"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own that is soon full."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", place],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("this user cannot mount a disk of a size of its own")
    yield place
    subprocess.run(["umount", place], check=True)
