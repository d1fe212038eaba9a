"""Does a study survive everything? A drill that breaks a real cluster while a study runs on it.

``python -m benchmarks.faults --seeds 20`` starts nodes, an MLflow server (on PostgreSQL where that
is installed) and, for every second seed, an S3 server, all on this machine. It runs a small real
study with ``oat run``, injects every fault at random moments drawn from the seed, gives the same
command again whenever the driver has ended, and prints one JSON object: how often each fault was
injected, and what was planned, finished, lost or duplicated, in storage and in MLflow.
"""

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from benchmarks.servers import (
    S3,
    Mlflow,
    mlflow_server,
    postgres_programs,
    postgres_server,
    s3_error,
    s3_server,
)
from benchmarks.site import FAKETIME, Site, kill, site, starve
from studies.config import Study, load_study
from studies.planning import Plan, make_plan
from studies.records import digest, read_points, read_result, weights_file
from studies.results import study_points
from studies.storage import Folder, LocalFolder, open_folder
from studies.trial import run_trial

OAT = Path(sys.executable).with_name("oat")
DISK_BYTES = 64 * 2**20
"""Size of the disk that is filled."""
START_SECONDS = 60.0
"""What a driver may take until its first trial runs."""
NOT_TAKEN = "did not take all results"
"""What a driver says of an MLflow that was away when it ended."""
GIVE_UP_SECONDS = 900.0
"""A study that has not come to its end by then counts as lost."""


def pictures(folder: Path) -> None:
    """Write scikit-learn's digits as an image folder, so that the data are files."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for i, (image, label) in enumerate(zip(digits.images[:200], digits.target[:200], strict=True)):
        place = folder / ("test" if i % 4 == 0 else "train") / str(label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15).astype("uint8")).convert("RGB").save(place / f"{i}.png")


def drill_study(name: str, data: Path, epochs: int) -> Study:
    """Return a study of seven trials: one diverges, one asks for a whole GPU."""
    return load_study(
        {
            "name": name,
            "data": {"name": "imagefolder", "root": str(data), "image_size": 8},
            "model": {"name": "resnet8", "width": 4},
            "train": {"epochs": epochs, "batch_size": 16, "val_images": 16, "val_every": epochs},
            "attack": {"eps": 0.1, "steps": 2},
            "methods": [
                {
                    "name": "oats",
                    "lambda_choices": [0, 1],
                    "width_mults": [0.5, 1],
                    "resources": {"cpu": 1, "gpu": 1, "device": "cpu"},
                },
                {"name": "oat", "lambda_choices": [0, 0.5, 1]},
                {"name": "pgd_at", "lam": [0, 0.5, 1]},
                {"name": "trades", "beta": [1, 1e38]},
            ],
            "evaluate": {"lams": [0, 1], "attacks": [{"steps": 2}], "masking_images": 10},
            "resources": {"cpu": 1, "gpu": 0.25, "device": "cpu"},
        }
    )


@dataclass
class Drill:
    """One seed: a study that runs, what breaks it, and what became of it.

    Attributes:
        site: The cluster.
        mlflow: Its tracking server.
        s3: The S3 server, if storage lies there.
        disk: The folder that storage lies in, if it does on a disk.
        study: The study.
        storage: Where its results go.
        draw: What decides where and when.
        injected: How often each fault was.
        odd: What should not have happened, in words.
        finished: What results were seen while the study ran: training and points, by run key.
        unmade: Run keys of results that were seen, and later were not there or others.
    """

    site: Site
    mlflow: Mlflow
    s3: S3 | None
    disk: Path | None
    study: Study
    storage: str
    data: Path
    draw: random.Random
    injected: Counter[str] = field(default_factory=Counter)
    odd: list[str] = field(default_factory=list)
    driver: subprocess.Popen[bytes] | None = None
    driver_log: Path = Path()
    starts: int = 0
    finished: dict[str, tuple[Any, frozenset[str]]] = field(default_factory=dict)
    unmade: set[str] = field(default_factory=set)
    settle: list[tuple[float, Callable[[], None]]] = field(default_factory=list)

    def command(self) -> list[str]:
        """Return what the user types, each time the same."""
        file = self.site.folder / f"{self.study.name}.yaml"
        file.write_text(yaml.safe_dump(self.study.dump()))
        return [str(OAT), "run", str(file), "--storage", self.storage,
                "--address", self.site.address, "--tracking-uri", self.mlflow.url]  # fmt: skip

    def log(self, start: int) -> Path:
        """Return the file that holds what a driver says."""
        return self.site.folder / f"{self.study.name}-{start:02}.log"

    def start(self, before: list[str] | None = None) -> subprocess.Popen[bytes]:
        """Start a driver, below another command if one is given."""
        self.starts += 1
        with self.log(self.starts).open("wb") as log:
            return subprocess.Popen([*(before or []), *self.command()], stdout=log, stderr=log)

    def start_driver(self) -> float:
        """Start the driver, mostly wait until trials run, and return when the next fault is due."""
        self.driver, self.driver_log = self.start(), self.log(self.starts)
        if self.draw.random() < 0.8:  # else a fault may find it starting
            until = time.monotonic() + START_SECONDS
            while self.running() and time.monotonic() < until and not self.site.workers():
                self.settle_due()
                time.sleep(0.1)
        return time.monotonic() + self.draw.uniform(0, 4)

    def running(self) -> bool:
        """Tell whether the driver runs."""
        return self.driver is not None and self.driver.poll() is None

    # --- faults: each returns whether it was injected; None where it never can be

    def node_lost(self) -> bool:
        """End a node without a word; another joins soon after."""
        if len(self.site.nodes) < 2:
            return False
        self.site.remove_node(self.a_node())
        self.later(self.site.add_node)
        return True

    def node_preempted(self) -> bool:
        """Announce the end of a node, and end it."""
        if len(self.site.nodes) < 2:
            return False
        node = self.a_node()
        self.site.drain_node(node, 3)

        def end() -> None:
            if node in self.site.nodes:
                self.site.remove_node(node)
            self.site.add_node()

        self.later(end)
        return True

    def clock_off(self) -> bool | None:
        """Let a node join whose clock is an hour off."""
        if not FAKETIME.exists():
            return None
        self.site.add_node(hours_off=self.draw.choice([-1, 1]))
        if len(self.site.nodes) > 3:
            self.site.remove_node(self.site.nodes[0])
        return True

    def worker_killed(self) -> bool:
        """Kill a worker."""
        workers = self.site.workers()
        return bool(workers) and kill(self.draw.choice(workers))

    def out_of_memory(self) -> bool:
        """Let a worker find no more memory."""
        workers = self.site.workers()
        return bool(workers) and starve(self.draw.choice(workers), self.draw)

    def driver_killed(self) -> bool:
        """Kill the driver."""
        return self.driver is not None and self.running() and kill(self.driver.pid)

    def two_drivers(self) -> bool:
        """Start another driver by mistake; it must be refused while the first runs."""
        # as if from another machine, whose processes cannot be looked up: by its name
        elsewhere = ["unshare", "--uts", "sh", "-c", 'hostname elsewhere; exec "$@"', "sh"]
        second = self.start(elsewhere if os.geteuid() == 0 and self.draw.random() < 0.5 else None)
        try:
            second.wait(150)
        except subprocess.TimeoutExpired:
            second.kill()
            self.odd.append("a second driver was not refused within 150 s")
            return True
        if "has taken over" in self.driver_log.read_text():
            self.odd.append("the first of two drivers was stopped, and not the second")
        if not self.running():
            return False  # the first ended meanwhile, so this one was right to run
        if "is being run already" in self.log(self.starts).read_text():
            return True
        if second.returncode != 2:
            self.odd.append(f"a second driver ended with {second.returncode}, without a refusal")
        return False  # refused for another reason, such as MLflow being away

    def data_gone(self) -> bool:
        """Take the data away for a while: an error that no retry cures."""
        away = self.data.with_name("away")
        if away.exists():
            return False
        self.data.rename(away)
        self.later(lambda: away.rename(self.data) and None)
        return True

    def disk_full(self) -> bool | None:
        """Fill the disk that storage lies on, for a while."""
        if self.disk is None:
            return None
        ballast = self.disk / "ballast"
        with ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(2**12))  # until it is full
        self.later(ballast.unlink, 8, 20)
        return True

    def storage_refuses(self) -> bool | None:
        """Let the S3 server refuse all requests for a while."""
        s3 = self.s3
        if s3 is None:
            return None
        s3.fault = s3_error(503, "SlowDown")
        self.later(lambda: setattr(s3, "fault", None), 15, 30)
        return True

    def mlflow_dead(self) -> bool:
        """Kill the tracking server; it comes back."""
        if self.mlflow.process is None:
            return False
        self.mlflow.kill()
        self.later(self.mlflow.start)
        return True

    def mlflow_slow(self) -> bool:
        """Stop the tracking server without closing its connections, for a while."""
        process = self.mlflow.process
        if process is None:
            return False
        os.killpg(process.pid, signal.SIGSTOP)

        def go_on() -> None:
            if self.mlflow.process is process:
                os.killpg(process.pid, signal.SIGCONT)

        self.later(go_on)
        return True

    def later(self, undo: Callable[[], None], soonest: float = 2, latest: float = 8) -> None:
        """Undo a fault after so many seconds."""
        self.settle.append((time.monotonic() + self.draw.uniform(soonest, latest), undo))

    def a_node(self) -> Any:
        """Choose a node: one that is at work, if there is one."""
        return self.draw.choice(self.site.busy() or self.site.nodes)

    def look(self) -> None:
        """Take down which results there are, and which are no longer what they were."""
        for trial in self.plan().trials:
            folder = self.folder().sub(f"trials/{trial.run_key}")
            result = read_result(folder)
            if result is None:
                found: tuple[Any, frozenset[str]] = None, frozenset()
            elif result["status"] == "done":
                training = result["trained"]["training_id"]
                rows, _ = read_points(folder, training)
                found = training, frozenset(row["point_key"] for row in rows)
            else:
                found = result["epoch"], frozenset()
            known = self.finished.setdefault(trial.run_key, found)
            if known[0] is None:
                self.finished[trial.run_key] = found
            elif found[0] != known[0] or not known[1] <= found[1]:
                self.unmade.add(trial.run_key)

    def settle_due(self, everything: bool = False) -> None:
        """Undo what is due."""
        for item in list(self.settle):
            if everything or item[0] <= time.monotonic():
                self.settle.remove(item)
                item[1]()

    def run(self) -> None:
        """Run the study to its end, and break it meanwhile."""
        faults: list[Callable[[], bool | None]] = [getattr(self, name) for name in FAULTS]
        self.draw.shuffle(faults)
        began = looked = time.monotonic()
        due = self.start_driver()
        while True:
            time.sleep(0.1)
            self.settle_due()
            if time.monotonic() > looked + 2:
                with suppress(OSError):  # storage may be away
                    self.look()
                looked = time.monotonic()
            if time.monotonic() - began > GIVE_UP_SECONDS:
                self.odd.append("it did not come to its end")
                kill(self.driver.pid)
                self.driver.wait()
                break
            if not self.running():
                if self.ended():
                    break
                if self.draw.random() < 0.5:  # the user mends what the message names, or waits
                    self.settle_due(everything=True)
                due = self.start_driver()
            elif faults and time.monotonic() > due:
                fault = faults.pop()
                done = fault()
                if done:
                    self.injected[fault.__name__] += 1
                elif done is not None:
                    faults.insert(0, fault)  # not now: its turn comes again
                due = time.monotonic() + self.draw.uniform(1, 4) * bool(done)
        self.settle_due(everything=True)
        self.look()
        said = self.said()
        if "Traceback" in said:
            self.odd.append("a driver ended with a traceback")

    def said(self) -> str:
        """Return what all drivers have said."""
        return "".join(
            f"--- start {i}\n{self.log(i).read_text()}" for i in range(1, self.starts + 1)
        )

    def ended(self) -> bool:
        """Tell whether a driver has said that nothing is left, in storage and in MLflow."""
        if self.driver is None or self.driver.returncode not in {0, 1}:
            return False
        # a driver that ends while MLflow is away says so, and the same command brings the rest
        return not self.plan().to_run() and NOT_TAKEN not in self.driver_log.read_text()

    def folder(self) -> Folder:
        """Return the study's folder."""
        return open_folder(self.storage).sub(self.study.name)

    def plan(self) -> Plan:
        """Return the plan as storage has it."""
        return make_plan(self.study, self.folder())


FAULTS = (
    "node_lost",
    "node_preempted",
    "clock_off",
    "worker_killed",
    "out_of_memory",
    "driver_killed",
    "two_drivers",
    "data_gone",
    "disk_full",
    "storage_refuses",
    "mlflow_dead",
    "mlflow_slow",
)


FELT = {
    "node gone": "its node is gone, goes on",
    "worker died": "its worker died, goes on",
    "out of memory": "out of memory, goes on",
    "does not begin": "does not begin; it is ended",
    "data error": "DataError",
    "storage away": "does not take writes",
    "mlflow away": "MLflow does not take results",
    "refused": "is being run already",
    "from a checkpoint": "go on from a checkpoint",
}
"""What drivers say of faults that reached them."""


Outcomes = Mapping[str, Any]
"""What each trial ended with, by run key: see `outcomes`."""


def outcomes(plan: Plan, folder: Folder) -> dict[str, Any]:
    """Return by run key how each trial ended, its weights, and what it has right."""
    found: dict[str, Any] = {}
    table = study_points(plan, folder).set_index("run_key")
    for trial in plan.trials:
        place = folder.sub(f"trials/{trial.run_key}")
        result = read_result(place)
        if result is None or result["status"] != "done":
            found[trial.run_key] = result and (result["status"], result["epoch"])
            continue
        points = table.loc[[trial.run_key]].sort_values("point_key")
        accuracies = points[["point_key", "sa", "ra"]].to_numpy().tolist()
        found[trial.run_key] = ("done", place.read(weights_file("last")), accuracies)
    return found


def undisturbed(study: Study, folder: Path) -> dict[str, Any]:
    """Run the study here, one trial after the other, without a cluster."""
    place = LocalFolder(folder / study.name)
    for trial in make_plan(study, place).to_run():
        run_trial(trial.job, place.sub(f"trials/{trial.run_key}"), lambda _: None)
    return outcomes(make_plan(study, place), place)


def judge(drill: Drill, wanted: Outcomes) -> dict[str, Any]:
    """Count what a seed has left: in storage, and in MLflow."""
    plan, folder = drill.plan(), drill.folder()
    found = outcomes(plan, folder)
    table = study_points(plan, folder)
    finished = sum(found[key] is not None for key in wanted)
    keys = [("study", digest(drill.study.dump()))]
    keys += [("trial", trial.run_key) for trial in plan.trials]
    for trial in plan.trials:
        if trial.state == "done":
            keys += [("point", point["point_key"]) for point in trial.job["points"]]
    runs = _runs(drill)
    here = set(folder.sub("trials").names())
    return {
        "planned": len(wanted),
        "finished": finished,
        "lost": len(wanted) - finished + len(drill.unmade),
        "duplicated": len(here - wanted.keys()) + int(table["point_key"].duplicated().sum()),
        "missing": sum(runs[key] == 0 for key in keys),
        "doubled": sum(runs[key] > 1 for key in keys) + sum(key not in keys for key in runs),
        "weights_equal": found == dict(wanted),
        "mlflow_equal": _mlflow_equals(drill, table),
        "driver_starts": drill.starts,
        "felt": {what: len(re.findall(words, drill.said())) for what, words in FELT.items()},
        "odd": drill.odd,
    }


def _mlflow_equals(drill: Drill, table: pd.DataFrame) -> bool:
    """Tell whether MLflow's points are those of storage."""
    from studies.tracking import Tracker

    columns = ["point_key", "sa", "ra", "training_id", "attack", "images", "seed"]
    stored, logged = (
        frame[columns].sort_values("point_key", ignore_index=True)
        for frame in (table, Tracker(drill.mlflow.url, drill.study.name).points())
    )
    return bool(stored.equals(logged))


def _runs(drill: Drill) -> Counter[tuple[str, str]]:
    """Count the active runs of each key in MLflow."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(drill.mlflow.url)
    experiment = client.get_experiment_by_name(drill.study.name)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    drill.odd += [
        f"run {r.info.run_name} is still open" for r in found if r.info.status == "RUNNING"
    ]
    tags = [run.data.tags for run in found]
    return Counter((t["oat.kind"], t["oat.key"]) for t in tags)


@contextmanager
def small_disk(size: int) -> Iterator[Path | None]:
    """Mount a disk of so many bytes; None where that is not allowed."""
    with tempfile.TemporaryDirectory(prefix="oat-disk-") as name:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", name],
            check=False, capture_output=True,
        )  # fmt: skip
        try:
            yield Path(name) if mounted.returncode == 0 else None
        finally:
            if mounted.returncode == 0:
                subprocess.run(["umount", "-l", name], check=True)


def run_seed(
    seed: int, here: Site, mlflow: Mlflow, s3: S3, data: Path, epochs: int, wanted: Outcomes
) -> tuple[Drill, dict[str, Any]]:
    """Run one drill; storage is a disk for even seeds and S3 for odd ones."""
    study = drill_study(f"drill-{seed}", data, epochs)  # its name decides no number
    with ExitStack() as stack:
        disk = None
        if seed % 2:
            storage = "s3://drill/studies"
        else:
            disk = stack.enter_context(small_disk(DISK_BYTES))
            storage = str(disk or stack.enter_context(tempfile.TemporaryDirectory()))
        drill = Drill(
            here, mlflow, s3 if seed % 2 else None, disk, study, storage, data, random.Random(seed)
        )
        drill.run()
        found = judge(drill, wanted)
    while len(here.nodes) < 3:
        here.add_node()
    return drill, found


def measure(seeds: int, epochs: int, first: int = 0, logs: Path | None = None) -> dict[str, Any]:
    """Run the drill for several seeds and add up what came of them.

    Args:
        seeds: How many.
        epochs: Of each training.
        first: The first seed.
        logs: Folder to keep what the drivers said in.
    """
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="oat-drill-")))
        pictures(scratch / "data")
        wanted = undisturbed(drill_study("undisturbed", scratch / "data", epochs), scratch)
        s3 = stack.enter_context(s3_server())
        os.environ |= s3.environment
        s3.make_bucket("drill")
        store = None
        if postgres_programs() is not None:
            store = stack.enter_context(postgres_server()).make("drill")
        (scratch / "mlflow").mkdir()
        mlflow = stack.enter_context(mlflow_server(scratch / "mlflow", store))
        here = stack.enter_context(site(3))
        faults: Counter[str] = Counter()
        total: Counter[str] = Counter()
        felt: Counter[str] = Counter()
        equal, odd, each = True, [], []
        for seed in range(first, first + seeds):
            began = time.monotonic()
            drill, found = run_seed(seed, here, mlflow, s3, scratch / "data", epochs, wanted)
            faults += drill.injected
            for name in ("planned", "finished", "lost", "duplicated", "missing", "doubled"):
                total[name] += found[name]
            equal &= found["weights_equal"] and found["mlflow_equal"]
            felt += Counter(found["felt"])
            odd += [f"seed {seed}: {said}" for said in found["odd"]]
            each.append({"seed": seed, "seconds": round(time.monotonic() - began), **found,
                         "faults": dict(drill.injected)})  # fmt: skip
            print(json.dumps(each[-1]), file=sys.stderr, flush=True)
            if logs is not None:
                (logs / f"drill-{seed}.log").write_text(drill.said())
        return {
            "seeds": seeds,
            "mlflow_store": "postgresql" if store else "sqlite",
            "faults": {name: faults[name] for name in FAULTS},
            "felt": dict(felt),
            **{name: total[name] for name in ("planned", "finished", "lost", "duplicated")},
            "runs": {name: total[name] for name in ("missing", "doubled")},
            "weights_equal": equal,
            "odd": odd,
            "each": each,
        }


def main() -> None:
    """Print what came of the drill as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1, help="how many drills")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--epochs", type=int, default=8, help="of each training")
    parser.add_argument("--logs", type=Path, help="keep what the drivers said in this folder")
    asked = parser.parse_args()
    found = measure(asked.seeds, asked.epochs, asked.first, asked.logs)
    print(json.dumps(found, indent=1))
    counts = (found["lost"], found["duplicated"], *found["runs"].values(), len(found["odd"]))
    raise SystemExit(any(counts) or not found["weights_equal"])


if __name__ == "__main__":
    main()
