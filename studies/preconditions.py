"""What must hold before a study starts, checked at once: here, and on every node of a cluster.

Each check that fails is a sentence with its cure; nothing is started before all hold.
"""

import socket
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from oat.adversaries import EXTRA, check_classes
from oat.autoattack import check_installed
from oat.data import DataConfig, DataError, load
from studies.blocks import AUTO
from studies.config import Study
from studies.errors import StorageError, StudyError, UserError
from studies.loading import load_study
from studies.planning import absolute_root
from studies.records import differences, versions
from studies.session import STORAGE, Source, study_folder, tracking_place
from studies.storage import Folder, check_writable, open_folder
from studies.trial import load_once

ANSWER_SECONDS = 120.0
FETCH_SECONDS = 3600.0
"""What a node may take to answer, and to fetch the data besides."""
CLOCK_SECONDS = 300.0
"""Clocks further apart are worth a warning: object stores refuse requests after 15 minutes."""


@dataclass(frozen=True)
class Check:
    """One thing that must hold.

    Attributes:
        name: What was checked.
        said: What was found, or the sentence of a warning.
        error: Why nothing may start; None if it holds.
        warning: Whether it holds, but the user should know.
    """

    name: str
    said: str
    error: UserError | None = None
    warning: bool = False

    @property
    def state(self) -> str:
        """``ok``, ``warning`` or ``failed``."""
        if self.error is not None:
            return "failed"
        return "warning" if self.warning else "ok"


def preflight(
    study: Source,
    *,
    storage: str | Path = STORAGE,
    address: str | None = None,
    tracking_uri: str | None = None,
    overrides: Sequence[str] = (),
) -> list[Check]:
    """Check all that `run` checks before it starts anything; every failure, not only the first.

    Args:
        study: A preset's name, a YAML file, a mapping, or a study.
        storage: Folder or URI of all studies' results.
        address: Ray cluster to ask; None starts a Ray on this machine.
        tracking_uri: MLflow; see `tracking_place`.
        overrides: ``path.to.key=value`` each.

    Raises:
        StudyError: The study is faulty, or no cluster answers.
    """
    import ray

    from studies.capacity import node_sizes
    from studies.runner import connect

    resolved = load_study(study, overrides)
    folder = study_folder(resolved, storage)
    uri, _ = tracking_place(storage, tracking_uri)
    trials = len(resolved.seeds) * len(resolved.all_methods())
    checks = [Check("study", f"{resolved.name}: {trials} trials")]
    checks += check_here(resolved, folder, uri)
    if address is None:
        checks.append(check_evaluation(resolved))
    with ExitStack() as stack:
        if connect(address):
            stack.callback(ray.shutdown)
        checks.append(check_cluster(resolved, node_sizes(ray.nodes())))
        if address is not None and checks[1].error is None:
            checks += check_nodes(resolved, folder, ray.nodes())
    return checks


def demand(checks: Sequence[Check]) -> None:
    """Refuse to go on if a check has failed.

    Raises:
        UserError: Of the class of the first that failed, with the sentences of all.
    """
    errors = [check.error for check in checks if check.error is not None]
    if errors:
        raise type(errors[0])("\n".join(dict.fromkeys(map(str, errors))))


def check_here(study: Study, folder: Folder, tracking_uri: str) -> list[Check]:
    """Check what this process needs: the storage and MLflow."""
    from studies.tracking import check_server

    def storage() -> str:
        check_writable(folder)
        return f"'{folder.uri}' can be written"

    def tracking() -> str:
        from studies.addresses import without_credentials

        check_server(tracking_uri)
        return without_credentials(tracking_uri)

    return [_check("storage", storage), _check("MLflow", tracking)]


def check_evaluation(study: Study) -> Check:
    """Read the data in this process, and check the attacks against them."""

    def data() -> str:
        try:
            found = load(study.data)
            _check_attacks(study, found.num_classes)
        except DataError as error:
            raise StudyError(str(error)) from error
        finally:
            load.cache_clear()
        return f"{study.data.name}: {len(found.train)} training images"

    return _check("data", data)


def check_cluster(study: Study, sizes: Sequence[Mapping[str, float]]) -> Check:
    """Check that each trial's request fits one node.

    Args:
        study: The study.
        sizes: See `studies.capacity.node_sizes`.
    """
    from studies.capacity import check_has_gpu, check_resources, request_for

    requests = {(float(e.need.cpu), e.need.share) for e in study.entries()}

    def room() -> str:
        if any(e.need.gpu == AUTO for e in study.entries()):
            check_has_gpu(sizes)
        for cpu, gpu in sorted(requests):
            check_resources(request_for(cpu, gpu), sizes)
        return ", ".join(f"{cpu:g} CPU and {gpu:g} GPU" for cpu, gpu in sorted(requests))

    return _check("requests", room)


def check_nodes(study: Study, folder: Folder, nodes: Sequence[Mapping[str, Any]]) -> list[Check]:
    """Ask each node that may run a trial what it is and sees; Ray must be connected.

    The data are fetched on each, if the study says so: by one process, before any trial asks.

    Args:
        study: The study.
        folder: Its folder.
        nodes: As ``ray.nodes()`` returns them.
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
        ).remote(data, folder.uri, marker): node
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
        checks += _judge_node(study, folder, told, began)
    return [*checks, *_compare_nodes(study, list(answers.values()))]


def _may_run(study: Study, have: Mapping[str, float]) -> bool:
    from studies.capacity import fits, request_for

    return any(
        fits(request_for(entry.need.cpu, entry.need.share), have) for entry in study.entries()
    )


def _look_around(data: DataConfig, folder_uri: str, marker: str) -> dict[str, Any]:
    """Tell what a node is and sees; runs there."""
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    told: dict[str, Any] = {
        "host": socket.gethostname(),
        "versions": versions(),
        "clock": time.time(),
        "token": is_token_auth_enabled(),
    }
    try:
        dataset = load_once(data)
        told |= {"fingerprint": dataset.fingerprint, "num_classes": dataset.num_classes}
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


def _answer(ref: Any, node: Mapping[str, Any]) -> dict[str, Any] | Check:
    """Return what a node told, or the check that fails because it did not."""
    import ray

    name = f"node {node['NodeManagerAddress']}"
    where = f"N{name[1:]}"
    try:
        return {"name": name, **ray.get(ref, timeout=0)}
    except ray.exceptions.GetTimeoutError:
        said = "has not answered in time; look at it with `ray status`, or remove it"
    except ray.exceptions.RayTaskError as error:
        last = str(error).strip().splitlines()[-1]
        said = f"cannot run oat-studies ({last}); install the same environment on every node"
    except ray.exceptions.RayError:
        return Check(name, f"{where} has left the cluster meanwhile.", warning=True)
    sentence = f"{where} {said}."
    return Check(name, sentence, StudyError(sentence))


def _judge_node(study: Study, folder: Folder, told: Mapping[str, Any], began: float) -> list[Check]:
    """Check what one node told, after it was asked at ``began`` by the clock of this process."""
    name, where = told["name"], f"N{told['name'][1:]} ({told['host']})"

    def same_versions() -> str:
        if odd := differences(versions(), told["versions"]):
            raise StudyError(f"{where} has {odd}; install the same environment on every node.")
        return ", ".join(f"{key} {value}" for key, value in told["versions"].items())

    def data() -> str:
        if "data_error" in told:
            raise StudyError(f"{where}: {told['data_error']}")
        _check_attacks(study, told["num_classes"])
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

    checks = [
        _check(f"{name}: versions", same_versions),
        _check(f"{name}: data", data),
        _check(f"{name}: storage", storage),
    ]
    # it looked at its clock at some time since it was asked; fetching data may have taken an hour
    apart = told["clock"] - min(max(told["clock"], began), time.time())
    if abs(apart) > CLOCK_SECONDS:
        said = f"{where} has a clock that is {apart:+.0f} s off; nothing here needs it right, but "
        said += "object stores refuse requests that are 15 minutes off: set it by NTP."
        checks.append(Check(f"{name}: clock", said, warning=True))
    return checks


def _compare_nodes(study: Study, answers: Sequence[Mapping[str, Any]]) -> list[Check]:
    """Check that all nodes have the same data, and that the cluster asks for a token."""
    checks = []
    prints = {told["fingerprint"]: told["name"] for told in answers if "fingerprint" in told}
    if len(prints) > 1:
        where = " and ".join(f"{name} ({key})" for key, name in list(prints.items())[:2])
        said = f"`data` differ between nodes: {where}; give every node the same files."
        checks.append(Check("data", said, StudyError(said)))
    if answers and not all(told["token"] for told in answers):
        said = "The cluster runs code for whoever reaches its port; start it with "
        said += "`RAY_AUTH_MODE=token` and a token (`ray get-auth-token --generate`)."
        checks.append(Check("token", said, warning=True))
    elif answers:
        checks.append(Check("token", "asked for"))
    return checks


def _check_attacks(study: Study, num_classes: int) -> None:
    """Check that the attacks are installed and fit the data.

    Raises:
        StudyError: One does not.
    """
    try:
        for attack in study.attacks():
            if isinstance(attack, EXTRA):
                check_installed(attack.name)
            check_classes(attack, num_classes)
    except (ImportError, ValueError) as error:
        raise StudyError(str(error)) from error


def _check(name: str, look: Callable[[], str]) -> Check:
    """Make a check of a function that returns what it found, or raises."""
    try:
        return Check(name, look())
    except UserError as error:
        return Check(name, str(error), error)
