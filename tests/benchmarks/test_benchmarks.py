"""The benchmarks run, on sizes that say nothing about speed."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.attack import attack_times
from benchmarks.costs import costs
from benchmarks.made_up import Size, make_up
from benchmarks.scale import paper_work
from studies.storage.local import LocalFolder
from tests.ray_paths import needs_plain_path


def test_the_attack_is_timed_in_its_three_forms() -> None:
    times = attack_times(side=8, width=2, batch=12, rounds=1)
    assert times.keys() == {"conditional", "view", "view_default_layout"}
    assert all(0 < value < math.inf for value in times.values())


def test_costs_are_counted_at_every_width() -> None:
    rows = costs("resnet18", 8)
    assert [row["width_mult"] for row in rows] == [1.0, 0.75, 0.5]
    assert rows[0]["parameters_at_one_lam"] == 11.17  # torchvision's 11.18 M without its big stem
    for row in rows:
        ratio = row["flops_ratio"]
        assert isinstance(ratio, float)
        assert ratio > 1


FEW = Size(seeds=2, variants=2, values=3, images=50)


def test_a_made_up_study_is_finished_planned_read_and_compared(tmp_path: Path) -> None:
    make_up(FEW.study(), LocalFolder(tmp_path / "full"))
    found = paper_work(FEW, tmp_path, rounds=1)
    assert (found["trials"], found["states"]) == (16, {"done": 16})
    assert found["rows"] == 2 * (2 * 11 + 6) * 3
    # the worst over three attacks, and each alone; of each variant the model at its λ
    assert (found["compare"]["attacks"], found["compare"]["pairs"]) == (4, 2)
    for part in ("plan_empty", "plan_finished", "points", "plan_far", "compare"):
        assert found[part]["seconds"] >= 0
        assert found[part]["peak_mb"] >= found[part]["before_mb"] > 0


def test_the_whole_study_has_ten_thousand_trials_and_sixty_thousand_points() -> None:
    study = Size().study()
    points = [len(method.operating_points(study.lams())) for method in study.all_methods()]
    assert len(points) * len(study.seeds) == 10_000
    assert sum(points) * len(study.attacks()) * len(study.seeds) == 60_000


@needs_plain_path
@pytest.mark.ray
@pytest.mark.slow
def test_the_benchmark_of_scale_prints_one_object_with_a_real_cluster_in_it() -> None:
    command = [sys.executable, "-m", "benchmarks.scale", "--rounds=1", "--trials=4", "--nodes=2"]
    size = [f"--{name}={value}" for name, value in vars(FEW).items()]
    ended = subprocess.run(
        [*command, *size], env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    cluster = json.loads(ended.stdout)["cluster"]
    assert cluster["states"] == {"done": 4}
    assert (cluster["nodes"], cluster["slots"], cluster["planned"]) == (2, 2, 16)
    assert 1 <= cluster["worker_processes"] <= 4
    assert cluster["seconds_per_trial"] > cluster["median_training_seconds"] > 0
