"""What a trial's folder holds, written and read: points, correctness, result, provenance."""

import hashlib
import io
import json
import os
import platform
import socket
import subprocess
import threading
import time
import zipfile
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from oat.data import Dataset
from studies.storage import Folder

SEAL = "check"
"""Key of a record's own digest."""

CHECKS = "checks.jsonl"

Correct = dict[str, np.ndarray[Any, Any]]
"""Which images points have right: boolean (N,) under ``<point_key>.clean`` and ``.robust``."""

_PARSING = threading.Lock()

UNREADABLE = (
    OSError,
    ValueError,
    TypeError,  # a lone array
    KeyError,
    EOFError,
    RuntimeError,  # marked as encrypted, or as of a kind that zipfile does not know
    zipfile.BadZipFile,
)
"""What reading a damaged archive of arrays raises."""


class ResultError(Exception):
    """A stored result does not match what was written."""


def digest(value: Any) -> str:
    """Return 12 hex digits of SHA-256 over the canonical JSON of plain values."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def seal(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with its own digest, by which a changed bit is noticed."""
    return {**record, SEAL: digest(record)}


def unseal(text: bytes) -> dict[str, Any]:
    """Read what `seal` made, from JSON.

    Raises:
        ResultError: It is not what was written.
    """
    try:
        record = json.loads(text)
        claimed = record.pop(SEAL)
        if claimed == digest(record):
            return dict(record)
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    raise ResultError("A record is damaged: its digest does not match.")


def write_lines(folder: Folder, name: str, rows: list[dict[str, Any]]) -> None:
    """Write rows as lines of JSON."""
    folder.write(name, "".join(json.dumps(row) + "\n" for row in rows).encode())


def write_result(folder: Folder, name: str, record: Mapping[str, Any]) -> None:
    """Write a sealed record, such as ``result.json``."""
    folder.write(name, json.dumps(seal(record), indent=1).encode())


def write_points(
    folder: Folder, rows: list[dict[str, Any]], correct: Mapping[str, np.ndarray[Any, Any]]
) -> None:
    """Write correctness before rows: a row stands only on stored correctness."""
    buffer = io.BytesIO()
    packed = {key: np.packbits(value) for key, value in correct.items()}
    np.savez(buffer, **packed)  # type: ignore[arg-type]
    folder.write("correct.npz", buffer.getvalue())
    write_lines(folder, "points.jsonl", [seal(row) for row in rows])


def _arrays(stored: bytes) -> Correct:
    """Read an archive of arrays, one thread at a time.

    NumPy parses headers as Python literals, and CPython 3.11 has one parser state for all threads:
    now and then it raises a SystemError for a sound header (its issue 106905), so ask again.
    """
    with _PARSING:
        try:
            with np.load(io.BytesIO(stored)) as archive:
                return dict(archive)
        except SystemError:
            with np.load(io.BytesIO(stored)) as archive:
                return dict(archive)


def read_points(folder: Folder, training_id: str) -> tuple[list[dict[str, Any]], Correct]:
    """Read the points of one training and the correctness of each image.

    Rows that are damaged or of another training, and rows whose correctness is missing or does
    not agree with them, are left out: they are judged anew.

    Returns:
        Rows, and boolean arrays (N,) under ``<point_key>.clean`` and ``<point_key>.robust``.

    Raises:
        OSError: A file cannot be read; whoever took that for none would write over it.
    """
    try:
        lines = folder.read("points.jsonl").splitlines()
        stored = folder.read("correct.npz")
    except FileNotFoundError:
        return [], {}
    try:
        packed = _arrays(stored)
    except UNREADABLE:
        return [], {}
    sound: list[dict[str, Any]] = []
    correct: Correct = {}
    for line in lines:
        try:
            row = unseal(line)
        except ResultError:
            continue
        keys = [f"{row['point_key']}.{kind}" for kind in ("clean", "robust")]
        if row["training_id"] != training_id or any(key not in packed for key in keys):
            continue
        clean, robust = (
            np.unpackbits(packed[key], count=row["images"]).astype(bool) for key in keys
        )
        if abs(clean.mean() - row["sa"]) < 1e-9 and abs(robust.mean() - row["ra"]) < 1e-9:
            sound.append(row)
            correct |= dict(zip(keys, (clean, robust), strict=True))
    return sound, correct


def write_checks(folder: Folder, checks: list[dict[str, Any]]) -> None:
    """Write the checks for masked gradients, one of each operating point."""
    write_lines(folder, CHECKS, [seal(check) for check in checks])


def read_checks(folder: Folder, training_id: str) -> list[dict[str, Any]]:
    """Read the checks of one training; those damaged or of another are left out."""
    try:
        lines = folder.read(CHECKS).splitlines()
    except FileNotFoundError:
        return []
    checks = []
    for line in lines:
        try:
            check = unseal(line)
        except ResultError:
            continue
        if check["training_id"] == training_id:
            checks.append(check)
    return checks


class JudgingProgress:
    """What a long attack on one operating point has done, so that it goes on after a kill.

    Args:
        folder: The trial's folder.
        point_key: Of the point.
        judgement: Digest of all that decides its numbers; what is kept of another is ignored.
    """

    PREFIX = "judging-"

    def __init__(self, folder: Folder, point_key: str, judgement: str) -> None:
        self._folder, self._judgement = folder, judgement
        self.name = f"{self.PREFIX}{point_key}.json"

    def read(self) -> dict[str, Any]:
        """Return what was written last; empty if there is nothing sound."""
        try:
            record = unseal(self._folder.read(self.name))
        except (FileNotFoundError, ResultError):
            return {}
        return dict(record["state"]) if record["judgement"] == self._judgement else {}

    def write(self, state: dict[str, Any]) -> None:
        """Keep a state."""
        write_result(self._folder, self.name, {"judgement": self._judgement, "state": state})


def read_result(folder: Folder) -> dict[str, Any] | None:
    """Read ``result.json``; None where there is none.

    Raises:
        ResultError: It is damaged, or the model that it stands for is cut off or missing.
    """
    try:
        result = unseal(folder.read("result.json"))
    except FileNotFoundError:
        return None
    except ResultError as error:
        raise ResultError(f"'{folder.sub('result.json').uri}' is damaged.") from error
    if result["status"] == "done":
        for rule, weights in result["trained"]["weights"].items():
            if folder.size(weights_file(rule)) != weights["bytes"]:
                raise ResultError(f"'{folder.sub(weights_file(rule)).uri}' is cut off or missing.")
    return result


def read_trained(folder: Folder) -> dict[str, Any] | None:
    """Read ``trained.json``, of a trial that was stopped between training and its result.

    None where there is none. So its weights are not made a second time, which on a GPU would not
    be the same ones, bit for bit.

    Raises:
        ResultError: It is damaged, or weights that it stands for are missing.
    """
    try:
        trained = unseal(folder.read("trained.json"))
    except FileNotFoundError:
        return None
    for rule in trained["weights"]:
        if folder.size(weights_file(rule)) is None:
            raise ResultError(f"'{folder.sub(weights_file(rule)).uri}' is missing.")
    return trained


def weights_file(rule: str) -> str:
    """Return the name of the file that holds the weights of a checkpoint rule."""
    return "model.safetensors" if rule == "last" else f"model-{rule}.safetensors"


def read_weights(folder: Folder, trained: Mapping[str, Any], rule: str) -> bytes:
    """Read the weights of a checkpoint rule.

    Raises:
        ResultError: They are not those that were written.
    """
    data = folder.read(weights_file(rule))
    if hashlib.sha256(data).hexdigest() != trained["weights"][rule]["sha256"]:
        raise ResultError(f"'{folder.sub(weights_file(rule)).uri}' is not what was written.")
    return data


def read_failure(folder: Folder) -> str | None:
    """Read why the last try of a trial failed, None if it did not."""
    try:
        return str(unseal(folder.read("failure.json"))["error"])
    except FileNotFoundError:
        return None
    except ResultError:
        return "its failure.json is damaged"


def device_name(device: torch.device) -> str:
    """Return the kind of a device: the GPU's name, or the processor's with its cores."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()


def write_provenance(
    folder: Folder,
    dataset: Dataset,
    device: torch.device,
    started: float,
    execution: Mapping[str, Any],
) -> None:
    """Record what the weights came from beyond the config."""
    record = {
        "versions": versions(),
        "git_revision": git_revision(),
        "device": device_name(device),
        "execution": execution,
        "threads": torch.get_num_threads(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "data_fingerprint": dataset.fingerprint,
        "started": started,
        "trained": time.time(),
    }
    folder.write("provenance.json", json.dumps(record, indent=1).encode())


@lru_cache(maxsize=1)
def versions() -> dict[str, str | None]:
    """Return the versions in this process that must be the same on all nodes."""
    packages = ("oat-studies", "torch", "torchvision", "ray")
    return {"python": platform.python_version(), **{name: _version(name) for name in packages}}


def differences(wanted: Mapping[str, str | None], found: Mapping[str, str | None]) -> str:
    """Say in which versions a node differs; empty if in none."""
    odd = [name for name in wanted if found.get(name) != wanted[name]]
    return ", ".join(f"{name} {found.get(name)} instead of {wanted[name]}" for name in odd)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@lru_cache(maxsize=1)
def git_revision() -> str | None:
    """Return the revision of the source, with ``+`` if it was changed; None if unknown."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return said.stdout.strip()


@lru_cache(maxsize=1)
def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} x{os.cpu_count()}" if names else platform.machine()
