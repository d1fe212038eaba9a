"""What benchmarks of speed share: sides measured in turns, ratios within a round, the machine.

A side is a checkout and a process of its own that runs `benchmarks.worker` with the packages of
that checkout; today's code, earlier code and the plain way are so measured in one run, and a fast
minute of the machine is a fast minute for all.
"""

import argparse
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
WORKER = Path(__file__).with_name("worker.py")
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
"""Flags of a processor that its speed in float32 and bfloat16 depends on."""

Report = dict[str, Any]


class SideError(Exception):
    """A side could not do what it was asked."""


class Side:
    """One side of a comparison: a process that is started once and asked again and again.

    After an error its process is ended, and the next case starts another: an error on a GPU leaves
    a process of no use.

    Args:
        name: In plain words, for tables.
        folder: Checkout whose packages it uses.

    Attributes:
        parts: What the open case can run.
        facts: What the side tells of it besides times.
    """

    def __init__(self, name: str, folder: Path = ROOT) -> None:
        self.name, self.folder = name, folder
        self.facts: Report = {}
        self.parts: list[str] = []
        self._process: subprocess.Popen[str] | None = None

    def open(self, case: Mapping[str, Any]) -> None:
        """Build and warm up a case.

        Raises:
            SideError: The side cannot.
        """
        if self._process is None:
            self._process = subprocess.Popen(
                # -P: no folder of this checkout comes before the side's own packages
                [sys.executable, "-P", str(WORKER)],
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(self.folder)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            self._reply()
        opened = self.ask({"open": dict(case)})
        self.facts = {"first_pass_seconds": rounded(opened["first_pass_seconds"])}
        self.facts |= opened["facts"]
        self.parts = list(opened["parts"])

    def run(self, part: str, count: int = 1) -> list[float]:
        """Return seconds for each step or call of a part, run so many times."""
        answer = self.ask({"run": count, "part": part})
        self.facts |= answer["facts"]
        return list(answer["seconds"])

    def ask(self, request: Report) -> Report:
        """Send a request and return the reply.

        Raises:
            SideError: The side could not do it, or its process is gone.
        """
        if self._process is None:
            raise SideError(f"{self.name}: its process has ended")
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # what became of the process is said below
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        return self._reply()

    def _reply(self) -> Report:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        reply = json.loads(line) if line else {"error": f"ended with {self._process.wait()}"}
        if "error" in reply:
            self.end()
            raise SideError(f"{self.name}: {reply['error']}")
        return dict(reply)

    def end(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):  # of a process that is gone already
            process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


@contextmanager
def ending(sides: Sequence[Side]) -> Iterator[None]:
    """End the processes of all sides at the end."""
    try:
        yield
    finally:
        for side in sides:
            side.end()


# --- measuring


def interleave(
    calls: Mapping[str, Callable[[], Sequence[float]]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Measure several things in turns; in every other round in the opposite order.

    Args:
        calls: By name, what measures once and returns seconds; the median of them counts.
        rounds: How often each is measured.

    Returns:
        Seconds of each round by name, of those that went well in all; and what the others said.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    failed: dict[str, str] = {}
    for turn in range(rounds):
        for name in list(times) if turn % 2 == 0 else list(times)[::-1]:
            try:
                times[name].append(statistics.median(calls[name]()))
            except SideError as error:
                failed[name] = str(error)
                del times[name]
    return times, failed


def summary(seconds: Sequence[float]) -> Report:
    """Return all times in milliseconds, their median, the fastest, and the interquartile range."""
    low, _, high = (
        statistics.quantiles(seconds, method="inclusive") if len(seconds) > 1 else [0] * 3
    )
    return {
        "ms": [rounded(1e3 * s) for s in seconds],
        "median_ms": rounded(1e3 * statistics.median(seconds)),
        "min_ms": rounded(1e3 * min(seconds)),
        "spread_ms": rounded(1e3 * (high - low)),
    }


def speedup(slower: Sequence[float], faster: Sequence[float]) -> Report:
    """Return how many times as fast one side is: the median over rounds, the least, the most."""
    ratios = [one / other for one, other in zip(slower, faster, strict=True)]
    return {
        "median": rounded(statistics.median(ratios)),
        "min": rounded(min(ratios)),
        "max": rounded(max(ratios)),
    }


def speedups(times: Mapping[str, Sequence[float]], over: Sequence[str]) -> Report:
    """Return how many times as fast each is as those named, so far as they were measured."""
    return {
        f"{name} over {base}": speedup(times[base], times[name])
        for base in over
        for name in times
        if base in times and name not in over[: over.index(base) + 1]
    }


def rounded(value: float) -> float:
    """Round to four digits that count."""
    return float(f"{value:.4g}")


# --- the machine


def machine(threads: int) -> Report:
    """Describe the machine and the packages, without its name.

    Args:
        threads: Threads that a side uses.
    """
    found: Report = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "flags": [flag for flag in CPU_FLAGS if flag in _cpu_info("flags").split()],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gpu": None,
    }
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found["gpu"] = {
            "name": properties.name,
            "memory_gb": round(properties.total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return found


def _cpu_info(key: str) -> str:
    """Return what Linux says of the first processor."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next(
        (v.strip() for k, _, v in (s.partition(":") for s in lines) if k.strip() == key), ""
    )


def _processor() -> str:
    """Return the processor's name, or at least its kind: ``platform.processor`` may be empty."""
    return _cpu_info("model name") or platform.processor() or platform.machine()


def checkout(folder: Path) -> Report:
    """Say which code a folder holds.

    Returns:
        ``revision``, the commit, with a ``+`` if files differ from it; None without git. And
        ``source``, 12 hex digits of SHA-256 over the Python files of ``oat`` and ``baselines``,
        which tells two codes apart without git, too.
    """
    digest = hashlib.sha256()
    for package in ("oat", "baselines"):
        for path in sorted((folder / package).rglob("*.py")):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return {"revision": _revision(folder), "source": digest.hexdigest()[:12]}


def _revision(folder: Path) -> str | None:
    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        # a folder without git of its own may lie in another checkout, which says nothing of it
        if Path(git("rev-parse", "--show-toplevel")).resolve() != folder.resolve():
            return None
        return git("rev-parse", "--short=7", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


# --- the command line


def parser(doc: str | None, rounds: int) -> argparse.ArgumentParser:
    """Return a parser with what all benchmarks of speed are asked."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--against", type=Path, help="folder of an earlier checkout to measure too")
    made.add_argument("--rounds", type=int, default=rounds, help="how often each side is measured")
    made.add_argument("--threads", type=int, default=torch.get_num_threads())
    made.add_argument("--json", type=Path, help="file to write the numbers to")
    made.add_argument("--small", action="store_true", help="sizes that say nothing, in seconds")
    return made


def start(arguments: argparse.Namespace, doc: str | None) -> Report:
    """Return the head of a report: the question, the machine, which code each side is."""
    if arguments.small:  # several threads of a small network wait for each other on a busy machine
        arguments.threads = 1
    torch.set_num_threads(arguments.threads)
    code = {"today": checkout(ROOT)}
    if arguments.against is not None:
        arguments.against = arguments.against.resolve()
        code["earlier"] = checkout(arguments.against)
    question = (doc or "").partition("\n")[0]
    return {"question": question, "machine": machine(arguments.threads), "code": code}


def write(report: Report, path: Path | None) -> None:
    """Write a report; after each case, so that a run that is cut off leaves what it has."""
    if path is not None:
        path.write_text(json.dumps(report, indent=1) + "\n")


def open_all(
    sides: Sequence[Side], cases: Mapping[str, Mapping[str, Any]]
) -> tuple[list[Side], Report]:
    """Open a case on each side; return those that could, and what the others said."""
    able, failed = [], {}
    for side in sides:
        try:
            side.open(cases[side.name])
            able.append(side)
        except SideError as error:
            failed[side.name] = str(error)
    return able, failed
