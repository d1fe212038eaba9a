"""What an estimate rests on, and that the better is preferred."""

from pathlib import Path
from typing import Any

import pytest
import torch

import studies
from oat.models import ModelConfig, build_unfilled, forward_flops
from oat.models.forecast import layers
from studies.planning.estimates import (
    ASSUMED_FACTOR,
    Basis,
    Estimate,
    Estimator,
    Work,
    assumed_device,
    basis_in_words,
    keep_probes,
    read_probes,
    rough_seconds_per_unit,
)
from studies.planning.expand import make_plan
from studies.storage.local import LocalFolder
from studies.study_file.loading import load_study
from studies.study_file.method_blocks import Resources

WORK = Work(training=100.0, validation=10.0, judging=1000.0)
ONE_CORE = Resources(cpu=1)


def _probe(kind: str = "a", **changed: Any) -> dict[str, Any]:
    return {
        "kind": kind,
        "device": "a CPU",
        "threads": 1,
        "on_gpu": False,
        "training_seconds": 7.0,
        "validation_seconds": 2.0,
        "seconds_per_pass": 0.003,
        **changed,
    }


def test_finished_trials_of_the_same_kind_come_before_a_probe_and_that_before_others() -> None:
    finished = {"a": [(10.0, 100.0), (30.0, 100.0), (20.0, 100.0)], "b": [(5.0, 10.0)]}
    estimator = Estimator(finished, [_probe("a"), _probe("c")])
    found = {kind: estimator.estimate(kind, WORK, ONE_CORE, 1.0) for kind in "abcd"}
    assert {kind: (e.training, e.basis) for kind, e in found.items()} == {
        "a": (20.0, "measured"),
        "b": (5.0, "measured"),
        "c": (7.0, "probed"),
        "d": (pytest.approx(25.0), "measured on others"),  # the median of 0.1, 0.3, 0.2 and 0.5
    }


def test_a_probe_tells_of_validation_and_judging_what_a_finished_trial_does_not() -> None:
    estimator = Estimator({"a": [(20.0, 100.0)]}, [_probe("a")])
    found = estimator.estimate("a", WORK, ONE_CORE, 1.0)
    assert (found.training, found.validation) == (20.0, 2.0)
    assert found.judging == pytest.approx(3.0)


@pytest.mark.parametrize(
    "need", [Resources(cpu=2), Resources(gpu=1), Resources(gpu=0.5), Resources(gpu="auto")]
)
def test_a_probe_on_another_kind_of_device_says_nothing(need: Resources) -> None:
    found = Estimator({}, [_probe("a")]).estimate("a", WORK, need, 1.0)
    assert found.basis == "assumed"


def test_a_rehearsal_on_made_up_gpus_is_estimated_as_the_cpus_that_it_has() -> None:
    need = Resources(gpu=0.5, device="cpu")
    assert Estimator({}, [_probe("a")]).estimate("a", WORK, need, 1.0).basis == "probed"
    assert "one core" in assumed_device(need)


def test_of_two_probes_the_newest_counts_and_one_key_has_one(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    keep_probes(folder, [_probe(), _probe(device="another CPU"), _probe("b")])
    keep_probes(folder, [_probe(training_seconds=9.0)])
    probes = read_probes(folder)
    assert len(probes) == 3
    assert Estimator({}, probes).estimate("a", WORK, ONE_CORE, 1.0).training == 9.0


def test_a_damaged_record_of_probes_is_none(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    keep_probes(folder, [_probe()])
    text = (tmp_path / "probe.json").read_text()
    (tmp_path / "probe.json").write_text(text.replace("7.0", "8.0"))
    assert read_probes(folder) == []


def test_what_is_assumed_is_a_range_and_what_is_known_is_not() -> None:
    for basis in ("measured", "probed", "measured on others"):
        known: Basis = basis
        assert Estimate(1.0, 1.0, 1.0, known).factor("high") == 1
    assumed = WORK.at(2.0, "assumed")
    assert assumed.factor("high") == 1 / assumed.factor("low") == ASSUMED_FACTOR
    record = assumed.record()
    assert record["training_seconds"] == 220
    assert record["training_seconds_low"] == pytest.approx(220 / ASSUMED_FACTOR)
    assert record["training_seconds_high"] == pytest.approx(220 * ASSUMED_FACTOR)


@pytest.mark.parametrize(
    ("need", "words"),
    [
        (Resources(cpu=1), "one core of a server CPU in float32 at 50 GFLOP/s"),
        (Resources(cpu=4), "4 cores of a server CPU in float32 at 50 GFLOP/s each"),
        (Resources(gpu=1), "one GPU of a data centre in bfloat16 at 40 TFLOP/s"),
        (Resources(gpu="auto"), "one GPU of a data centre in bfloat16 at 40 TFLOP/s"),
        (Resources(gpu=0.25), "0.25 of a GPU of a data centre in bfloat16 at 40 TFLOP/s"),
        (Resources(gpu=2), "2 GPUs of a data centre in bfloat16 at 40 TFLOP/s each"),
    ],
)
def test_the_assumed_device_is_named(need: Resources, words: str) -> None:
    assert assumed_device(need) == words


def test_what_a_plan_rests_on_is_said_once_with_its_share_of_the_trials() -> None:
    assumed = WORK.at(1.0, "assumed", "one core")
    measured = WORK.at(1.0, "measured", "finished trials")
    assert basis_in_words([measured]) == "measured on finished trials of the same settings"
    assert basis_in_words([assumed, measured, assumed]) == (
        "assumed (2 of 3 trials): one core; nothing is measured, which `--probe` does; "
        "measured on finished trials of the same settings (1 of 3 trials)"
    )


def test_seeds_are_of_one_kind_and_methods_are_not(tiny: dict[str, Any], tmp_path: Path) -> None:
    study = load_study(tiny, ["seeds=[0, 1]"])
    trials = make_plan(study, LocalFolder(tmp_path)).trials
    assert len({trial.kind for trial in trials}) == len(trials) // 2 == 4
    assert [t.kind for t in trials[:4]] == [t.kind for t in trials[4:]]


def test_a_new_seed_is_estimated_from_the_trial_of_its_own_kind(
    tiny: dict[str, Any], finished: Path
) -> None:
    plan = studies.plan(tiny, storage=finished, overrides=["seeds=[0, 1]"])
    done, missing = plan.trials[:4], plan.trials[4:]
    assert [trial.state for trial in missing] == ["missing"] * 4
    for one, other in zip(done, missing, strict=True):
        assert plan.estimate(one) == plan.estimate(other)
        assert plan.estimate(other).basis == "measured"
    assert len({plan.device_seconds(trial) for trial in missing}) == 4


def test_validations_are_counted_as_often_as_they_are_made(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    def validation(*overrides: str) -> float:
        plan = studies.plan(tiny, storage=tmp_path, overrides=["train.epochs=5", *overrides])
        return plan.estimate(plan.trials[1]).validation

    assert validation() > 0
    assert validation("train.val_every=2") == pytest.approx(3 / 5 * validation())
    assert validation("train.val_every=5") == pytest.approx(1 / 5 * validation())
    assert validation("train.val_images=16") == pytest.approx(1 / 2 * validation())


def test_what_is_assumed_of_a_small_network_on_a_cpu_is_the_time_of_its_layers() -> None:
    shape, need = (1, 8, 8), Resources(cpu=1)
    small, wide = ModelConfig("resnet8", width=4), ModelConfig("resnet8", width=64)
    for model, batch_size in ((small, 64), (small, 1), (wide, 500)):
        convolutions = 9  # the stem, two in each of three blocks, two shortcuts
        computing = forward_flops(model, shape, 10) / 50e9
        guessed = rough_seconds_per_unit(model, shape, batch_size, need)
        assert guessed == pytest.approx(computing + convolutions * 2e-4 / batch_size)
    on_gpu = rough_seconds_per_unit(wide, shape, 500, Resources(gpu=0.5))
    assert on_gpu == pytest.approx(forward_flops(wide, shape, 10) / 20e12)


@pytest.mark.parametrize("name", ["resnet8", "resnet18", "resnet50", "wrn-10-2", "wrn-16-4"])
def test_the_layers_of_a_network_are_counted_without_building_it(name: str) -> None:
    model = ModelConfig(name)
    built = build_unfilled(model, in_channels=3, num_classes=10)
    convolutions = [part for part in built.modules() if isinstance(part, torch.nn.Conv2d)]
    assert layers(model) == len(convolutions)
