"""Batch norm statistics of weights that no training has made."""

import copy

import pytest
import torch
from torch import Tensor, nn

from baselines import PgdAt
from oat.attacks import Attack
from oat.data import Dataset, load
from oat.models import Network
from oat.statistics import settle
from oat.step import make_batch
from tests.oat.trainings import DATA, TRAIN, same_of, training_of

ATTACK = Attack(eps=0.1, steps=2)


def _settled(network: Network, lam: float = 0.5, seed: int = 0) -> Network:
    found, dataset = copy.deepcopy(network), load(DATA)
    settle(found, PgdAt(lam), dataset, DATA, ATTACK, batch_size=TRAIN.batch_size, seed=seed)
    return found


@pytest.fixture(scope="module")
def network() -> Network:
    """A network after an epoch."""
    training = training_of("standard", epochs=1)
    list(training.epochs())
    return training.model


def test_statistics_are_those_of_averaged_weights_in_a_training_of_the_same_passes() -> None:
    training = training_of("pgd_at_half", ema=0.9)
    list(training.epochs())
    assert training.averaged is not None
    averaged = copy.deepcopy(training.averaged)
    for own, raw in zip(averaged.buffers(), training.model.buffers(), strict=True):
        own.copy_(raw)
    kept = training.kept()["averaged"].state
    assert same_of(_settled(averaged).state_dict(), dict(kept))


def _batches(dataset: Dataset, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(dataset.train), generator=generator)
    steps = len(order) // TRAIN.batch_size
    rows = torch.split(order[: steps * TRAIN.batch_size], TRAIN.batch_size)
    return [make_batch(dataset.train, row, DATA.resolved(), generator)[0] for row in rows]


@torch.no_grad()
def test_statistics_are_the_mean_over_batches_of_what_reaches_the_norm(network: Network) -> None:
    stem = _settled(network, lam=0.0).units()[0]
    assert isinstance(stem.norm, nn.Module)
    (bn,) = stem.norm.bn
    outputs = [stem.conv(images, 1.0) for images in _batches(load(DATA), 0)]
    mean = torch.stack([x.mean(dim=(0, 2, 3)) for x in outputs]).mean(dim=0)
    variance = torch.stack([x.var(dim=(0, 2, 3)) for x in outputs]).mean(dim=0)
    torch.testing.assert_close(bn.running_mean, mean)
    torch.testing.assert_close(bn.running_var, variance)
    assert bn.num_batches_tracked == len(outputs)


def test_statistics_change_no_weight_and_draw_from_nobody(network: Network) -> None:
    before = {name: value.clone() for name, value in network.named_parameters()}
    state = torch.get_rng_state()
    found = _settled(network)
    assert torch.equal(torch.get_rng_state(), state)
    after = found.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert same_of(after, _settled(network).state_dict())
    assert not same_of(after, _settled(network, seed=1).state_dict())
    assert not same_of(after, _settled(network, lam=0.0).state_dict())
    momenta = {
        module.momentum for module in network.modules() if isinstance(module, nn.BatchNorm2d)
    }
    assert momenta == {0.1}
