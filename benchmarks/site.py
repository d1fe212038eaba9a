"""A cluster of several nodes on this machine, to be broken: nodes, workers, drivers.

Each node is a raylet of its own with made-up GPUs; what runs on it are real worker processes.
"""

import os
import random
import resource
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CPUS, GPUS = 2, 1
"""What each node has: the CPUs are shared, and the GPUs made up."""
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
"""Debian's libfaketime, by which a node's clock is set off."""
ROOM = 8 * 2**30
"""Bytes that a cluster may use, beyond what the machine used before, until Ray ends workers."""
BLOCK = 2**28
"""Bytes by which memory is used up, every tenth of a second; Ray looks every quarter."""


@dataclass
class Site:
    """A running cluster.

    Attributes:
        cluster: Ray's own utility, with a head that holds no trial.
        address: Of the cluster.
        folder: Scratch of this site.
        token: File that holds the cluster's token.
        room: Share of the machine's memory from which Ray ends workers; None if it has too little.
    """

    cluster: Any
    address: str
    folder: Path
    token: Path
    room: float | None
    nodes: list[Any] = field(default_factory=list)

    def add_node(self, hours_off: int = 0) -> None:
        """Start a node, whose clock may be off."""
        env = {} if self.room is None else {"RAY_memory_usage_threshold": str(self.room)}
        if hours_off:
            env |= {
                "LD_PRELOAD": str(FAKETIME),
                "FAKETIME": f"{hours_off:+d}h",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }
        self.nodes.append(self.cluster.add_node(num_cpus=CPUS, num_gpus=GPUS, env_vars=env))

    def remove_node(self, node: Any) -> None:
        """End a node and all that runs on it, at once."""
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)

    def drain_node(self, node: Any, seconds: int) -> None:
        """Announce that a node will be pre-empted in so many seconds."""
        command = [Path(sys.executable).with_name("ray"), "drain-node", "--address", self.address]
        command += ["--node-id", node.node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
        command += ["--reason-message", "drill", "--deadline-remaining-seconds", str(seconds)]
        subprocess.run(command, check=True, capture_output=True)

    def workers(self) -> list[int]:
        """Return the processes in which trials of this cluster run."""
        return [pid for workers in self._at_work() for pid in workers]

    def _at_work(self) -> list[list[int]]:
        """Return the processes of each node, by one look at those of the machine."""
        parents = _parents()
        return [
            [
                pid
                for info in node.all_processes.get("raylet", ())
                for pid, parent in parents.items()
                if parent == info.process.pid and _title(pid).startswith("ray::ImplicitFunc")
            ]
            for node in self.nodes
        ]

    def fill_memory(self) -> bool:
        """Use up memory until a worker is gone; return whether one was."""
        before = set(self.workers())
        code = f"import time\nheld = []\nfor _ in range({ROOM // BLOCK}):\n"
        code += f"    held.append(b'x' * {BLOCK})\n    time.sleep(0.1)\ntime.sleep(1)"
        filler = subprocess.Popen([sys.executable, "-c", code])
        while filler.poll() is None:
            if before - set(self.workers()):
                filler.kill()
                filler.wait()
                return True
            time.sleep(0.05)
        return False

    def busy(self) -> list[Any]:
        """Return the nodes on which a trial runs."""
        return [node for node, workers in zip(self.nodes, self._at_work(), strict=True) if workers]


@contextmanager
def site(nodes: int) -> Iterator[Site]:
    """Start a cluster whose head holds the control store alone, behind a token of its own."""
    with tempfile.TemporaryDirectory(prefix="oat-site-") as name:
        token = Path(name) / "token"
        token.write_text(secrets.token_hex(16))
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        os.environ["OAT_STALL_SECONDS"] = "40"  # a drill cannot wait for half an hour
        from ray._common.utils import get_system_memory
        from ray._private.utils import get_used_memory
        from ray.cluster_utils import Cluster

        all_memory, used = get_system_memory(), get_used_memory()
        room = (used + ROOM) / all_memory if used + 2 * ROOM < all_memory else None

        # nothing here asks the dashboard, which is ten processes
        head = {"num_cpus": 0, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        found = Site(cluster, cluster.address, Path(name), token, room)
        try:
            for _ in range(nodes):
                found.add_node()
            yield found
        finally:
            cluster.shutdown()


def kill(pid: int) -> bool:
    """Kill a process; return whether there was one."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def starve(pid: int, draw: random.Random) -> bool:
    """Leave a process hardly more memory than it has; return whether there was one."""
    with suppress(OSError, ProcessLookupError):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + draw.randrange(2**20)
        resource.prlimit(pid, resource.RLIMIT_AS, (limit, limit))
        return True
    return False


def _parents() -> dict[int, int]:
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            _, parent = path.read_text().rpartition(")")[2].split()[:2]
            found[int(path.parent.name)] = int(parent)
    return found


def _title(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return ""
