"""Ray's own memory monitor, on a Ray whose limit is near."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import tune
from ray._common.utils import get_system_memory
from ray._private.utils import get_used_memory
from ray.air.execution._internal.actor_manager import RayActorManager

from studies.cluster import launching as runner
from studies.cluster.capacity import node_sizes
from studies.cluster.retries import Retries
from tests.ray_paths import needs_plain_path

GIB = 2**30


@pytest.fixture
def little_memory() -> Iterator[None]:
    if get_system_memory() - get_used_memory() < 8 * GIB:
        pytest.skip("needs 8 GiB of free memory")
    limit = (get_used_memory() + 3 * GIB) / get_system_memory()
    ray.init(
        address="local", num_cpus=4, include_dashboard=False, log_to_driver=False,
        _system_config={"memory_usage_threshold": limit},
    )  # fmt: skip
    yield
    ray.shutdown()


@needs_plain_path
@pytest.mark.alone
@pytest.mark.ray
@pytest.mark.slow
def test_a_worker_that_ray_ends_for_its_memory_goes_on_with_twice_the_room(
    little_memory: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def live(config: dict[str, Any]) -> None:
        trial = config["trial"]
        with (tmp_path / "lives").open("a") as file:
            file.write(f"{trial['request']['CPU']:g}\n")
        tune.report({"kind": "epoch"})
        if trial["request"]["CPU"] == 1:
            held = []
            for _ in range(24):
                held.append(b"x" * (GIB // 4))
                time.sleep(0.05)
            time.sleep(3600)  # Ray looks four times a second

    config = {
        "job": {"run_key": "key", "resources": {"cpu": 1, "gpu": 0}},
        "request": {"CPU": 1.0, "GPU": 0.0},
        "can_grow": True,
    }
    monkeypatch.setattr(runner, "trainable", live)
    before = RayActorManager._actor_task_failed
    scheduler = Retries(node_sizes(ray.nodes()))
    space = {"trial": tune.grid_search([config])}
    assert runner._fit("evicted", scheduler, [], False, space, None) == {}
    assert (tmp_path / "lives").read_text().splitlines() == ["1", "2"]
    assert RayActorManager._actor_task_failed is before
