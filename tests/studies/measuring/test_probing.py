"""Probes of real trainings; how long anything takes is the machine's affair."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from rich.console import Console

import studies
from studies.errors import StudyError
from studies.planning.estimates import read_probes
from studies.planning.plan import Plan
from studies.storage.local import LocalFolder
from tests.ray_paths import needs_plain_path

QUIET = Console(quiet=True)


def _probed(study: dict[str, Any], storage: Path, *overrides: str, **options: Any) -> Plan:
    return studies.plan(
        study, storage=storage, overrides=overrides, probe=True, console=QUIET, **options
    )


@pytest.mark.slow
def test_every_kind_of_trial_is_probed_once_and_later_plans_know(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    threads = torch.get_num_threads()
    plan = _probed(tiny, tmp_path, "seeds=[0, 1]", "resources.cpu=2")
    assert {plan.estimate(trial).basis for trial in plan.trials} == {"probed"}
    probes = read_probes(LocalFolder(tmp_path / "tiny"))
    assert sorted(probe["kind"] for probe in probes) == sorted({t.kind for t in plan.trials})
    assert {probe["threads"] for probe in probes} == {2}
    assert torch.get_num_threads() == threads
    later = studies.plan(tiny, storage=tmp_path, overrides=["resources.cpu=2"])
    for one, other in zip(plan.trials, later.trials, strict=False):
        assert plan.estimate(one) == later.estimate(other)
    # one epoch of eight steps and one validation
    for probe in probes:
        assert probe["training_seconds"] == pytest.approx(8 * probe["seconds_per_step"])
        assert probe["validation_seconds"] == pytest.approx(probe["seconds_per_validation"])
    assert not (tmp_path / "tiny" / "trials").exists()


@pytest.mark.slow
def test_a_network_of_many_widths_and_an_average_are_probed(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    tiny["methods"] = [{"name": "oats", "lambda_choices": [0, 1], "width_mults": [0.5, 1]}]
    plan = _probed(tiny, tmp_path, "train.ema=0.9")
    found = plan.estimate(plan.trials[0])
    (probe,) = read_probes(LocalFolder(tmp_path / "tiny"))
    # the batches of the averaged weights' statistics are as many as the steps
    assert probe["training_seconds"] == pytest.approx(16 * probe["seconds_per_step"])
    assert found.judging == pytest.approx(plan.trials[0].judge_units * probe["seconds_per_pass"])


def test_a_finished_study_has_nothing_to_probe(tiny: dict[str, Any], storage: Path) -> None:
    plan = _probed(tiny, storage)
    assert {plan.estimate(trial).basis for trial in plan.trials} == {"measured"}
    assert not (storage / "tiny" / "probe.json").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("gpu", ["0.5", "1", "auto"])
def test_a_gpu_that_is_not_here_is_a_sentence(
    gpu: str, tiny: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(StudyError) as caught:
        _probed(tiny, tmp_path, f"resources.gpu={gpu}")
    said = str(caught.value)
    assert f"`resources.gpu` is {gpu}" in said
    assert "`--address`" in said
    assert "\n" not in said
    assert not list(tmp_path.iterdir())


def test_data_that_are_missing_are_a_sentence(tiny: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="cifar10"):
        _probed(tiny, tmp_path, f"data={{name: cifar10, root: {tmp_path}}}")


def test_an_address_is_of_no_use_without_a_probe(tiny: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="add `--probe`"):
        studies.plan(tiny, storage=tmp_path, address="auto")


@pytest.fixture(scope="module")
def made_up_gpu() -> Iterator[None]:
    ray.init(
        address="local",  # none that happens to run on the machine
        num_cpus=2,
        num_gpus=1,
        include_dashboard=False,
        logging_level="ERROR",
    )
    yield
    ray.shutdown()


@needs_plain_path
@pytest.mark.ray
@pytest.mark.slow
def test_on_a_cluster_a_probe_is_a_task_with_the_trials_request(
    tiny: dict[str, Any], tmp_path: Path, made_up_gpu: None
) -> None:
    tiny["methods"] = [{"name": "pgd_at", "lam": 1}]
    need = "resources={cpu: 2, gpu: 0.2, device: cpu}"
    plan = _probed(tiny, tmp_path, need, address="auto")
    assert plan.estimate(plan.trials[0]).basis == "probed"
    (probe,) = read_probes(LocalFolder(tmp_path / "tiny"))
    assert (probe["threads"], probe["on_gpu"]) == (2, False)


@pytest.mark.ray
@pytest.mark.slow
def test_a_request_that_no_node_can_hold_is_not_waited_for(
    tiny: dict[str, Any], tmp_path: Path, made_up_gpu: None
) -> None:
    with pytest.raises(StudyError, match="64 GPU a trial"):
        _probed(tiny, tmp_path, "resources.gpu=64", address="auto")
