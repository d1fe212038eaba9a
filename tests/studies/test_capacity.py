"""Which requests fit on which nodes."""

from typing import Any

import pytest

from studies.capacity import check_resources, fits, grown, node_sizes
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
        ({"CPU": 1.0, "GPU": 2 / 3}, None),
        ({"CPU": 1.0, "GPU": 1.0}, None),
        ({"CPU": 1.0, "GPU": 0.0}, {"CPU": 2.0, "GPU": 0.0}),
        ({"CPU": 2.0, "GPU": 0.0}, {"CPU": 4.0, "GPU": 0.0}),
        ({"CPU": 4.0, "GPU": 0.0}, None),
    ],
)
def test_more_room_is_half_the_packing_as_long_as_a_node_has_it(
    request_: dict[str, float], larger: dict[str, float] | None
) -> None:
    assert grown(request_, NODES) == larger


def test_three_thirds_of_a_gpu_fit_one() -> None:
    assert fits({"GPU": 3 * (1 / 3)}, {"GPU": 1})
    assert fits({"GPU": 1.0}, {"GPU": 1 / 3 + 1 / 3 + 1 / 3})
    assert not fits({"GPU": 1.0}, {"CPU": 8})


def test_dead_nodes_have_no_room() -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 1}},
        {"Alive": False, "Resources": {"CPU": 9}},
    ]
    assert node_sizes(nodes) == [{"CPU": 1}]
