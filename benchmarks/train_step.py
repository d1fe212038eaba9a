"""How long does a step of adversarial training take, the plain way, in earlier code, and in ours?

A step is one batch of synthetic images of CIFAR's shape on the device, cropped, mirrored, attacked
by PGD-7 and trained on. Sides are measured in turns, a pass over some batches each; the first pass,
in which code may be compiled and graphs captured, is apart. Each side is set against the floor of
`benchmarks.roofline`, with the rates of this machine measured in the same run.

    python -m benchmarks.train_step --against ../earlier --json step.json
    python -m benchmarks.train_step --network resnet18 --methods oat --profile

An earlier checkout is, for example, ``git worktree add ../earlier ebd788f``. Without a GPU the
default is a ResNet-34 at batch 32, one step a round. Each side keeps its memory on the GPU while
the others run: at large batches, measure fewer sides at a time (``--no-plain``, ``--precision``).
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from statistics import median
from typing import Any

import torch

from benchmarks import timing
from benchmarks.roofline import IMAGE, features_moved, floor, in_units, operations, rates
from benchmarks.timing import Report, Side, rounded
from benchmarks.worker import METHODS
from oat.attacks import Attack
from oat.models import ModelConfig

PLAIN = "plain way"
SHAPE: IMAGE = (3, 32, 32)
KERNELS = 15
"""Rows of a profile."""


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; defaults are those of the device."""
    cuda = torch.cuda.is_available()
    parser = timing.parser(__doc__, rounds=5 if cuda else 3)
    parser.add_argument("--network", default="resnet34,resnet18" if cuda else "resnet34")
    parser.add_argument("--methods", default="oat,oats,pgd_at,trades" if cuda else "oat")
    parser.add_argument("--batch", type=int, default=128 if cuda else 32)
    parser.add_argument("--steps", type=int, default=10 if cuda else 1, help="of a round")
    parser.add_argument("--precision", default="auto,float32,bfloat16" if cuda else "auto,float32")
    parser.add_argument(
        "--earlier",
        default="auto,float32" if cuda else "auto",
        metavar="PRECISION",
        help="of earlier code; at ebd788f auto was the slower one on a GPU",
    )
    parser.add_argument("--no-plain", action="store_true", help="leave the plain way out")
    parser.add_argument("--profile", action="store_true", help="list what takes most of a step")
    found = parser.parse_args(argv)
    if found.small:
        found.network, found.batch, found.steps, found.rounds = "resnet8", 12, 1, 2
    return found


def sides_of(asked: argparse.Namespace) -> list[Side]:
    """Return the sides, the slowest first."""
    sides = [] if asked.no_plain else [Side(PLAIN)]
    if asked.against is not None:
        sides += [Side(earlier(kind), asked.against) for kind in asked.earlier.split(",")]
    return sides + [Side(ours(kind)) for kind in asked.precision.split(",")]


def earlier(precision: str) -> str:
    """Return the name of the side of earlier code at a precision."""
    return f"earlier code, {precision}"


def ours(precision: str) -> str:
    """Return the name of our side at a precision."""
    return f"ours, {precision}"


def cases_of(asked: argparse.Namespace, network: str, method: str) -> dict[str, Report]:
    """Return what each side is asked to do."""
    case = {
        "network": network,
        "width": 4 if asked.small else None,
        "method": method,
        "batch": asked.batch,
        "steps": asked.steps,
        "threads": asked.threads,
    }
    training = {**case, "kind": "training"}
    cases = {PLAIN: {**case, "kind": "plain"}}
    cases |= {earlier(kind): {**training, "precision": kind} for kind in asked.earlier.split(",")}
    return cases | {
        ours(kind): {**training, "precision": kind} for kind in asked.precision.split(",")
    }


def measure(sides: Sequence[Side], asked: argparse.Namespace, network: str, method: str) -> Report:
    """Measure one method on one network on all sides."""
    able, failed = timing.open_all(sides, cases_of(asked, network, method))
    calls = {side.name: partial(side.run, "step") for side in able}
    times, broken = timing.interleave(calls, asked.rounds)
    able = [side for side in able if side.name in times]
    found: Report = {
        "network": network,
        "method": method,
        "batch": asked.batch,
        "steps_a_round": asked.steps,
        "sides": {
            side.name: {
                **timing.summary(times[side.name]),
                "images_per_second": rounded(asked.batch / median(times[side.name])),
                **side.facts,
            }
            for side in able
        },
        "speedup": timing.speedups(times, [PLAIN, *map(earlier, asked.earlier.split(","))]),
        "failed": failed | broken,
    }
    for side in able if asked.profile else ():
        try:
            kernels = side.ask({"profile": KERNELS})["kernels"]
            found["sides"][side.name]["kernels_of_a_step"] = kernels
        except timing.SideError as error:
            found["failed"][side.name] = str(error)
    return found


def set_against_floor(found: Report, machine_rates: dict[str, float], *, small: bool) -> None:
    """Add to each side what share of the machine's rates it reaches."""
    method = METHODS[found["method"]]
    model = ModelConfig(found["network"], 4 if small else None)
    of_step = (method, Attack(), found["batch"], model, SHAPE)
    work, features = operations(*of_step), features_moved(*of_step)
    found["gflop_per_image"] = rounded(work / 1e9)
    found["megafeatures_per_image"] = rounded(features / 1e6)
    for side in found["sides"].values():
        single = "tfloat32" if side.get("convolutions_in_tf32") else "float32"
        kind, size = ("bfloat16", 2) if side.get("bfloat16") else (single, 4)
        least = floor(work, features, size, machine_rates[kind], machine_rates["copy"])
        seconds = side["median_ms"] / 1e3 / found["batch"]
        side["floor"] = {
            "rate": kind,
            "operations_ms": rounded(1e3 * found["batch"] * least["operations_s"]),
            "features_ms": rounded(1e3 * found["batch"] * least["features_s"]),
            "gap": rounded(seconds / least["floor_s"]),
        }
        side["share_of_bf16_rate"] = rounded(work / seconds / machine_rates["bfloat16"])


def table(found: Report) -> str:
    """Return one case in plain words."""
    lines = [
        f"\n{found['network']}, {found['method']}, batch {found['batch']}: "
        f"{found['gflop_per_image']:g} GFLOP an image",
        f"{'':24} {'ms a step':>10} {'spread':>8} {'images/s':>9} {'times the floor':>16} "
        f"{'of bf16 rate':>13}  times as fast as",
    ]
    for name, side in found["sides"].items():
        faster = ", ".join(
            f"{key.partition(' over ')[2]}: {value['median']:.2f}"
            for key, value in found["speedup"].items()
            if key.startswith(f"{name} over ")
        )
        lines.append(
            f"{name:24} {side['median_ms']:10.1f} {side['spread_ms']:8.1f} "
            f"{side['images_per_second']:9.0f} {side['floor']['gap']:16.1f} "
            f"{side['share_of_bf16_rate']:13.1%}  {faster}"
        )
        lines += [f"    {ms:9.2f} ms {calls:8g} x {key}" for key, calls, ms in side.get(
            "kernels_of_a_step", []
        )]  # fmt: skip
    return "\n".join(lines + [f"failed: {said}" for said in found["failed"].values()])


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table for each case and write the JSON; return 1 if a side failed."""
    asked = options(argv)
    report = timing.start(asked, __doc__)
    measured = rates(small=asked.small)
    report["rates"] = in_units(measured)
    cases: list[dict[str, Any]] = []
    report["cases"] = cases
    sides = sides_of(asked)
    with timing.ending(sides):
        for network in asked.network.split(","):
            for method in asked.methods.split(","):
                found = measure(sides, asked, network, method)
                set_against_floor(found, measured, small=asked.small)
                cases.append(found)
                print(table(found), flush=True)
                timing.write(report, asked.json)
    return int(any(case["failed"] for case in cases))


if __name__ == "__main__":
    sys.exit(main())
