"""What a trial records of its machine: versions, git revision, device, data."""

import json
import os
import platform
import socket
import subprocess
import time
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path

import torch

from oat.data import Dataset
from studies.storage.folder import Folder
from studies.trial.stored import Provenance, Trained


def device_name(device: torch.device) -> str:
    """Return the kind of a device: the GPU's name, or the processor's with its cores."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()


def write_provenance(
    folder: Folder,
    dataset: Dataset,
    device: torch.device,
    started: float,
    trained: Trained | None = None,
) -> None:
    """Record what the weights come from beyond the config; before they are there, what is known."""
    record: Provenance = {
        "versions": versions(),
        "git_revision": git_revision(),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "data_fingerprint": dataset.fingerprint,
        "started": started,
    }
    if trained is not None:
        record["trained"] = time.time()
        if "execution" in trained:
            record["execution"] = trained["execution"]
        if "sources" in trained:
            record["sources"] = trained["sources"]
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
