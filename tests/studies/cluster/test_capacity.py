"""Which requests fit on which nodes."""

from collections.abc import Iterator
from typing import Any

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st
from ray.util.placement_group import placement_group, remove_placement_group

from studies.cluster.capacity import check_resources, fits, grown, node_sizes, request_for, slots
from studies.errors import StudyError

NODES = [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 2.0}]


def _node(cpu: float, gpu: float = 0, alive: bool = True) -> dict[str, Any]:
    resources = {"CPU": cpu, "memory": 1e9, **({"GPU": gpu} if gpu else {})}
    return {"Alive": alive, "Resources": resources}


@pytest.mark.parametrize(
    ("cpu", "gpu", "nodes"),
    [
        (2, 0, [_node(2)]),
        (4, 0, [_node(2), _node(4)]),
        (1, 1, [_node(8), _node(1, 1)]),
        (1, 1 / 3, [_node(1, 1)]),
        (8, 4, [_node(8, 4)]),
    ],
)
def test_a_request_that_some_node_can_hold_is_taken(
    cpu: int, gpu: float, nodes: list[dict[str, Any]]
) -> None:
    check_resources({"CPU": cpu, "GPU": gpu}, node_sizes(nodes))


@pytest.mark.parametrize(
    ("cpu", "gpu", "nodes", "words"),
    [
        (3, 0, [_node(2), _node(2)], ("3 CPU", "2 nodes", "2 CPU", "`resources.cpu`")),
        (1, 1, [_node(2)], ("1 GPU", "0 GPU", "`resources.gpu`")),
        (4, 1, [_node(8), _node(2, 1)], ("4 CPU and 1 GPU", "2 CPU and 1 GPU")),
        (1, 2, [_node(8, 1), _node(8, 1)], ("2 GPU", "1 GPU")),
        (1, 1, [_node(8, 1, alive=False), _node(8)], ("largest of 1 nodes", "0 GPU")),
        (1, 0, [], ("0 nodes", "0 CPU")),
    ],
)
def test_a_request_that_no_node_can_hold_is_refused(
    cpu: int, gpu: float, nodes: list[dict[str, Any]], words: tuple[str, ...]
) -> None:
    with pytest.raises(StudyError) as caught:
        check_resources({"CPU": cpu, "GPU": gpu}, node_sizes(nodes))
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("request_", "larger"),
    [
        ({"CPU": 1.0, "GPU": 0.25}, {"CPU": 1.0, "GPU": 0.5}),
        ({"CPU": 1.0, "GPU": 0.5}, {"CPU": 1.0, "GPU": 1.0}),
        ({"CPU": 1.0, "GPU": 1 / 3}, {"CPU": 1.0, "GPU": 2 / 3}),
        ({"CPU": 1.0, "GPU": 2 / 3}, {"CPU": 1.0, "GPU": 1.0}),
        ({"CPU": 1.0, "GPU": 0.3}, {"CPU": 1.0, "GPU": 0.6}),
        ({"CPU": 1.0, "GPU": 0.6}, {"CPU": 1.0, "GPU": 1.0}),
        ({"CPU": 1.0, "GPU": 0.9999}, {"CPU": 1.0, "GPU": 1.0}),
        ({"CPU": 1.0, "GPU": 1.0}, None),
        ({"CPU": 1.0, "GPU": 0.0}, {"CPU": 2.0, "GPU": 0.0}),
        ({"CPU": 2.0, "GPU": 0.0}, {"CPU": 4.0, "GPU": 0.0}),
        ({"CPU": 4.0, "GPU": 0.0}, None),
    ],
)
def test_more_room_is_twice_as_much_as_long_as_a_node_has_it(
    request_: dict[str, float], larger: dict[str, float] | None
) -> None:
    assert grown(request_, NODES) == larger


def test_three_thirds_of_a_gpu_fit_one() -> None:
    assert fits({"GPU": 3 * (1 / 3)}, {"GPU": 1})
    assert fits({"GPU": 1.0}, {"GPU": 1 / 3 + 1 / 3 + 1 / 3})
    assert not fits({"GPU": 1.0}, {"CPU": 8})


@given(share=st.floats(1e-4, 1))
def test_every_share_grows_to_the_whole_gpu(share: float) -> None:
    request = request_for(1, share)
    for _ in range(20):
        larger = grown(request, NODES)
        if larger is None:
            break
        assert larger["GPU"] > request["GPU"]
        request = larger
    assert request["GPU"] == 1


@given(trials=st.integers(1, 100))
def test_as_many_trials_fit_a_gpu_as_their_share_says(trials: int) -> None:
    request = request_for(0, 1 / trials)
    assert 0 < request["GPU"] <= 1 / trials
    assert slots(request, [{"GPU": 1.0}]) == trials


@pytest.mark.parametrize("gpu", [0.0, 0.25, 0.2, 0.29, 0.3, 0.5, 0.7, 1.0, 2.0, 1e-4])
def test_a_share_of_four_decimals_is_asked_for_as_it_is(gpu: float) -> None:
    assert request_for(2, gpu) == {"CPU": 2.0, "GPU": gpu}


@pytest.fixture(scope="module")
def made_up_gpu() -> Iterator[None]:
    ray.init(
        address="local",  # none that happens to run on the machine
        num_cpus=1,
        num_gpus=1,
        include_dashboard=False,
        logging_level="ERROR",
    )
    yield
    ray.shutdown()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("trials", [3, 6, 7])
def test_ray_places_as_many_trials_at_once_as_their_share_says(
    trials: int, made_up_gpu: None
) -> None:
    share = request_for(0, 1 / trials)["GPU"]
    # a placement group is there once all of its bundles are, at the same time
    group = placement_group([{"GPU": share}] * trials)
    assert group.wait(1000)
    remove_placement_group(group)


def test_dead_nodes_have_no_room() -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 1}},
        {"Alive": False, "Resources": {"CPU": 9}},
    ]
    assert node_sizes(nodes) == [{"CPU": 1}]
