"""What must hold of what the nodes of a cluster tell: one environment, the same files, a clock."""

import re
import shlex
import time
from collections.abc import Sequence
from typing import NotRequired, TypedDict

from baselines.checkpoint import weights_digest
from studies.driver.checks import (
    DATA,
    Check,
    check_attacks,
    check_batches,
    check_own_code,
    checked,
    data_warnings,
    too_few_held_out,
)
from studies.driver.same_data import KnownData
from studies.errors import StorageError, StudyError
from studies.own_code import codes
from studies.storage.folder import Folder
from studies.study_file.study import Study
from studies.trial.provenance import differences, versions

CLOCK_SECONDS = 300.0
"""Clocks further apart are worth a warning: object stores refuse requests after 15 minutes."""


class NodeSight(TypedDict):
    """What a node tells of itself, and of what it sees.

    Attributes:
        host: Its name.
        versions: Of Python and of packages there.
        python: Path of its Python.
        clock: Its time, in seconds since 1970.
        token: Whether its Ray asks for a token.
        fingerprint: Digest of its data; not there if it cannot read them.
        num_classes: Of these data; likewise.
        image_shape: Of their images; likewise.
        training_images: How many they are; likewise.
        held_out_images: How many are held out of them; likewise.
        counts: How many images they are; likewise.
        remarks: What the user should know of them; likewise.
        data_error: Why it cannot, if so.
        sees_storage: Whether it sees the storage of the driver; not there if it cannot look.
        storage_error: What storage does not do, if so.
        codes: Of all code of the user's the digest, or why it is not there.
        files: Of the files of networks from outside the same.
    """

    host: str
    versions: dict[str, str | None]
    python: str
    clock: float
    token: bool
    fingerprint: NotRequired[str]
    num_classes: NotRequired[int]
    image_shape: NotRequired[tuple[int, int, int]]
    training_images: NotRequired[int]
    held_out_images: NotRequired[int]
    counts: NotRequired[str]
    remarks: NotRequired[list[str]]
    data_error: NotRequired[str]
    sees_storage: NotRequired[bool]
    storage_error: NotRequired[str]
    codes: dict[str, str]
    files: dict[str, str]


class NodeAnswer(NodeSight):
    """The same, with the node's name.

    Attributes:
        name: ``node``, and its address.
    """

    name: str


def judge_node(
    study: Study, folder: Folder, told: NodeAnswer, began: float, known: KnownData
) -> list[Check]:
    """Check what one node told, after it was asked at ``began`` by the clock of this process."""
    name, where = told["name"], f"N{told['name'][1:]} ({told['host']})"

    def same_versions() -> str:
        if odd := differences(versions(), told["versions"]):
            raise StudyError(f"{where} has {odd}; install the same environment on every node.")
        if shlex.quote(told["python"]) != told["python"]:
            raise StudyError(
                f"{where} has its Python at '{told['python']}', which Ray hands to a shell as it "
                "is, so that no worker starts there; install it at a path without blanks."
            )
        return ", ".join(f"{key} {value}" for key, value in told["versions"].items())

    def data() -> str:
        if "data_error" in told:
            raise StudyError(f"{where}: {told['data_error']}")
        known.check(told["fingerprint"])
        check_attacks(study, told["num_classes"])
        check_batches(study, told["training_images"])
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

    def files() -> str:
        for file, there in told["files"].items():
            here = weights_digest(file)
            if there != here:
                known = re.fullmatch("[0-9a-f]{12}", there)
                said = f"has another file there ({there} there, {here} here)"
                said = said if known else f"cannot read it ({there})"
                raise StudyError(
                    f"`path` of a checkpoint: '{file}'; {where} {said}; give every node the same "
                    "file."
                )
        return ", ".join(f"{file} {digest}" for file, digest in told["files"].items())

    checks = [
        checked(f"{name}: versions", same_versions),
        *([checked(f"{name}: code", code)] if told["codes"] else []),
        *([checked(f"{name}: weights", files)] if told["files"] else []),
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


def compare_nodes(study: Study, answers: Sequence[NodeAnswer]) -> list[Check]:
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
        remarks += too_few_held_out(study, able["held_out_images"])
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
