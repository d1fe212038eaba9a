"""How much faster is the attack of training on the frozen view than on the conditional network?

``python -m benchmarks.attack`` prints medians in milliseconds and ratios, measured in turns.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from oat.ascent import perturb
from oat.attacks import Attack
from oat.deploy import specialize
from oat.lambdas import LambdaSampler
from oat.losses import cross_entropy_of
from oat.method import Oat
from oat.models import ModelConfig, build
from oat.models.norm import Condition


def measure(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Time several calls in turns; return the median of each in milliseconds."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - started))
    return {name: statistics.median(found[1:]) for name, found in times.items()}


def attack_times(side: int, width: int, batch: int, rounds: int) -> dict[str, float]:
    """Time one PGD-7 attack of OAT on ``batch`` images of ``side`` pixels."""
    method, attack = Oat(), Attack(eps=0.1, steps=7)
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(batch, 1, side, side), torch.randint(10, (batch,))
    index = LambdaSampler(method.lambda_choices[1:]).draw(batch, generator=generator).index
    row_loss = cross_entropy_of(labels)

    def network(layout: torch.memory_format) -> tuple[Callable[[], object], Callable[[], object]]:
        torch.manual_seed(0)
        model = build(
            ModelConfig("resnet8", width),
            in_channels=1,
            num_classes=10,
            conditioning=method.conditioning(),
        )
        model = model.to(memory_format=layout).eval()
        assert model.encoding is not None
        codes = model.encoding.table
        inputs = images.contiguous(memory_format=layout)

        def conditional(x: Tensor) -> Tensor:
            logits: Tensor = model(x, codes[index], num_zero_lam=0)
            return logits

        def on_conditional() -> object:
            return perturb(conditional, row_loss, inputs, attack, generator=generator)

        def on_view() -> object:
            view = specialize(model, Condition(codes, index, 0))
            return perturb(view, row_loss, inputs, attack, generator=generator)

        return on_conditional, on_view

    slow, view = network(torch.channels_last)
    _, view_default = network(torch.contiguous_format)
    calls = {"conditional": slow, "view": view, "view_default_layout": view_default}
    return measure(calls, rounds)


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found = {}
    for side, width, batch in ((8, 16, 64), (28, 16, 64), (32, 32, 64)):
        times = attack_times(side, width, batch, arguments.rounds)
        found[f"resnet8 width {width}, {side}x{side}, batch {batch}"] = {
            "milliseconds": {name: round(value, 2) for name, value in times.items()},
            "view_speedup": round(times["conditional"] / times["view"], 2),
            "channels_last_speedup": round(times["view_default_layout"] / times["view"], 2),
        }
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {arguments.threads} thread(s)"
    print(json.dumps({"torch": torch.__version__, "machine": machine, "attack": found}, indent=1))


if __name__ == "__main__":
    main()
