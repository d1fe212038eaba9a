import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from baselines import PgdAt, Trades
from oat.attacks import Attack
from oat.data import DataConfig, Dataset, Split, augment, unit
from oat.deploy import fold, specialize
from oat.method import Method, Oat, Oats
from oat.models import Conditioning, ModelConfig, build
from oat.models.compute import Compute
from oat.models.norm import Condition
from oat.recipe import TrainConfig
from oat.training import Training

METHODS: list[Method] = [
    Oat(),
    Oat(dual_bn=False, encoding="continuous", encoding_dim=8, lambda_sampling="uniform"),
    Oat(encoding="none", lambda_sampling="steep"),
    Oats(width_mults=(0.5, 1.0)),
    PgdAt(0.0),
    PgdAt(0.3),
    PgdAt(1.0),
    Trades(6.0),
]
DRAWN_SHAPES: list[Method] = [Oat(batchwise=True), Oat(skip_clean_at_one=True)]
NETWORKS = [ModelConfig("resnet8", 4), ModelConfig("wrn-10-1", 4, dropout=0.3)]
ATTACK = Attack(steps=2)


def _dataset(count: int = 40) -> Dataset:
    draw = torch.Generator().manual_seed(1)

    def split(rows: int) -> Split:
        images = torch.randint(0, 256, (rows, 3, 12, 12), dtype=torch.uint8, generator=draw)
        return Split(images, torch.randint(10, (rows,), generator=draw))

    return Dataset(split(count), split(12), split(12), 10, "made up")


def _training(
    method: Method, network: ModelConfig, dataset: Dataset | None = None, **settings: Any
) -> Training:
    train = TrainConfig(**{"epochs": 1, "batch_size": 16, "lr": 0.05, **settings})
    data = DataConfig("cifar10")  # crop and flip
    return Training(method, network, dataset or _dataset(), data, train, ATTACK, seed=3)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.name)
@pytest.mark.parametrize("method", METHODS + DRAWN_SHAPES, ids=str)
def test_a_step_is_the_loop_that_a_person_would_write_bit_for_bit(
    method: Method, network: ModelConfig
) -> None:
    ours, theirs = (
        _training(method, network, clip_norm=1.0, precision="float32", label_smoothing=0.1)
        for _ in range(2)
    )
    torch.manual_seed(5)  # of dropout
    loss, seen = ours._train()

    model, draw, split = theirs.model.train(), theirs.generator, theirs.dataset.train
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    total = torch.zeros(())
    torch.manual_seed(5)
    order = torch.randperm(40, generator=draw)
    for rows in (order[:16], order[16:32]):
        images = augment(unit(split.images[rows]), 4, True, generator=draw)
        images = images.contiguous(memory_format=torch.channels_last)
        optimizer.zero_grad()
        of_step = torch.zeros(())
        for losses in method.losses(
            model,
            images,
            split.labels[rows],
            attack=ATTACK,
            generator=draw,
            label_smoothing=0.1,
        ):
            losses.mean().backward()
            of_step += losses.mean().detach()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        total += of_step

    assert (loss, seen) == (total.item() / 2, 32)
    for (name, mine), yours in zip(
        ours.model.state_dict().items(), model.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, yours), name


class _Asked(Exception):
    """A value was asked of the device, or a shape depends on data."""


class _NothingAsked(TorchDispatchMode):
    """Refuses what a CUDA graph cannot hold."""

    REFUSED = frozenset({"_local_scalar_dense", "nonzero", "masked_select", "_unique2"})

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function.name().partition("::")[2].partition(".")[0]
        masks = name == "index" and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if name in self.REFUSED or masks:
            raise _Asked(name)
        if (
            name == "lift_fresh" and args[0].numel() > 1
        ):  # a tensor from a list: copied from the host
            raise _Asked(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.name)
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_step_asks_the_device_for_nothing(
    method: Method, network: ModelConfig, precision: str
) -> None:
    training = _training(method, network, precision=precision, clip_norm=1.0)
    assert method.fixed_shapes()
    with _NothingAsked():
        training.step._passes(ATTACK)


@pytest.mark.parametrize("method", DRAWN_SHAPES, ids=str)
def test_a_method_whose_steps_depend_on_what_is_drawn_says_so(method: Method) -> None:
    assert not method.fixed_shapes()
    with pytest.raises(_Asked), _NothingAsked():
        _training(method, NETWORKS[0]).step._passes(ATTACK)


def test_losses_of_steps_add_up_until_they_are_set_to_zero() -> None:
    training = _training(PgdAt(0.0), NETWORKS[0], lr=1e-9, momentum=0.0)
    rows = torch.arange(16)
    losses = []
    for _ in range(2):
        before = training.step.loss.clone()
        training.step(rows, ATTACK)
        losses.append((training.step.loss - before).item())
    assert training.step.loss.item() == pytest.approx(sum(losses))
    assert min(losses) > 0


class _NoStridedPointwise(TorchDispatchMode):
    """Refuses 1x1 convolutions with a stride, which oneDNN may corrupt the heap in."""

    def __init__(self) -> None:
        super().__init__()
        self.pointwise = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function.name().startswith("aten::convolution"):
            backward = "backward" in function.name()
            weight, stride = (args[2], args[4]) if backward else (args[1], args[3])
            if weight.shape[-1] == 1:
                self.pointwise += 1
                assert max(stride) == 1, (function.name(), weight.shape, stride)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("compute", [Compute(), Compute(torch.bfloat16)], ids=["float32", "bf16"])
@pytest.mark.parametrize("width", [0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize(
    "network",
    [
        ModelConfig(name, 8)
        for name in ("resnet8", "resnet14", "resnet20", "resnet10", "resnet18", "resnet50")
    ]
    + [ModelConfig("wrn-10-2", 8), ModelConfig("wrn-16-2", 8)],
    ids=lambda n: n.name,
)
def test_no_pointwise_convolution_has_a_stride_in_any_form(
    network: ModelConfig, width: float, compute: Compute
) -> None:
    asked = Conditioning((0.0, 1.0), widths=(0.25, 0.5, 0.75, 1.0), dual_bn=True)
    model = build(network, in_channels=3, num_classes=4, conditioning=asked)
    model.compute = compute
    assert model.encoding is not None
    codes, index = model.encoding.table, torch.tensor([0, 1, 1, 1, 1])
    images = torch.rand(5, 3, 10, 10, requires_grad=True)
    frozen = specialize(model, Condition(codes, index[1:], 0, width))
    with _NoStridedPointwise() as seen:
        model(images, codes, lam_index=index, num_zero_lam=1, width_mult=width).sum().backward()
        frozen(images[1:]).sum().backward()
        fold(model, 1.0, width)(images).sum().backward()
    assert seen.pointwise >= 3 * 2


@pytest.mark.slow
def test_oats_trains_where_strided_pointwise_convolutions_corrupt_the_heap() -> None:
    script = """
import torch
from oat.attacks import Attack
from oat.data import DataConfig, Dataset, Split
from oat.method import Oats
from oat.models import ModelConfig
from oat.recipe import TrainConfig
from oat.training import Training
torch.set_num_threads(2)
split = lambda n: Split(torch.rand(n, 3, 32, 32), torch.randint(10, (n,)))
data = Dataset(split(16 * 20), split(5), split(5), 10, "made up")
train = TrainConfig(epochs=10, batch_size=16, lr=0.01, precision="float32")
training = Training(Oats(), ModelConfig("resnet8", 16), data, DataConfig("digits"), train,
                    Attack(steps=1), seed=0)
for _ in range(10):
    training._train()
print("200 steps")
"""
    # threads that wait give way to other processes, else a busy machine takes minutes
    waiting = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    ran = subprocess.run(
        [sys.executable, "-c", script], env=waiting, capture_output=True, text=True
    )
    assert ran.stdout.split() == ["200", "steps"], (ran.returncode, ran.stderr[-2000:])
