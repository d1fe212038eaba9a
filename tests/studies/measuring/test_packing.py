"""How many trials share a GPU: the choice, a real measurement on CPUs, and runs that use it."""

import shutil
from collections.abc import Iterator
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import studies
from studies.cluster.capacity import check_has_gpu
from studies.driver.nodes import check_cluster
from studies.errors import StudyError
from studies.measuring.packing import (
    choose_share,
    look_up_or_measure,
    packing_of,
    read_packings,
    study_with_share,
    with_share,
)
from studies.measuring.throughput import COUNTS, Measured, Packing, choose, measure
from studies.planning.expand import make_plan
from studies.planning.plan import Plan
from studies.storage.local import LocalFolder
from studies.storage.sealed import write_sealed
from studies.study_file.loading import load_study
from tests.ray_paths import needs_plain_path
from tests.studies.marks import NOLOAD

pytestmark = NOLOAD
GIB = 2**30


def _measured(*rates: float) -> list[Measured]:
    return [Measured(count, rate) for count, rate in zip(COUNTS, rates, strict=False)]


@pytest.mark.parametrize(
    ("rates", "peak", "size", "chosen"),
    [
        ([100], 1, 80, 1),
        ([100, 190, 200], 9, 79, 2),  # exactly 95 % of the best
        ([100, 190, 200, 202], 9, 79, 3),
        ([100, 180, 250, 310], 20, 79, 3),  # four would take 80
        ([100, 180, 250], 24, 79, 2),  # three would take 72, more than 90 %
        ([100, 50], 9, 79, 1),
        ([100, 180], 70, 79, 1),
        ([100, 180], 100, 79, 1),  # one is always taken
        ([100, 200, 300, 400, 600, 800], 0, None, 8),
    ],
)
def test_the_fewest_trials_near_the_best_throughput_that_fit_are_chosen(
    rates: list[float], peak: float, size: float | None, chosen: int
) -> None:
    device_bytes = None if size is None else round(size * GIB)
    assert choose(_measured(*rates), round(peak * GIB), device_bytes) == chosen


@given(
    rates=st.lists(st.floats(1, 1000), min_size=1, max_size=6),
    peak=st.integers(0, 80),
    size=st.integers(1, 80),
)
def test_no_smaller_choice_would_have_been_near_the_best(
    rates: list[float], peak: int, size: int
) -> None:
    measured = _measured(*rates)
    chosen = choose(measured, peak, size)
    fitting = [m for m in measured if m.trials == 1 or m.trials * peak <= 0.9 * size]
    best = max(m.images_per_second for m in fitting)
    rate = {m.trials: m.images_per_second for m in fitting}
    assert rate[chosen] >= 0.95 * best
    assert all(rate[m.trials] < 0.95 * best for m in fitting if m.trials < chosen)


@pytest.mark.parametrize(
    ("packing", "said"),
    [
        (
            Packing("a GPU", tuple(_measured(100, 180, 210)), 9 * GIB, 79 * GIB),
            "3 trials at a time on one a GPU train 2.1 times as many images a second as one; "
            "each takes 9 of 79 GiB",
        ),
        (
            Packing("a GPU", tuple(_measured(100, 103)), 9 * GIB, 79 * GIB),
            "one trial at a time on one a GPU, as two train only 1.03 times as many images a "
            "second; each takes 9 of 79 GiB",
        ),
        (
            Packing("a CPU", tuple(_measured(100)), 0, None),
            "one trial at a time on one a CPU, as its memory or its share of the node's CPUs has "
            "no room for two",
        ),
    ],
)
def test_what_was_chosen_is_said_with_its_reason(packing: Packing, said: str) -> None:
    assert str(packing) == said
    assert packing_of(asdict(packing)) == packing


def _plan(source: dict[str, Any], storage: Path, *overrides: str) -> Plan:
    study = load_study(source, ["resources={gpu: auto, device: cpu}", *overrides])
    return make_plan(study, LocalFolder(storage / study.name))


@pytest.mark.slow
def test_processes_really_train_at_the_same_time(tiny: dict[str, Any], tmp_path: Path) -> None:
    job = _plan(tiny, tmp_path).trials[0].job
    packing = measure(job, most=2, seconds=0.5)
    assert [m.trials for m in packing.measured] == [1, 2]
    assert all(m.images_per_second > 0 for m in packing.measured)
    assert packing.device_bytes is None
    assert packing.trials in (1, 2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_data_that_are_missing_end_a_measurement_with_a_sentence(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    job = _plan(tiny, tmp_path, f"data={{name: cifar10, root: {tmp_path}}}").trials[0].job
    _, record = look_up_or_measure(job, 1, 0.5, {})
    assert "`resources.gpu: auto` cannot be measured" in record["error"]
    assert "cifar10" in record["error"]
    assert "\n" not in record["error"]


def test_a_share_is_filled_in_where_it_was_left_open(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["methods"][1]["resources"] = {"gpu": 0.5, "device": "cpu"}
    tiny["methods"][2]["resources"] = {"gpu": "auto", "cpu": 2}
    plan = _plan(tiny, tmp_path)
    packed = with_share(plan, 1 / 3)
    asked = [trial.job["resources"]["gpu"] for trial in packed.trials]
    assert asked == [1 / 3, 0.5, 0.5, 1 / 3]
    assert packed.study == plan.study
    assert [t.run_key for t in packed.trials] == [t.run_key for t in plan.trials]
    study = study_with_share(plan.study, 1 / 3)
    assert [entry.need.gpu for entry in study.entries()] == asked
    assert make_plan(study, LocalFolder(tmp_path)).trials[0].run_key == plan.trials[0].run_key
    assert with_share(plan, None) is plan
    assert study_with_share(plan.study, None) is plan.study


def test_without_a_gpu_there_is_nothing_to_measure_on(tiny: dict[str, Any], tmp_path: Path) -> None:
    study = _plan(tiny, tmp_path).study
    with pytest.raises(StudyError) as caught:
        check_has_gpu([{"CPU": 2.0}])
    assert "set `resources.gpu: 0`" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert check_cluster(study, [{"CPU": 2.0}]).state == "failed"
    assert check_cluster(study, [{"CPU": 2.0}, {"CPU": 4.0, "GPU": 1.0}]).state == "ok"
    assert "CPU" in check_cluster(study, [{"CPU": 0.5, "GPU": 1.0}]).said


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


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Resources that leave the share open, measured for half a second with one trial alone."""
    monkeypatch.setattr(choose_share, "__defaults__", (0.5,))
    return {"gpu": "auto", "device": "cpu", "cpu": 2}


def _console() -> Console:
    return Console(file=StringIO(), width=1000)


def _said(console: Console) -> str:
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


@needs_plain_path
@pytest.mark.ray
@pytest.mark.slow
def test_a_share_is_measured_once_on_a_node_and_then_known(
    tiny: dict[str, Any], tmp_path: Path, made_up_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, folder = _plan(tiny, tmp_path), LocalFolder(tmp_path / "tiny")
    first, second = _console(), _console()
    with monkeypatch.context() as impatient:
        impatient.setattr("studies.measuring.packing.PATIENCE_SECONDS", 0.01)
        share = choose_share(plan.trials, folder, first, seconds=0.5)
    assert share in (1, 0.5)
    assert "a GPU must be wholly free for that" in " ".join(_said(first).split())
    assert "measured: " in _said(first)
    ((key, record),) = read_packings(folder).items()
    # what is kept decides: not what a second measurement would find
    rates = [{"trials": 1, "images_per_second": 1.0}, {"trials": 2, "images_per_second": 1.9}]
    write_sealed(folder, "packing.json", {"packings": {key: {**record, "measured": rates}}})
    assert choose_share(plan.trials, folder, second, seconds=0.5) == 0.5
    assert "measured earlier: 2 trials at a time" in _said(second)
    assert "wholly free" not in _said(second)


def test_a_damaged_record_of_measurements_is_none(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    write_sealed(folder, "packing.json", {"packings": {"key": {"measured": []}}})
    assert list(read_packings(folder)) == ["key"]
    (tmp_path / "packing.json").write_text("cut off")
    assert read_packings(folder) == {}


def test_nothing_is_measured_for_trials_that_ask_for_a_number(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    plan = make_plan(load_study(tiny), LocalFolder(tmp_path))
    assert choose_share(plan.trials, LocalFolder(tmp_path), _console()) is None


@needs_plain_path
@pytest.mark.ray
@pytest.mark.slow
def test_a_run_chooses_a_share_and_keeps_the_study_as_it_was_given(
    tiny: dict[str, Any],
    tmp_path: Path,
    made_up_gpu: None,
    finished: Path,
    short: dict[str, Any],
) -> None:
    tiny["resources"] = short
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    tiny["methods"] = tiny["methods"][:2]
    tiny["methods"][1]["lam"] = [0, 0.5, 1]
    console = _console()
    outcome = studies.run(tiny, storage=tmp_path, console=console)
    assert outcome.complete
    assert outcome.worked_on == 1
    assert "measured: " in _said(console)
    kept = yaml.safe_load((tmp_path / "tiny" / "study.yaml").read_text())
    assert kept["resources"]["gpu"] == "auto"
    assert len(read_packings(LocalFolder(tmp_path / "tiny"))) == 1


@needs_plain_path
@pytest.mark.ray
@pytest.mark.slow
def test_tuning_chooses_a_share_as_well(
    tunable: dict[str, Any], tmp_path: Path, made_up_gpu: None, short: dict[str, Any]
) -> None:
    tunable["resources"] = short
    tunable["methods"] = [{"name": "trades", "beta": 1}]
    tunable["tune"]["budget"] = "3s"
    tunable["tune"]["space"] = {"trades": {"beta": {"choices": [1]}}}
    console = _console()
    outcome = studies.tune(tunable, storage=tmp_path, console=console)
    assert outcome.complete
    assert "measured: " in _said(console)
    tuned = yaml.safe_load((tmp_path / "tiny" / "tuned.yaml").read_text())
    assert tuned["resources"]["gpu"] == "auto"
