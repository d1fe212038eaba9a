"""How many milliseconds does a batch take on the folded network, a plain one, and one in place?

Folded is what `oat.deploy.fold` makes of an OATS network at one λ and width; the plain network has
the same shape with batch norms of its own; in place is the network itself, which is told another λ
with each batch. With `--exported` there are the files of `oat export` too: pt2 in torch and ONNX in
onnxruntime, of one point and of the whole knob, and a dedicated network that is folded as well. All
are measured in turns, those of an earlier checkout too if one is given.

    python -m benchmarks.inference --against ../earlier --json inference.json
    python -m benchmarks.inference --exported --threads 1 --json exported.json
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial

import torch

from benchmarks import timing
from benchmarks.timing import Report, Side

EARLIER, OURS = "earlier code", "ours"
WAYS = ("folded", "plain network", "conditioned in place")
DEDICATED = "dedicated, folded"
EXPORTED = (
    DEDICATED,
    "pt2 of the point",
    "pt2 of the knob",
    "ONNX of the point",
    "ONNX of the knob",
)


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; defaults are those of the device."""
    cuda = torch.cuda.is_available()
    parser = timing.parser(__doc__, rounds=9 if cuda else 5)
    parser.add_argument("--network", default="resnet34,resnet18" if cuda else "resnet18")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 128])
    parser.add_argument("--widths", type=float, nargs="+", default=[1.0, 0.5])
    parser.add_argument("--calls", type=int, default=30 if cuda else 3, help="of a round")
    parser.add_argument(
        "--exported", action="store_true", help="exported files too; on a CPU, with the extra onnx"
    )
    found = parser.parse_args(argv)
    if found.exported and cuda:
        parser.error("`--exported` measures on a CPU; hide the GPU with CUDA_VISIBLE_DEVICES=''.")
    if found.small:
        found.network, found.batches, found.rounds, found.calls = "resnet8", [1, 8], 2, 2
    return found


def measure(sides: Sequence[Side], asked: argparse.Namespace, network: str) -> Report:
    """Measure one network: each width and batch, all ways and sides in turns."""
    request = {
        "kind": "inference",
        "network": network,
        "width": 4 if asked.small else None,
        "widths": asked.widths,
        "batches": asked.batches,
        "threads": asked.threads,
    }
    requests = {side.name: dict(request) for side in sides}
    requests[OURS]["exported"] = asked.exported
    able, failed = timing.open_all(sides, requests)
    shapes: Report = {}
    for width in request["widths"]:
        for batch in asked.batches:
            shape = f"width {width:g}, batch {batch}"
            shapes[shape], broken = _in_turns(able, shape, asked)
            able, failed = [side for side in able if side.name not in broken], failed | broken
    facts = {side.name: side.facts for side in able}
    return {"network": network, "shapes": shapes, "facts": facts, "failed": failed}


def _in_turns(
    sides: Sequence[Side], shape: str, asked: argparse.Namespace
) -> tuple[Report, dict[str, str]]:
    """Measure all ways on all sides; return the numbers, and what sides said that failed."""
    calls = {
        f"{way}, {side.name}": partial(side.run, f"{way}, {shape}", asked.calls)
        for side in sides
        for way in (*WAYS, *(EXPORTED if asked.exported and side.name == OURS else ()))
    }
    times, broken = timing.interleave(calls, asked.rounds)
    groups = {
        side.name: {way: f"{way}, {side.name}" for way in (*WAYS, *EXPORTED)} for side in sides
    }
    groups |= {way: {side.name: f"{way}, {side.name}" for side in sides} for way in WAYS}
    ratios = {
        group: timing.speedups(
            {name: times[key] for name, key in keys.items() if key in times},
            ["plain network", "conditioned in place", DEDICATED, EARLIER],
        )
        for group, keys in groups.items()
    }
    report = {
        "times": {name: timing.summary(found) for name, found in times.items()},
        "speedup": {group: found for group, found in ratios.items() if found},
    }
    failed: dict[str, str] = {}
    for key, said in broken.items():
        failed.setdefault(key.rpartition(", ")[2], said)  # the first is the cause
    return report, failed


def table(found: Report) -> str:
    """Return one network in plain words."""
    lines = []
    for shape, at in found["shapes"].items():
        lines.append(f"\n{found['network']}, {shape}")
        for name, times in at["times"].items():
            lines.append(f"{name:36} {times['median_ms']:9.3f} ms, spread {times['spread_ms']:.3f}")
        for name, ratios in at["speedup"].items():
            lines += [f"    {name}: {key} {value['median']:.2f}" for key, value in ratios.items()]
    return "\n".join(lines + [f"failed: {said}" for said in found["failed"].values()])


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table for each network and write the JSON; return 1 if a side failed."""
    asked = options(argv)
    report = timing.start(asked, __doc__)
    report["cases"] = []
    sides = [Side(EARLIER, asked.against)] if asked.against is not None else []
    sides.append(Side(OURS))
    with timing.ending(sides):
        for network in asked.network.split(","):
            found = measure(sides, asked, network)
            report["cases"].append(found)
            print(table(found), flush=True)
            timing.write(report, asked.json)
    return int(any(case["failed"] for case in report["cases"]))


if __name__ == "__main__":
    sys.exit(main())
