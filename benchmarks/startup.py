"""How long do commands take that train nothing? The time of a whole process, in turns.

    python -m benchmarks.startup --json startup.json

Each command runs in a fresh process with compiled bytecode, in an empty folder but for ``runs``,
which reads the study of ``--storage``. CPU seconds say more than the clock on a machine that is
busy with something else.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks import timing

OAT = Path(sys.executable).with_name("oat")
COMMANDS: dict[str, tuple[str, ...]] = {
    "--help": ("--help",),
    "validate": ("validate", "quickstart"),
    "plan": ("plan", "quickstart"),
    "status": ("status", "quickstart"),
}
GOALS = {"--help": 0.4, "validate": 1.0, "plan": 2.0, "status": 2.0, "runs": 3.0}
"""Seconds on two quiet cores."""


def once(words: Sequence[str], cpu: list[float]) -> list[float]:
    """Run a command; return its seconds, and note those of the CPU.

    Raises:
        SideError: It failed.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    done = subprocess.run([OAT, *words], capture_output=True, text=True, env=os.environ)
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise timing.SideError(f"oat {' '.join(words)}: {done.stderr.strip()}")
    cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return [seconds]


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table and write the JSON; return 1 if a command failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--storage", type=Path, help="storage with a finished quickstart, for runs")
    asked = parser.parse_args(argv)
    commands = dict(COMMANDS)
    if asked.storage is not None:
        commands["runs"] = ("runs", "quickstart", "--storage", str(asked.storage))
    cpu: dict[str, list[float]] = {name: [] for name in commands}
    calls = {name: partial(once, words, cpu[name]) for name, words in commands.items()}
    for call in calls.values():  # bytecode and the disk's cache
        call()
    for times in cpu.values():
        times.clear()
    measured, failed = timing.interleave(calls, asked.rounds)
    found = {
        name: {**timing.summary(times), "cpu": timing.summary(cpu[name]), "goal_s": GOALS[name]}
        for name, times in measured.items()
    }
    print(f"{'oat':10} {'seconds':>8} {'of CPU':>8} {'goal':>6}")
    for name, row in found.items():
        clock, work = row["median_ms"] / 1e3, row["cpu"]["median_ms"] / 1e3
        print(f"{name:10} {clock:8.2f} {work:8.2f} {row['goal_s']:6.1f}")
    print("\n".join(failed.values()), end="")
    report = {"question": (__doc__ or "").partition("\n")[0], "machine": timing.machine(1)}
    timing.write({**report, "commands": found, "failed": failed}, asked.json)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
