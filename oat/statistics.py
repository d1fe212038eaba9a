"""Batch norm statistics of weights that no training has made: averages, and what lies between."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from oat.attacks import Attack
from oat.data import DataConfig, Dataset
from oat.execution import numerics
from oat.method import Method
from oat.models import Network
from oat.recipe import STATISTICS_BATCHES, steps_per_epoch
from oat.step import make_batch

Batch = tuple[Tensor, Tensor]
"""Images in [0, 1], shape (N, C, H, W), and labels, shape (N,)."""


@torch.no_grad()
def take_statistics(
    model: Network,
    batches: Iterable[Batch],
    passes: Callable[[Tensor, Tensor], Iterable[Tensor]],
    wanted: int,
) -> None:
    """Replace a network's batch norm statistics by the plain mean over some batches.

    Args:
        model: The network, left in train mode. The statistics that it has serve the attack of the
            first batch, which then replaces them.
        batches: Where images come from.
        passes: Runs the network on a batch as a step of training does; yields its losses.
        wanted: How many batches to take; more while a norm has seen none.
    """
    norms = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.num_batches_tracked
    ]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked.zero_()
    model.train()
    for done, (images, labels) in enumerate(batches, start=1):
        for _ in passes(images, labels):
            pass
        # a branch that few batches take, as one λ for a batch makes it, may need more
        if done >= wanted and all(norm.num_batches_tracked for norm in norms):
            break
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def settle(
    model: Network,
    method: Method,
    dataset: Dataset,
    data: DataConfig,
    attack: Attack,
    *,
    batch_size: int,
    seed: int,
) -> None:
    """Give a network the statistics that it would have after steps of a method, in float32.

    Up to 50 batches of training images are passed through it without gradients. The same
    arguments give the same statistics, bit for bit on one kind of device.

    Args:
        model: The network, on the device of the data; left in train mode.
        method: Whose passes it sees: clean and adversarial images.
        dataset: Whose training images.
        data: How they are augmented.
        attack: Inner maximisation.
        batch_size: Images at a time.
        seed: Of every random draw.
    """
    device = dataset.train.images.device
    generator = torch.Generator(device).manual_seed(seed)

    def batches() -> Iterator[Batch]:
        order = torch.randperm(len(dataset.train), generator=generator, device=device)
        for rows in torch.split(order, batch_size)[:wanted]:
            yield make_batch(dataset.train, rows, data.resolved(), generator)

    def passes(images: Tensor, labels: Tensor) -> Iterator[Tensor]:
        return method.losses(model, images, labels, attack=attack, generator=generator)

    wanted = min(STATISTICS_BATCHES, steps_per_epoch(len(dataset.train), batch_size))
    forked = torch.random.fork_rng([device] if device.type == "cuda" else [])
    with forked, numerics(tf32=False, deterministic=True):
        torch.manual_seed(seed)  # for dropout
        take_statistics(model, batches(), passes, wanted)
