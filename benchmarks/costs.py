"""What does a network take that λ and width switch in place, against one deployed at one λ?

``python -m benchmarks.costs`` prints operations and parameters of the paper's networks; counted,
not timed, so that any machine prints the same.
"""

import json

import torch

from oat.method import Oats
from oat.models import Conditioning, ModelConfig, build, in_situ_cost

NETWORKS = (
    ("resnet18", 32),
    ("resnet34", 32),
    ("resnet50", 32),
    ("wrn-16-8", 32),
    ("wrn-40-2", 96),
    ("wrn-34-10", 32),
)


def costs(name: str, side: int) -> list[dict[str, object]]:
    """Count one network at each width: millions of parameters, billions of operations an image."""
    shape = (3, side, side)
    method = Oats()
    with torch.device("meta"):
        plain, conditional = (
            build(ModelConfig(name), in_channels=3, num_classes=10, conditioning=asked)
            for asked in (Conditioning(), method.conditioning())
        )
    rows: list[dict[str, object]] = []
    for width in sorted(method.widths, reverse=True):
        deployed, in_situ = (in_situ_cost(net, shape, width) for net in (plain, conditional))
        rows.append(
            {
                "network": name,
                "side": side,
                "width_mult": width,
                "gflops_at_one_lam": round(deployed.flops / 1e9, 3),
                "gflops_in_situ": round(in_situ.flops / 1e9, 3),
                "flops_ratio": round(in_situ.flops / deployed.flops, 4),
                "parameters_at_one_lam": round(deployed.parameters / 1e6, 2),
                "parameters_in_situ": round(in_situ.parameters / 1e6, 2),
            }
        )
    return rows


if __name__ == "__main__":
    print(json.dumps([row for name, side in NETWORKS for row in costs(name, side)], indent=1))
