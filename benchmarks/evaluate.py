"""How long does it take to judge a network at six λ by PGD-20, in earlier code and in ours?

A network of OAT is folded at each λ and judged, as `oat.evaluation` does it, in two cases:
``stands``, where the radius is so small that every image withstands all steps, which is the most
that can come; and ``falls``, where the radius is 8/255 and most images fall in the first steps.
Labels are the network's own predictions; of those of ``falls`` every seventh is another class. With
them each side tells the accuracies that it found: they should agree.

    python -m benchmarks.evaluate --against ../earlier --json evaluate.json
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from math import nan
from statistics import median

import torch

from benchmarks import timing
from benchmarks.timing import Report, Side, rounded

EARLIER, OURS = "earlier code", "ours"
EPS = {"stands": 1e-3 / 255, "falls": 8 / 255}


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; defaults are those of the device."""
    cuda = torch.cuda.is_available()
    parser = timing.parser(__doc__, rounds=5 if cuda else 3)
    parser.add_argument("--network", default="resnet18" if cuda else "resnet20")
    parser.add_argument("--images", type=int, default=10_000 if cuda else 500)
    parser.add_argument("--steps", type=int, default=20, help="of PGD")
    found = parser.parse_args(argv)
    if found.small:
        found.network, found.images, found.steps, found.rounds = "resnet8", 20, 3, 1
    return found


def measure(sides: Sequence[Side], asked: argparse.Namespace, network: str, case: str) -> Report:
    """Measure one case on all sides, each λ in turns."""
    request = {
        "kind": "judging",
        "case": case,
        "network": network,
        "width": 4 if asked.small else None,
        "images": asked.images,
        "steps": asked.steps,
        "eps": EPS[case],
        "threads": asked.threads,
    }
    able, failed = timing.open_all(sides, {side.name: request for side in sides})
    points: Report = {}
    for part in able[0].parts if able else ():
        calls = {side.name: partial(side.run, part) for side in able}
        times, broken = timing.interleave(calls, asked.rounds)
        able, failed = [side for side in able if side.name in times], failed | broken
        points[part] = {
            "sides": {
                name: {
                    **timing.summary(found),
                    "images_per_second": rounded(asked.images / median(found)),
                }
                for name, found in times.items()
            },
            "speedup": timing.speedups(times, [EARLIER]),
        }
    for side in able:
        for point, accuracies in side.facts.pop("judged").items():
            at = points[point]["sides"][side.name]
            at["sa"], at["ra"] = map(rounded, accuracies)
    return {
        "network": network,
        "case": case,
        "images": asked.images,
        "pgd_steps": asked.steps,
        "eps_255": rounded(255 * EPS[case]),
        "facts": {side.name: side.facts for side in able},
        "points": points,
        "failed": failed,
    }


def table(found: Report) -> str:
    """Return one case in plain words."""
    lines = [
        f"\n{found['network']}, {found['images']} images, PGD-{found['pgd_steps']}, "
        f"every image {found['case']}" + (" or is wrong at once" * (found["case"] == "falls")),
        f"{'λ':10} {'side':14} {'seconds':>9} {'spread':>8} {'images/s':>9} {'SA':>7} {'RA':>7}  "
        "times as fast as earlier code",
    ]
    for point, at in found["points"].items():
        for name, side in at["sides"].items():
            faster = at["speedup"].get(f"{name} over {EARLIER}")
            lines.append(
                f"{point.removeprefix('lam '):10} {name:14} {side['median_ms'] / 1e3:9.3f} "
                f"{side['spread_ms'] / 1e3:8.3f} {side['images_per_second']:9.0f} "
                f"{side.get('sa', nan):7.3f} {side.get('ra', nan):7.3f}  "
                + (f"{faster['median']:.2f}" if faster else "")
            )
    return "\n".join(lines + [f"failed: {said}" for said in found["failed"].values()])


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table for each case and write the JSON; return 1 if a side failed."""
    asked = options(argv)
    report = timing.start(asked, __doc__)
    report["cases"] = []
    sides = [Side(EARLIER, asked.against)] if asked.against is not None else []
    sides.append(Side(OURS))
    with timing.ending(sides):
        for network in asked.network.split(","):
            for case in EPS:
                found = measure(sides, asked, network, case)
                report["cases"].append(found)
                print(table(found), flush=True)
                timing.write(report, asked.json)
    return int(any(case["failed"] for case in report["cases"]))


if __name__ == "__main__":
    sys.exit(main())
