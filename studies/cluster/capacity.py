"""What a trial asks of a node, and what the nodes of a cluster can hold."""

import math
from collections.abc import Mapping, Sequence
from typing import TypedDict

from studies.cluster.ray_internals import startable_nodes
from studies.errors import StudyError
from studies.planning.plan import PlannedTrial
from studies.study_file.method_blocks import SMALLEST_SHARE, gpus

Request = Mapping[str, float]
"""``CPU`` and ``GPU`` that a trial asks of a node, or that a node has."""


class NodeFacts(TypedDict):
    """What is used here of a node as ``ray.nodes()`` returns it.

    Attributes:
        NodeID: Ray's name of it.
        NodeManagerAddress: Its address in the cluster's network.
        Alive: Whether it lives.
        Resources: What it has in all, ``CPU`` and ``GPU`` among it.
    """

    NodeID: str
    NodeManagerAddress: str
    Alive: bool
    Resources: dict[str, float]


def request_of(trial: PlannedTrial) -> dict[str, float]:
    """Return what a trial asks of a node."""
    need = trial.job["resources"]
    return request_for(need["cpu"], gpus(need["gpu"]))


def request_for(cpu: float, gpu: float) -> dict[str, float]:
    """Return a request as Ray can count it.

    Ray keeps shares to 1e-4. Seven times 1/7 must be at most one GPU there, so a share is rounded
    down.
    """
    share = math.floor(gpu / SMALLEST_SHARE + 1e-6) * SMALLEST_SHARE
    return {"CPU": float(cpu), "GPU": round(share, 4) if gpu < 1 else float(gpu)}


def node_sizes(nodes: Sequence[NodeFacts]) -> list[Request]:
    """Return what the nodes of a cluster can hold: those that live, and those it may still start.

    Args:
        nodes: As ``ray.nodes()`` returns them.
    """
    living: list[Request] = [node["Resources"] for node in nodes if node["Alive"]]
    return living + startable_nodes()


def fits(request: Request, node: Request) -> bool:
    """Tell whether a node is large enough for a request."""
    # 3 x 1/3 must be 1
    return all(node.get(kind, 0) + 1e-6 >= amount for kind, amount in request.items())


def check_resources(request: Request, sizes: Sequence[Request]) -> None:
    """Refuse a request that no node can satisfy; Ray would wait for ever.

    Args:
        request: What one trial asks for.
        sizes: See `node_sizes`.

    Raises:
        StudyError: No node has as much.
    """
    if any(fits(request, node) for node in sizes):
        return
    largest: Request = max(sizes, key=lambda n: (n.get("GPU", 0), n.get("CPU", 0)), default={})
    raise StudyError(
        f"`resources` ask for {request['CPU']:g} CPU and {request['GPU']:g} GPU a trial, but the "
        f"largest of {len(sizes)} nodes has {largest.get('CPU', 0):g} CPU and "
        f"{largest.get('GPU', 0):g} GPU; lower `resources.cpu` or `resources.gpu`, or use another "
        "cluster."
    )


def check_has_gpu(sizes: Sequence[Request]) -> None:
    """Refuse to choose a share of a GPU where there is none.

    Raises:
        StudyError: No node has one.
    """
    if all(node.get("GPU", 0) < 1 for node in sizes):
        nodes = "the only node has" if len(sizes) == 1 else f"each of {len(sizes)} nodes has"
        raise StudyError(
            f"`resources.gpu` is 'auto', which needs a GPU to measure on, but {nodes} none; "
            "set `resources.gpu: 0` to train on CPUs, or use another cluster."
        )


def grown(request: Request, sizes: Sequence[Request]) -> dict[str, float] | None:
    """Return a request with more room, which packs fewer trials; None if there is none.

    A share of a GPU is doubled, up to the whole, or the CPUs of a trial that has no GPU.
    """
    if request["GPU"] >= 1:
        return None
    kind = "GPU" if request["GPU"] else "CPU"
    twice = 2 * request[kind]
    double = {**request, kind: min(1.0, twice) if kind == "GPU" else twice}
    return double if any(fits(double, node) for node in sizes) else None


def slots(request: Request, sizes: Sequence[Request]) -> int:
    """Count the trials of one request that fit on the nodes at a time; at least 1."""
    kinds = [kind for kind, amount in request.items() if amount > 0]
    fitting = (min(node.get(kind, 0) / request[kind] + 1e-6 for kind in kinds) for node in sizes)
    return max(1, sum(map(int, fitting)))
