"""Each door of Ray without a public form is opened; a version that has moved one says so."""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search.optuna import OptunaSearch

from studies.cluster import ray_internals


@pytest.fixture(scope="module")
def small_ray() -> Iterator[None]:
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def _opened(name: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        pytest.fail(
            f"Ray {ray.__version__} has moved what `{name}` needs ({error!r}); it was tried with "
            f"{ray_internals.TRIED_WITH}."
        )


@pytest.mark.ray
@pytest.mark.slow
def test_the_doors_to_rays_state_open(small_ray: None) -> None:
    assert _opened("token_is_enabled", ray_internals.token_is_enabled) in (True, False)
    assert Path(_opened("temporary_folder", ray_internals.temporary_folder)).is_dir()
    assert _opened("startable_nodes", ray_internals.startable_nodes) == []

    @ray.remote(num_cpus=2)
    class Waits:
        pass

    waits = Waits.remote()  # no node has two
    job = ray.get_runtime_context().get_job_id()
    made = _opened("actors_being_made", lambda: ray_internals.actors_being_made(job))
    assert made.keys() <= {waits._actor_id.hex()}


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (RayActorManager, "_actor_task_failed"),
        (Trial, "pickled_error_file"),
        (Trial, "update_resources"),
        (Trial, "set_config"),
        (FIFOScheduler, "on_trial_error"),
        (OptunaSearch, "suggest"),
    ],
)
def test_what_is_used_of_tune_is_there(owner: type, name: str) -> None:
    assert hasattr(owner, name), (
        f"Ray {ray.__version__} has no `{owner.__name__}.{name}`; `studies/cluster` was tried with "
        f"{ray_internals.TRIED_WITH}."
    )


@pytest.mark.parametrize("name", ["_ot_study", "_ot_trials"])
def test_optunas_search_keeps_its_study_where_ours_looks(name: str) -> None:
    assert f"self.{name}" in inspect.getsource(OptunaSearch), (
        f"Ray {ray.__version__} has no `OptunaSearch.{name}`, which `studies/tuning/search.py` "
        f"uses; it was tried with {ray_internals.TRIED_WITH}."
    )
