"""What do a study of 10,000 trials and 60,000 points, and a cluster of 8 nodes, cost the driver?

``python -m benchmarks.scale`` prints one JSON object. In a folder that is empty, and in one in
which every trial is finished: seconds and memory of planning; the latter also with storage that
answers each request after 20 ms, as an object store may; then of reading all points, and of
comparing under each attack. On a cluster of logical nodes on this machine: 200 of the trials.

The finished folder is made up (`benchmarks.made_up`): drawn numbers in the files that a trial
leaves. What the cluster runs is real, from Tune to the points: every trial trains a ResNet-8 of
four channels on 64 digits for one epoch, and judges it at all its points on a few images.
"""

import argparse
import json
import os
import platform
import random
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.made_up import Size, make_up
from studies.comparison.comparing import compare_all
from studies.planning.expand import make_plan
from studies.planning.plan import Plan
from studies.results.reading import study_points
from studies.storage.folder import Folder
from studies.storage.local import LocalFolder

Found = TypeVar("Found")
ANSWER_SECONDS = 0.02
JUDGED_IMAGES = 20
"""Test images that the trials on the cluster are judged on."""


class FarFolder(LocalFolder):
    """A local folder that answers as late as one behind a network."""

    def sub(self, name: str) -> "FarFolder":
        """See `Folder.sub`."""
        return FarFolder(self.path / name)

    def read(self, name: str) -> bytes:
        """See `Folder.read`."""
        time.sleep(ANSWER_SECONDS)
        return super().read(name)

    def size(self, name: str) -> int | None:
        """See `Folder.size`."""
        time.sleep(ANSWER_SECONDS)
        return super().size(name)

    def names(self) -> list[str]:
        """See `Folder.names`."""
        time.sleep(ANSWER_SECONDS)
        return super().names()


def resident_mb(what: str) -> float:
    """Return the resident memory of this process: ``VmRSS`` now, ``VmHWM`` at its highest."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) / 1024
    raise KeyError(what)


def measured(
    call: Callable[[], Found], rounds: int = 1
) -> tuple[Found, dict[str, float | list[float]]]:
    """Call something; return what it returned last, its time and its memory.

    ``seconds`` are the median on the clock, ``cpu_seconds`` that of the computing time of all
    threads, which other work on the machine leaves alone; ``peak_mb`` is the highest resident
    memory meanwhile, of which ``before_mb`` was there before.
    """
    before = resident_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest so far is that of now
    clock, cpu = [], []
    for _ in range(rounds):
        started, computing = time.perf_counter(), time.process_time()
        found = call()
        clock.append(time.perf_counter() - started)
        cpu.append(time.process_time() - computing)
    return found, {
        "seconds": round(statistics.median(clock), 2),
        "cpu_seconds": round(statistics.median(cpu), 2),
        "before_mb": round(before),
        "peak_mb": round(resident_mb("VmHWM")),
    }


def paper_work(size: Size, storage: Path, rounds: int) -> dict[str, Any]:
    """Measure all that needs no training; ``storage`` has the finished study below ``full``."""
    study, full = size.study(), LocalFolder(storage / "full")
    found: dict[str, Any] = {}
    _, found["plan_empty"] = measured(
        lambda: make_plan(study, LocalFolder(storage / "none")), rounds
    )
    plan, found["plan_finished"] = measured(lambda: make_plan(study, full), rounds)
    points, found["points"] = measured(lambda: study_points(plan, full), rounds)
    found |= {"trials": len(plan.trials), "states": _states(plan), "rows": len(points)}
    _, found["plan_far"] = measured(lambda: make_plan(study, FarFolder(storage / "full")))
    found["plan_far"]["answer_seconds"] = ANSWER_SECONDS
    (first, others), found["compare"] = measured(lambda: compare_all(points))
    found["compare"] |= {"attacks": 1 + len(others), "pairs": len(first.table)}
    return found


def _states(plan: Plan) -> dict[str, int]:
    return dict(Counter(trial.state for trial in plan.trials))


def on_cluster(size: Size, storage: Path, trials: int, nodes: int) -> dict[str, Any]:
    """Run some trials of the study on a cluster of logical nodes, each with one CPU."""
    # before Ray reads it: a token of our own, and none left in the home folder
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))
    import ray
    from ray.cluster_utils import Cluster
    from rich.console import Console

    from studies.cluster.connection import connect
    from studies.cluster.launching import launch
    from studies.cluster.progress import Progress

    size = replace(size, images=JUDGED_IMAGES)
    folder = LocalFolder(storage / "cluster")
    plan = make_plan(size.study(), folder)
    chosen = sorted(random.Random(0).sample(range(len(plan.trials)), trials))
    some = replace(plan, trials=tuple(plan.trials[i] for i in chosen))
    node = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    try:
        for _ in range(nodes - 1):
            cluster.add_node(**node)
        connect(cluster.address)
        cluster.wait_for_nodes()
        at_a_time = int(ray.cluster_resources()["CPU"])
        with (
            open(os.devnull, "w") as nowhere,
            Progress(some, Console(file=nowhere), lambda _: None) as progress,
        ):
            started = time.time()
            _, took = measured(lambda: launch(some, folder, [progress], reuse_workers=True))
        after = resident_mb("VmRSS")
    finally:
        ray.shutdown()
        cluster.shutdown()
    made = [folder.sub(f"trials/{trial.run_key}") for trial in some.trials]
    ends = sorted((place.path / "result.json").stat().st_mtime for place in made)
    pids = Counter(json.loads(place.read("provenance.json"))["pid"] for place in made)
    seconds = [_training_seconds(place) for place in made]
    ended = make_plan(size.study(), folder)
    return {
        **took,
        "after_mb": round(after),
        "nodes": nodes,
        "slots": at_a_time,
        "trials": len(some.trials),
        "planned": len(plan.trials),
        "states": _states(replace(ended, trials=tuple(ended.trials[i] for i in chosen))),
        "points": sum(len(trial.job["points"]) for trial in some.trials),
        "seconds_per_trial": round(float(str(took["seconds"])) / len(some.trials), 3),
        "seconds_to_the_first_end": round(ends[0] - started),
        "seconds_per_trial_after_it": round((ends[-1] - ends[0]) / max(1, len(ends) - 1), 3),
        "median_training_seconds": round(statistics.median(seconds), 3),
        "worker_processes": len(pids),
        "most_trials_of_a_process": max(pids.values()),
    }


def _training_seconds(place: Folder) -> float:
    return float(json.loads(place.read("result.json"))["trained"]["device_seconds"])


def in_a_process(part: str, arguments: argparse.Namespace, storage: Path) -> dict[str, Any]:
    """Measure one part in a process of its own, so that its memory is its own."""
    options = ("seeds", "variants", "values", "images", "trials", "nodes", "rounds")
    told = [f"--{name}={getattr(arguments, name)}" for name in options]
    command = [sys.executable, "-m", "benchmarks.scale", f"--part={part}", f"--storage={storage}"]
    said = subprocess.run([*command, *told], stdout=subprocess.PIPE, text=True, check=True).stdout
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


def scale(arguments: argparse.Namespace, storage: Path) -> dict[str, Any]:
    """Measure all parts; ``storage`` is filled with the made-up study unless it has it already."""
    size = _size(arguments)
    if not (storage / "full").exists():
        make_up(size.study(), LocalFolder(storage / "full"))
    found: dict[str, Any] = {"size": vars(size), **in_a_process("paper", arguments, storage)}
    if arguments.trials:
        found["cluster"] = in_a_process("cluster", arguments, storage)
    return found


def _size(arguments: argparse.Namespace) -> Size:
    return Size(arguments.seeds, arguments.variants, arguments.values, arguments.images)


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    size = Size()
    parser.add_argument("--seeds", type=int, default=size.seeds)
    parser.add_argument("--variants", type=int, default=size.variants, help="of OAT, at 11 λ each")
    parser.add_argument("--values", type=int, default=size.values, help="of λ, and of β")
    parser.add_argument("--images", type=int, default=size.images)
    parser.add_argument("--trials", type=int, default=200, help="run on the cluster; 0 starts none")
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3, help="of which medians are taken")
    parser.add_argument("--storage", type=Path, help="a folder to keep, of the same size")
    parser.add_argument("--part", choices=["paper", "cluster"], help=argparse.SUPPRESS)
    return parser.parse_args(words)


def main() -> None:
    """Print one JSON object."""
    arguments = parse()
    if arguments.part:
        parts: Mapping[str, Callable[[], dict[str, Any]]] = {
            "paper": lambda: paper_work(_size(arguments), arguments.storage, arguments.rounds),
            "cluster": lambda: on_cluster(
                _size(arguments), arguments.storage, arguments.trials, arguments.nodes
            ),
        }
        print(json.dumps(parts[arguments.part]()))
        return
    with tempfile.TemporaryDirectory() as scratch:
        found = scale(arguments, arguments.storage or Path(scratch))
    found["machine"] = f"{platform.machine()}, {os.cpu_count()} cores"
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
