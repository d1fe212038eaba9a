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
from ray.tune import FailureConfig, RunConfig, TuneConfig

from studies.evicted import evictions_survived
from studies.runner import GaveUp, Retries, node_sizes

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


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_worker_that_ray_ends_for_its_memory_goes_on_with_twice_the_room(
    little_memory: None, tmp_path: Path
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
            time.sleep(30)  # Ray looks four times a second

    gave_up = GaveUp()
    config = {
        "job": {"run_key": "key", "resources": {"cpu": 1, "gpu": 0}},
        "request": {"CPU": 1.0, "GPU": 0.0},
        "can_grow": True,
    }
    tuner = tune.Tuner(
        tune.with_resources(live, lambda config: {"cpu": config["trial"]["request"]["CPU"]}),
        param_space={"trial": tune.grid_search([config])},
        tune_config=TuneConfig(scheduler=Retries(node_sizes(ray.nodes()))),
        run_config=RunConfig(
            storage_path=str(tmp_path / "tune"), verbose=0, callbacks=[gave_up],
            failure_config=FailureConfig(max_failures=2),
        ),
    )  # fmt: skip
    before = RayActorManager._actor_task_failed
    with evictions_survived():
        tuner.fit()
    assert gave_up.reasons == {}
    assert (tmp_path / "lives").read_text().splitlines() == ["1", "2"]
    assert RayActorManager._actor_task_failed is before
