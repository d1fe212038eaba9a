from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from baselines import PgdAt
from oat import choice as probing
from oat.attacks import Attack
from oat.choice import Probe
from oat.data import DataConfig, Dataset, Split
from oat.execution import Execution
from oat.models import ModelConfig
from oat.recipe import TrainConfig
from oat.training import Training
from studies.storage.opening import open_folder
from studies.trial import choosing
from studies.trial.choosing import as_record, how_to_run, precision_of
from studies.trial.provenance import device_name

CPU = torch.device("cpu")


def _split(rows: int) -> Split:
    return Split(torch.rand(rows, 1, 8, 8), torch.arange(rows) % 10)


DATA = Dataset(_split(40), _split(12), _split(12), 10, "made up")


def _probe(**settings: Any) -> Probe:
    train = TrainConfig(**{"epochs": 1, "batch_size": 16, **settings})

    def make(execution: Execution) -> Training:
        return Training(
            PgdAt(0.0), ModelConfig("resnet8", 4), DATA, DataConfig("digits"), train,
            Attack(steps=1), seed=0, execution=execution,
        )  # fmt: skip

    return Probe(make, train, CPU, fixed_shapes=True, steps=2, units=1.0, flops=1e20)


def _job(tmp_path: Path) -> dict[str, Any]:
    config = {"model": {"name": "resnet8", "width": 4, "dropout": 0.0}}
    return {"choices": open_folder(tmp_path).sub("choices").uri, "config": config}


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bfloat16 wins any measurement."""
    monkeypatch.setattr(probing, "has_bfloat16", lambda device: True)
    monkeypatch.setattr(probing, "WORTH", 0.0)


def test_a_study_chooses_its_precision_once(
    tmp_path: Path, fast: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = _job(tmp_path)
    assert how_to_run(job, DATA, _probe(), None).precision == "bfloat16"
    # the next trial would find otherwise, and is not asked
    monkeypatch.setattr(choosing, "choose_precision", pytest.fail)
    assert how_to_run(job, DATA, _probe(), None).precision == "bfloat16"


def test_another_network_or_batch_is_another_choice(tmp_path: Path, fast: None) -> None:
    job = _job(tmp_path)
    other = {"choices": job["choices"], "config": {"model": {**job["config"]["model"], "width": 8}}}
    for asked in (job, other):
        how_to_run(asked, DATA, _probe(), None)
    how_to_run(job, DATA, _probe(batch_size=8), None)
    assert len(open_folder(job["choices"]).names()) == 3


def test_a_damaged_choice_is_made_again(tmp_path: Path, fast: None) -> None:
    job = _job(tmp_path)
    how_to_run(job, DATA, _probe(), None)
    folder = open_folder(job["choices"])
    (name,) = folder.names()
    folder.write(name, folder.read(name).replace(b"bfloat16", b"bfloat17"))
    assert how_to_run(job, DATA, _probe(), None).precision == "bfloat16"


def test_the_choice_that_came_first_holds(
    tmp_path: Path, fast: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, slow = _job(tmp_path), choosing.choose_precision

    def overtaken(probe: Probe) -> Any:
        monkeypatch.setattr(choosing, "choose_precision", slow)
        how_to_run(job, DATA, _probe(), None)  # another trial, meanwhile
        return "float32", "too late"

    monkeypatch.setattr(choosing, "choose_precision", overtaken)
    assert how_to_run(job, DATA, _probe(), None).precision == "bfloat16"


def test_a_checkpoint_of_this_kind_of_device_goes_on_as_it_was(tmp_path: Path) -> None:
    before = Execution("bfloat16", compiled=True, reasons=("once measured",))
    state = {"execution": as_record(before), "device": device_name(CPU)}
    assert how_to_run(_job(tmp_path), DATA, _probe(), state) == before


def test_a_checkpoint_of_another_kind_of_device_keeps_its_precision(tmp_path: Path) -> None:
    before = Execution("bfloat16", compiled=True, captured=True)
    state = {"execution": as_record(before), "device": "another GPU"}
    chosen = how_to_run(_job(tmp_path), DATA, _probe(), state)
    assert (chosen.precision, chosen.compiled, chosen.captured) == ("bfloat16", False, False)


def test_a_checkpoint_that_tells_nothing_is_float32_on_a_cpu(tmp_path: Path, fast: None) -> None:
    assert how_to_run(_job(tmp_path), DATA, _probe(), {"epoch": 1}).precision == "float32"


@pytest.mark.parametrize(
    ("trained", "train", "said"),
    [
        ({"execution": {"precision": "float32"}}, {"tf32": False}, "float32"),
        ({"execution": {"precision": "float32"}}, {"tf32": True}, "float32 tf32"),
        ({"execution": {"precision": "bfloat16"}}, {"tf32": True}, "bfloat16"),
        ({}, {}, "not recorded"),
    ],
)
def test_points_name_the_precision_of_their_training(
    trained: dict[str, Any], train: dict[str, Any], said: str
) -> None:
    assert precision_of(trained, train) == said


def test_a_record_of_a_choice_reads_back() -> None:
    choice = Execution("bfloat16", reasons=("a", "b"))
    assert replace(Execution(**choosing.tuples(as_record(choice)))) == choice
