"""What must hold on every node of a cluster: versions, data, storage, clock."""

import re
import socket
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from oat.data import DataConfig, DataError, count_images, load
from oat.own_code import allow
from studies.driver.checks import (
    DATA,
    Check,
    check_attacks,
    check_own_code,
    checked,
    data_warnings,
    remarks_on,
)
from studies.driver.same_data import KnownData
from studies.errors import StorageError, StudyError
from studies.own_code import codes
from studies.planning.run_keys import absolute_root
from studies.storage.folder import Folder
from studies.storage.opening import check_writable, open_folder
from studies.study_file.method_blocks import AUTO
from studies.study_file.study import Study
from studies.trial.provenance import differences, versions

if TYPE_CHECKING:
    from studies.cluster.capacity import NodeFacts

ANSWER_SECONDS = 120.0
FETCH_SECONDS = 3600.0
"""What a node may take to answer, and to fetch the data besides."""
CLOCK_SECONDS = 300.0
"""Clocks further apart are worth a warning: object stores refuse requests after 15 minutes."""


class NodeSight(TypedDict):
    """What a node tells of itself, and of what it sees.

    Attributes:
        host: Its name.
        versions: Of Python and of packages there.
        clock: Its time, in seconds since 1970.
        token: Whether its Ray asks for a token.
        fingerprint: Digest of its data; not there if it cannot read them.
        num_classes: Of these data; likewise.
        image_shape: Of their images; likewise.
        counts: How many images they are; likewise.
        remarks: What the user should know of them; likewise.
        data_error: Why it cannot, if so.
        sees_storage: Whether it sees the storage of the driver; not there if it cannot look.
        storage_error: What storage does not do, if so.
        codes: Of all code of the user's the digest, or why it is not there.
    """

    host: str
    versions: dict[str, str | None]
    clock: float
    token: bool
    fingerprint: NotRequired[str]
    num_classes: NotRequired[int]
    image_shape: NotRequired[tuple[int, int, int]]
    counts: NotRequired[str]
    remarks: NotRequired[list[str]]
    data_error: NotRequired[str]
    sees_storage: NotRequired[bool]
    storage_error: NotRequired[str]
    codes: dict[str, str]


class NodeAnswer(NodeSight):
    """The same, with the node's name.

    Attributes:
        name: ``node``, and its address.
    """

    name: str


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
        ).remote(data, folder.uri, marker, study.own_code()): node
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
        checks += _judge_node(study, folder, told, began, known)
    return [*checks, *_compare_nodes(study, list(answers.values()))]


def _may_run(study: Study, have: Mapping[str, float]) -> bool:
    from studies.cluster.capacity import fits, request_for

    return any(
        fits(request_for(entry.need.cpu, entry.need.share), have) for entry in study.entries()
    )


def _look_around(
    data: DataConfig, folder_uri: str, marker: str, own: Mapping[str, str]
) -> NodeSight:
    """Tell what a node is and sees; runs there."""
    from studies.cluster.ray_internals import token_is_enabled

    allow(own)
    told: NodeSight = {
        "host": socket.gethostname(),
        "versions": versions(),
        "clock": time.time(),
        "token": token_is_enabled(),
        "codes": codes(own),
    }
    try:
        dataset = load(data)
        told |= {
            "fingerprint": dataset.fingerprint,
            "num_classes": dataset.num_classes,
            "image_shape": dataset.image_shape,
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


def _judge_node(
    study: Study, folder: Folder, told: NodeAnswer, began: float, known: KnownData
) -> list[Check]:
    """Check what one node told, after it was asked at ``began`` by the clock of this process."""
    name, where = told["name"], f"N{told['name'][1:]} ({told['host']})"

    def same_versions() -> str:
        if odd := differences(versions(), told["versions"]):
            raise StudyError(f"{where} has {odd}; install the same environment on every node.")
        return ", ".join(f"{key} {value}" for key, value in told["versions"].items())

    def data() -> str:
        if "data_error" in told:
            raise StudyError(f"{where}: {told['data_error']}")
        known.check(told["fingerprint"])
        check_attacks(study, told["num_classes"])
        return f"{study.data.name} with fingerprint {told['fingerprint']}"

    def storage() -> str:
        if "storage_error" in told:
            raise StorageError(f"{where}: {told['storage_error']}")
        if not told["sees_storage"]:
            raise StorageError(
                f"{where} has a folder of its own at `--storage` '{folder.uri}'; use a path that "
                "all nodes share, or a URI such as s3://bucket/studies."
            )
        return "the same as here, and can be written"

    def code() -> str:
        own = study.own_code()
        for name, here in codes(own).items():
            there = told["codes"][name]
            if there != here:
                said = f"has other code of the {own[name]} '{name}' ({there} there, {here} here)"
                said = said if re.fullmatch("[0-9a-f]{12}", there) else f"says: {there}"
                raise StudyError(f"{where} {said.rstrip('.')}; give every node the same file.")
        return ", ".join(f"{name} {digest}" for name, digest in told["codes"].items())

    checks = [
        checked(f"{name}: versions", same_versions),
        *([checked(f"{name}: code", code)] if told["codes"] else []),
        checked(f"{name}: data", data),
        checked(f"{name}: storage", storage),
    ]
    # it looked at its clock at some time since it was asked; fetching data may have taken an hour
    apart = told["clock"] - min(max(told["clock"], began), time.time())
    if abs(apart) > CLOCK_SECONDS:
        said = f"{where} has a clock that is {apart:+.0f} s off; nothing here needs it right, but "
        said += "object stores refuse requests that are 15 minutes off: set it by NTP."
        checks.append(Check(f"{name}: clock", said, warning=True))
    return checks


def _compare_nodes(study: Study, answers: Sequence[NodeAnswer]) -> list[Check]:
    """Check that all nodes have the same data, and that the cluster asks for a token."""
    checks = []
    prints = {told["fingerprint"]: told["name"] for told in answers if "fingerprint" in told}
    if len(prints) > 1:
        where = " and ".join(f"{name} ({key})" for key, name in list(prints.items())[:2])
        said = f"`data` differ between nodes: {where}; give every node the same files."
        checks.append(Check(DATA, said, StudyError(said)))
    elif prints:
        able = next(told for told in answers if "fingerprint" in told)
        remarks = [remark for told in answers for remark in told.get("remarks", ())]
        checks.append(Check(DATA, f"{study.data.name}, {able['counts']}"))
        checks += check_own_code(study, able["image_shape"], able["num_classes"])
        checks += data_warnings(list(dict.fromkeys(remarks)))
    if answers and not all(told["token"] for told in answers):
        said = "The cluster runs code for whoever reaches its port; start it with "
        said += "`RAY_AUTH_MODE=token` and a token (`ray get-auth-token --generate`)."
        checks.append(Check("token", said, warning=True))
    elif answers:
        checks.append(Check("token", "asked for"))
    return checks
