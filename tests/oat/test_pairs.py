"""Two networks in one: their outputs mixed, or their weights interpolated."""

import copy
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from oat.ascent import gradient, row_loss
from oat.deploy import fold
from oat.models import (
    Conditioning,
    Interpolation,
    Mixed,
    Mixture,
    ModelConfig,
    Network,
    build,
    count_parameters,
    flops,
    in_situ_cost,
    stored_bytes,
)

ALPHAS = (0.01, 0.25, 0.5, 0.75, 0.99)

Batch = tuple[Tensor, Tensor]
Randomise = Callable[[Network], Network]


@pytest.fixture
def ends(randomise: Randomise) -> tuple[Network, Network]:
    """Two plain networks that differ in everything."""
    first, second = (
        randomise(build(ModelConfig("resnet8", 4), in_channels=3, num_classes=5)) for _ in range(2)
    )
    return first, second


def _probabilities(network: Network, images: Tensor) -> Tensor:
    return torch.softmax(network.double().eval()(images.double()), dim=1)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_a_mixture_gives_the_logarithm_of_the_mixed_probabilities(
    alpha: float, ends: tuple[Network, Network], batch: Batch
) -> None:
    images, _ = batch
    found = fold(Mixture(*ends), alpha)(images)
    first, second = (_probabilities(end, images) for end in ends)
    wanted = ((1 - alpha) * first + alpha * second).log()
    torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=1e-5)
    assert found.dtype == torch.float32


@pytest.mark.parametrize("alpha", [0, 1])
def test_a_mixture_is_at_its_ends_one_of_its_networks_bit_for_bit(
    alpha: int, ends: tuple[Network, Network], batch: Batch
) -> None:
    images, _ = batch
    assert torch.equal(fold(Mixture(*ends), alpha)(images), fold(ends[alpha], None)(images))


@pytest.mark.parametrize("loss", ["ce", "cw"])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_gradient_through_a_mixture_is_that_of_an_independent_formula(
    alpha: float, loss: str, ends: tuple[Network, Network], batch: Batch
) -> None:
    """``∂ log m_k = ((1 - α) p0_k ∂ log p0_k + α p1_k ∂ log p1_k) / m_k``, in float64."""
    images, labels = batch
    found, _ = gradient(fold(Mixture(*ends), alpha), row_loss(loss, labels), images)

    doubles = images.double().requires_grad_()
    mixed = torch.zeros(len(images), 5, dtype=torch.float64)
    for weight, end in zip((1 - alpha, alpha), ends, strict=True):
        mixed = mixed + weight * _probabilities(end, doubles)
    rows = torch.arange(len(labels))
    wrong = mixed.detach().clone()
    wrong[rows, labels] = -1
    value = -mixed[rows, labels].log()
    if loss == "cw":
        value = value + mixed[rows, wrong.argmax(dim=1)].log()
    (wanted,) = torch.autograd.grad(value.sum(), doubles)
    torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=1e-3)


def test_the_gradient_through_a_mixture_agrees_with_differences(
    ends: tuple[Network, Network], batch: Batch
) -> None:
    images, labels = (part[:2] for part in batch)
    network = fold(Mixture(*ends), 0.3)
    assert isinstance(network, Mixed)
    grad, _ = gradient(network, row_loss("ce", labels), images)
    way = torch.randn_like(images).double()
    steps = (images.double() + sign * 1e-5 * way for sign in (1, -1))

    def loss_at(x: Tensor) -> float:
        first, second = (_probabilities(end, x).detach() for end in ends)
        mixed = 0.7 * first + 0.3 * second
        return -mixed[torch.arange(2), labels].log().sum().item()

    up, down = (loss_at(x) for x in steps)
    assert (grad.double() * way).sum().item() == pytest.approx((up - down) / 2e-5, rel=1e-3)


def test_a_mixture_of_sure_networks_has_finite_outputs_and_gradients(
    ends: tuple[Network, Network], batch: Batch
) -> None:
    images, labels = batch
    for end in ends:
        for parameter in end.head.parameters():
            parameter.data.mul_(1e5)
    grad, logits = gradient(fold(Mixture(*ends), 0.5), row_loss("ce", labels), images)
    assert logits.isfinite().all()
    assert grad.isfinite().all()


def test_a_pair_costs_both_networks_and_at_its_ends_one(ends: tuple[Network, Network]) -> None:
    mixture, shape, one = Mixture(*ends), (3, 8, 8), fold(ends[0], None)
    for alpha, networks in ((0.0, 1), (0.5, 2), (1.0, 1)):
        folded = fold(mixture, alpha)
        assert flops(folded, shape) == networks * flops(one, shape)
        assert stored_bytes(folded) == networks * stored_bytes(one)
    cost = in_situ_cost(mixture, shape)
    assert cost.flops == 2 * in_situ_cost(ends[0], shape).flops
    assert cost.parameters == count_parameters(mixture) == 2 * count_parameters(ends[0])


def test_a_pair_survives_its_state(ends: tuple[Network, Network], batch: Batch) -> None:
    images, _ = batch
    blank = (build(ModelConfig("resnet8", 4), in_channels=3, num_classes=5) for _ in range(2))
    again = Mixture(*blank)
    again.load_state_dict(Mixture(*ends).state_dict())
    assert {name.split(".")[1] for name in again.state_dict()} == {"0", "1"}
    for alpha in (0, 0.5, 1):
        assert torch.equal(fold(again, alpha)(images), fold(Mixture(*ends), alpha)(images))


def test_folding_a_mixture_changes_nothing_of_it(ends: tuple[Network, Network]) -> None:
    mixture = Mixture(*ends)
    before = {name: value.clone() for name, value in mixture.state_dict().items()}
    folded = fold(mixture, 0.5)
    assert not folded.training
    assert all(network.training for network in ends)
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    after = mixture.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_a_weight_outside_of_its_range_is_refused(
    alpha: float, ends: tuple[Network, Network]
) -> None:
    with pytest.raises(ValueError, match=r"`lam` must be in \[0, 1\] \(0 is the first network"):
        fold(Mixture(*ends), alpha)


def test_a_pair_without_a_weight_is_refused(ends: tuple[Network, Network]) -> None:
    with pytest.raises(ValueError, match="`lam` is required by a pair"):
        fold(Mixture(*ends), None)


@pytest.mark.parametrize(
    ("config", "conditioning", "said"),
    [
        (ModelConfig("resnet14", 4), Conditioning(), "must have one shape"),
        (ModelConfig("resnet8", 8), Conditioning(), "must have one shape"),
        (ModelConfig("resnet8", 4), Conditioning((0.0, 1.0)), "must have one shape"),
    ],
)
def test_networks_of_two_shapes_are_no_pair(
    config: ModelConfig, conditioning: Conditioning, said: str, ends: tuple[Network, Network]
) -> None:
    other = build(config, in_channels=3, num_classes=5, conditioning=conditioning)
    with pytest.raises(ValueError, match=said):
        Mixture(ends[0], other)
    if conditioning.lambda_choices:
        with pytest.raises(ValueError, match="must be plain"):
            Mixture(other, other)


def test_the_share_of_the_second_network_grows_with_the_weight(
    ends: tuple[Network, Network], batch: Batch
) -> None:
    images, _ = batch
    second = fold(ends[1], None)(images).argmax(dim=1, keepdim=True)
    shares = [fold(Mixture(*ends), a)(images).softmax(1).gather(1, second).mean() for a in ALPHAS]
    assert all(one < other for one, other in pairwise(shares))


def _untouched(network: Network, alpha: float) -> None:
    """Leave the statistics in between, where they are right for nobody."""


@pytest.mark.parametrize("alpha", ALPHAS)
def test_weights_are_interpolated_each_by_itself(
    alpha: float, ends: tuple[Network, Network]
) -> None:
    settled: list[float] = []
    pair = Interpolation(*ends, lambda _, alpha: settled.append(alpha))
    found, (first, second) = pair.at(alpha).state_dict(), (end.state_dict() for end in ends)
    for name, value in found.items():
        if value.is_floating_point():
            wanted = (1 - alpha) * first[name].double() + alpha * second[name].double()
            torch.testing.assert_close(value.double(), wanted, atol=1e-6, rtol=1e-6)
        else:
            assert torch.equal(value, second[name])
    assert pair.at(alpha) is pair.at(alpha)
    assert settled == [alpha]


@pytest.mark.parametrize("alpha", [0, 1])
def test_an_interpolation_keeps_the_statistics_of_its_ends(
    alpha: int, ends: tuple[Network, Network], batch: Batch
) -> None:
    def refuse(network: Network, alpha: float) -> None:
        raise AssertionError("the ends keep their own statistics")

    images, _ = batch
    pair = Interpolation(*ends, refuse)
    assert pair.at(alpha) is ends[alpha]
    assert torch.equal(fold(pair, alpha)(images), fold(ends[alpha], None)(images))


def test_an_interpolation_between_two_equal_networks_is_that_network(
    ends: tuple[Network, Network], batch: Batch
) -> None:
    images, _ = batch
    pair = Interpolation(ends[0], copy.deepcopy(ends[0]), _untouched)
    assert torch.equal(fold(pair, 0.3)(images), fold(ends[0], None)(images))


def test_one_network_of_an_interpolation_runs_and_both_are_kept(
    ends: tuple[Network, Network],
) -> None:
    pair, shape, one = Interpolation(*ends, _untouched), (3, 8, 8), fold(ends[0], None)
    assert flops(fold(pair, 0.5), shape) == flops(one, shape)
    assert stored_bytes(fold(pair, 0.5)) == stored_bytes(one)
    cost = in_situ_cost(pair, shape)
    assert cost.flops == in_situ_cost(ends[0], shape).flops
    assert cost.parameters == 2 * count_parameters(ends[0])


@pytest.mark.parametrize("alpha", [-0.1, 1.1])
def test_there_is_no_network_beyond_the_ends(alpha: float, ends: tuple[Network, Network]) -> None:
    with pytest.raises(ValueError, match=r"`alpha` must be in \[0, 1\]"):
        Interpolation(*ends, _untouched).at(alpha)
