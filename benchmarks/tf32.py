"""What does TF32 do to robust accuracy? Finished models, judged in float32 and in TF32.

TF32 rounds the inputs of a convolution or a matrix product to 10 bits of mantissa and adds up in
float32. GPUs do so in hardware; here the inputs are rounded on whatever device there is, forward
and backward, so that it needs no GPU.

    python -m benchmarks.tf32 study.yaml --storage outputs --json tf32.json
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks import timing
from benchmarks.timing import Report
from oat.adversaries import Pgd
from oat.data import load
from oat.evaluation import evaluate_at
from oat.operating import OperatingPoint
from studies.driver.places import study_folder
from studies.known_methods import method_of
from studies.planning.expand import make_plan
from studies.study_file.loading import load_study
from studies.trial.rebuilding import rebuild
from studies.trial.records import read_result
from studies.trial.weights import read_weights

KEPT_BITS = 10
"""Of the 23 bits of a float32's mantissa."""

CONVOLVE, MULTIPLY = functional.conv2d, functional.linear


def rounded(x: Tensor) -> Tensor:
    """Round to the nearest value of TF32, ties away from zero."""
    dropped = 23 - KEPT_BITS
    bits = x.detach().contiguous().view(torch.int32)
    return ((bits + (1 << (dropped - 1))) & -(1 << dropped)).view(torch.float32)


class Convolution(torch.autograd.Function):
    """A convolution whose products take rounded inputs; gradients of the images alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: Any, padding: Any) -> Tensor:  # noqa: D102
        ctx.save_for_backward(weight)
        ctx.how = (x.shape, stride, padding)
        return CONVOLVE(rounded(x), rounded(weight), None, stride, padding)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: D102
        (weight,) = ctx.saved_tensors
        shape, stride, padding = ctx.how
        out = torch.nn.grad.conv2d_input(shape, rounded(weight), rounded(grad), stride, padding)
        return out, None, None, None


class Product(torch.autograd.Function):
    """A matrix product that takes rounded inputs; gradients of the features alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:  # noqa: D102
        ctx.save_for_backward(weight)
        return MULTIPLY(rounded(x), rounded(weight))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # noqa: D102
        return rounded(grad) @ rounded(ctx.saved_tensors[0]), None


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any) -> Tensor:
    out = Convolution.apply(x, weight, stride, padding)
    return out if bias is None else out + bias[:, None, None]


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    out = Product.apply(x, weight)
    return out if bias is None else out + bias


@contextmanager
def in_tf32() -> Iterator[None]:
    """Compute convolutions and matrix products in TF32 for a while."""
    with (
        patch.object(functional, "conv2d", _convolve),
        patch.object(functional, "linear", _multiply),
    ):
        yield


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", help="a finished study: a preset or a YAML file")
    parser.add_argument("--storage", default="./outputs")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args(argv)
    study = load_study(asked.study, asked.overrides)
    folder = study_folder(study, asked.storage)
    dataset = load(study.data.resolved())
    split = dataset.test.head(asked.images)
    attack = replace(Pgd(steps=asked.steps), eps=study.attack.eps)
    points: list[Report] = []
    report: Report = {
        "question": (__doc__ or "").partition("\n")[0],
        "machine": timing.machine(torch.get_num_threads()),
        "images": len(split),
        "steps": asked.steps,
        "points": points,
    }
    for trial in make_plan(study, folder).trials:
        place = folder.sub(f"trials/{trial.run_key}")
        result = read_result(place)
        if result is None or "trained" not in result:
            continue
        method = method_of(trial.job["config"])
        weights = read_weights(place, result["trained"], "last")
        model = rebuild(trial.job["config"], method, dataset, weights)
        for lam, width in method.operating_points(study.lams()):
            point = OperatingPoint(lam, width)
            exact = evaluate_at(model, point, split, attack).correctness
            with in_tf32():
                coarse = evaluate_at(model, point, split, attack).correctness
            found = {
                "trial": f"{trial.label} seed {trial.seed}",
                "lam": lam,
                "ra_float32": exact.ra,
                "ra_tf32": coarse.ra,
                "sa_float32": exact.sa,
                "sa_tf32": coarse.sa,
                "images_that_differ": int((exact.robust != coarse.robust).sum()),
            }
            points.append(found)
            timing.write(report, asked.json)
            print(
                f"{found['trial']}, λ={lam}: RA {100 * exact.ra:.2f} in float32, "
                f"{100 * coarse.ra - 100 * exact.ra:+.2f} in TF32; "
                f"{found['images_that_differ']} images differ."
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
