"""What the tests of method share."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from oat.lambdas import RowLams
from oat.method import Oat, Oats
from oat.models import ModelConfig, Network, build

Batch = tuple[Tensor, Tensor]

Randomise = Callable[[Network], Network]

CHOICES = (0.0, 0.3, 1.0)

INDEX = torch.tensor([0, 0, 0, 0, 1, 2, 1, 2, 2, 1, 1, 2])  # a third of twelve rows at λ = 0

LAMS = RowLams(torch.tensor(CHOICES), INDEX, 4)


def oats_of(**changes: Any) -> Oats:
    settings: dict[str, Any] = {
        "lambda_choices": CHOICES, "encoding_dim": 4, "width_mults": (0.5, 0.75, 1.0)
    }  # fmt: skip
    return Oats(**{**settings, **changes})


def slim_of(method: Oat, name: str = "resnet8") -> Network:
    return build(
        ModelConfig(name, 4),
        in_channels=3,
        num_classes=5,
        conditioning=method.conditioning(),
    )


Calls = list[tuple[Tensor, dict[str, Any]]]


def calls_of(network: Network) -> Calls:
    """Record images and keywords of every pass in train mode; the attack's go another way."""
    calls: Calls = []
    network.register_forward_pre_hook(
        lambda _m, args, kwargs: calls.append((args[0].detach().clone(), kwargs)),
        with_kwargs=True,
    )
    return calls
