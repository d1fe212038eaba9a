"""One seed of the fault drill: what breaks, when, and what is noted meanwhile."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.servers import S3, Mlflow, s3_error
from benchmarks.site import FAKETIME, Site, kill, starve
from studies.planning.expand import make_plan
from studies.planning.plan import Plan
from studies.storage.folder import Folder
from studies.storage.opening import open_folder
from studies.study_file.study import Study
from studies.trial.records import read_points, read_result

OAT = Path(sys.executable).with_name("oat")
START_SECONDS = 600.0
"""What a driver may take until its first trial runs."""
NOT_TAKEN = "did not take all results"
"""What a driver says of an MLflow that was away when it ended."""
REFUSED_SECONDS = 600.0
"""What a second driver may take until it is refused, on a slow machine that is busy."""
GIVE_UP_SECONDS = 900.0
"""A study that has not come to its end by then counts as lost."""


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

    def out_of_memory(self) -> bool | None:
        """Use up the machine's memory until Ray ends a worker for it."""
        if self.site.room is None:
            return None
        return bool(self.site.workers()) and self.site.fill_memory()

    def memory_refused(self) -> bool:
        """Let the kernel give a worker no more memory."""
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
        until = time.monotonic() + REFUSED_SECONDS
        while second.poll() is None and time.monotonic() < until:
            self.settle_due()  # it may wait for a storage that is full or refuses
            time.sleep(0.1)
        if second.poll() is None:
            second.kill()
            self.odd.append(f"a second driver was not refused within {REFUSED_SECONDS:g} s")
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
        if re.search("^Traceback", said, re.MULTILINE):
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
    "memory_refused",
    "driver_killed",
    "two_drivers",
    "data_gone",
    "disk_full",
    "storage_refuses",
    "mlflow_dead",
    "mlflow_slow",
)
