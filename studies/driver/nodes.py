"""What must hold on every node of a cluster: versions, data, storage, clock."""

import socket
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from baselines.checkpoint import weights_digest
from oat.data import DataConfig, DataError, count_images, load
from oat.own_code import allow
from studies.driver.checks import Check, checked, remarks_on
from studies.driver.node_checks import NodeAnswer, NodeSight, compare_nodes, judge_node
from studies.driver.same_data import KnownData
from studies.errors import StudyError
from studies.own_code import codes
from studies.planning.run_keys import absolute_root
from studies.storage.folder import Folder
from studies.storage.opening import check_writable, open_folder
from studies.study_file.method_blocks import AUTO
from studies.study_file.study import Study
from studies.trial.provenance import versions

if TYPE_CHECKING:
    from studies.cluster.capacity import NodeFacts

ANSWER_SECONDS = 120.0
FETCH_SECONDS = 3600.0
"""What a node may take to answer, and to fetch the data besides."""


def check_cluster(study: Study, sizes: Sequence[Mapping[str, float]]) -> Check:
    """Check that each trial's request fits one node.

    Args:
        study: The study.
        sizes: See `studies.cluster.capacity.node_sizes`.
    """
    from studies.cluster.capacity import check_has_gpu, check_resources, request_for

    requests = {(float(e.need.cpu), e.need.share) for e in study.entries()}

    def room() -> str:
        if any(e.need.gpu == AUTO for e in study.entries()):
            check_has_gpu(sizes)
        for cpu, gpu in sorted(requests):
            check_resources(request_for(cpu, gpu), sizes)
        return ", ".join(f"{cpu:g} CPU and {gpu:g} GPU" for cpu, gpu in sorted(requests))

    return checked("requests", room)


def check_nodes(
    study: Study, folder: Folder, nodes: Sequence["NodeFacts"], known: KnownData
) -> list[Check]:
    """Ask each node that may run a trial what it is and sees; Ray must be connected.

    The data are fetched on each, if the study says so: by one process, before any trial asks.

    Args:
        study: The study.
        folder: Its folder.
        nodes: As ``ray.nodes()`` returns them.
        known: What its trials were trained on.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    data = replace(study.data, root=absolute_root(study.data))
    marker = f".preflight-{uuid.uuid4().hex[:8]}"
    folder.write(marker, b"")
    began = time.time()
    ask = ray.remote(num_cpus=0, max_retries=0)(_look_around)
    asked = {
        ask.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(data, folder.uri, marker, study.own_code(), study.weights_outside()): node
        for node in nodes
        if node["Alive"] and _may_run(study, node["Resources"])
    }
    seconds = ANSWER_SECONDS + (FETCH_SECONDS if study.data.download else 0)
    try:
        ray.wait(list(asked), num_returns=len(asked), timeout=seconds)
        found = {node["NodeID"]: _answer(ref, node) for ref, node in asked.items()}
    finally:
        folder.remove(marker)
    answers = {key: told for key, told in found.items() if not isinstance(told, Check)}
    checks = [told for told in found.values() if isinstance(told, Check)]
    for told in answers.values():
        checks += judge_node(study, folder, told, began, known)
    return [*checks, *compare_nodes(study, list(answers.values()))]


def _may_run(study: Study, have: Mapping[str, float]) -> bool:
    from studies.cluster.capacity import fits, request_for

    return any(
        fits(request_for(entry.need.cpu, entry.need.share), have) for entry in study.entries()
    )


def _look_around(
    data: DataConfig,
    folder_uri: str,
    marker: str,
    own: Mapping[str, str],
    files: Sequence[str] = (),
) -> NodeSight:
    """Tell what a node is and sees; runs there."""
    from studies.cluster.ray_internals import token_is_enabled

    allow(own)
    told: NodeSight = {
        "host": socket.gethostname(),
        "versions": versions(),
        "python": sys.executable,
        "clock": time.time(),
        "token": token_is_enabled(),
        "codes": codes(own),
        "files": {file: weights_digest(file) for file in files},
    }
    try:
        dataset = load(data)
        told |= {
            "fingerprint": dataset.fingerprint,
            "num_classes": dataset.num_classes,
            "image_shape": dataset.image_shape,
            "training_images": len(dataset.train),
            "held_out_images": len(dataset.val),
            "counts": count_images(dataset),
            "remarks": remarks_on(dataset),
        }
    except DataError as error:
        told["data_error"] = str(error)
    finally:
        load.cache_clear()
    try:
        folder = open_folder(folder_uri)
        told["sees_storage"] = folder.size(marker) is not None
        check_writable(folder)
    except OSError as error:
        told["storage_error"] = str(error)
    return told


def _answer(ref: Any, node: "NodeFacts") -> NodeAnswer | Check:
    """Return what a node told, or the check that fails because it did not."""
    import ray

    name = f"node {node['NodeManagerAddress']}"
    where = f"N{name[1:]}"
    try:
        told: NodeSight = ray.get(ref, timeout=0)
        return {"name": name, **told}
    except ray.exceptions.GetTimeoutError:
        said = "has not answered in time; look at it with `ray status`, or remove it"
    except ray.exceptions.RayTaskError as error:
        last = str(error).strip().splitlines()[-1]
        said = f"cannot run oat-studies ({last}); install the same environment on every node"
    except ray.exceptions.RayError:
        return Check(name, f"{where} has left the cluster meanwhile.", warning=True)
    sentence = f"{where} {said}."
    return Check(name, sentence, StudyError(sentence))
