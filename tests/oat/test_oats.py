import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from oat.ascent import perturb
from oat.attacks import Attack
from oat.deploy import fold
from oat.encodings import Encoding
from oat.losses import cross_entropy_of, oat_loss
from oat.method import Oat, Oats
from oat.models import Network
from oat.models.slimmable import HeadPerWidth, SlimmableConv2d
from tests.oat.methods import CHOICES, INDEX, LAMS, Batch, Randomise, calls_of, oats_of, slim_of


def _state(network: Network) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in network.state_dict().items()}


@pytest.mark.parametrize("widths", [(0.5, 0.75, 1.0), (1.0, 0.5, 0.75), (0.5, 0.25), (0.75,)])
@pytest.mark.parametrize("encoding", ["random", "continuous"])
def test_every_width_costs_its_own_oat_loss_the_widest_first(
    widths: tuple[float, ...],
    encoding: Encoding,
    batch: Batch,
    generator: torch.Generator,
    randomise: Randomise,
) -> None:
    method = oats_of(width_mults=widths, encoding=encoding)
    network = randomise(slim_of(method))
    twin, attack = copy.deepcopy(network), Attack(0.1, 2)
    calls = calls_of(network)
    losses = list(method.losses(network, *batch, attack=attack, generator=generator.manual_seed(1)))
    lams = method.sampler().draw(12, generator=generator.manual_seed(1))
    order = sorted(widths, reverse=True)
    expected = [
        oat_loss(twin, *batch, lams=lams, attack=attack, generator=generator, width_mult=width)
        for width in order
    ]
    for ours, theirs in zip(losses, expected, strict=True):
        assert torch.equal(ours, theirs)
    assert [kwargs["width_mult"] for _, kwargs in calls] == [w for w in order for _ in range(2)]
    for clean, adv in zip(calls[::2], calls[1::2], strict=True):
        assert torch.equal(clean[1]["lam_index"], lams.index)  # one λ a row at all widths
        assert torch.equal(adv[1]["lam_index"], lams.index[4:])
        assert torch.equal(clean[0], batch[0])


def test_every_width_makes_adversarial_images_of_its_own(
    batch: Batch, generator: torch.Generator, randomise: Randomise
) -> None:
    method, attack = oats_of(), Attack(0.1, 3)
    network = randomise(slim_of(method))
    lams = method.sampler().draw(12, generator=generator)
    adv = {}
    for width in method.widths:
        calls = calls_of(network)
        oat_loss(
            network,
            *batch,
            lams=lams,
            attack=attack,
            generator=generator.manual_seed(1),
            width_mult=width,
        )
        adv[width] = calls[-1][0]
    assert all((images - batch[0][4:]).abs().max() <= 0.1 + 1e-6 for images in adv.values())
    for width, other in ((0.5, 0.75), (0.75, 1.0), (0.5, 1.0)):
        assert not torch.allclose(adv[width], adv[other], rtol=0, atol=1e-3)


@pytest.mark.parametrize("width", [0.5, 1.0])
def test_attack_of_a_width_ascends_the_loss_of_that_width(
    width: float, batch: Batch, generator: torch.Generator, randomise: Randomise
) -> None:
    network = randomise(slim_of(oats_of()))
    attack, twin = Attack(0.1, 3), copy.deepcopy(network)
    calls = calls_of(network)
    oat_loss(
        network,
        *batch,
        lams=LAMS,
        attack=attack,
        generator=generator.manual_seed(1),
        width_mult=width,
    )
    assert twin.encoding is not None
    codes = twin.encoding.encode(LAMS.values)
    twin(batch[0], codes, lam_index=INDEX, num_zero_lam=4, width_mult=width)
    frozen = twin.eval()
    expected = perturb(
        lambda x: frozen(x, codes, lam_index=INDEX[4:], num_zero_lam=0, width_mult=width),
        cross_entropy_of(batch[1][4:]),
        batch[0][4:],
        attack,
        generator=generator.manual_seed(1),
    )
    # a gradient near 0 may change its sign by rounding
    assert ((calls[1][0] - expected).abs() < 1e-5).double().mean() > 0.995


def test_gradients_of_the_widths_add_up(
    batch: Batch, generator: torch.Generator, randomise: Randomise
) -> None:
    method, attack = oats_of(), Attack(0.1, 2)
    network = randomise(slim_of(method))
    twin = copy.deepcopy(network)
    parameters = list(twin.parameters())
    expected = [torch.zeros_like(p) for p in parameters]
    for rows in method.losses(twin, *batch, attack=attack, generator=generator.manual_seed(1)):
        for total, part in zip(
            expected,
            torch.autograd.grad(rows.mean(), parameters, materialize_grads=True),
            strict=True,
        ):
            total += part
    for rows in method.losses(network, *batch, attack=attack, generator=generator.manual_seed(1)):
        rows.mean().backward()
    for (key, parameter), total in zip(network.named_parameters(), expected, strict=True):
        assert parameter.grad is not None, key
        torch.testing.assert_close(parameter.grad, total, msg=key)
        assert total.abs().max() > 0, key


@pytest.mark.parametrize("name", ["resnet8", "wrn-10-1"])
@pytest.mark.parametrize("width", [0.5, 0.75, 1.0])
def test_training_at_one_width_leaves_the_statistics_of_the_others_alone(
    name: str, width: float, batch: Batch, generator: torch.Generator
) -> None:
    method = oats_of()
    network = slim_of(method, name)
    before = _state(network)
    place = method.widths.index(width)
    oat_loss(
        network, *batch, lams=LAMS, attack=Attack(0.1, 1), generator=generator, width_mult=width
    )
    for key, value in network.state_dict().items():
        if "running" in key:
            assert torch.equal(value, before[key]) == (f".bn.{place}." not in key), key
        elif "num_batches" not in key:
            assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("name", ["resnet8", "wrn-10-1"])
def test_statistics_and_losses_of_lambda_zero_ignore_all_other_rows_at_every_width(
    name: str, batch: Batch, generator: torch.Generator
) -> None:
    first = slim_of(oats_of(), name)
    second = copy.deepcopy(first)
    images, labels = batch
    others = torch.cat([images[:4], images[4:].flip(0, 2)])
    other_labels = torch.cat([labels[:4], labels[4:].flip(0)])
    attack = Attack(0.1, 1)
    for width in (1.0, 0.75, 0.5):
        left, right = (
            oat_loss(net, x, y, lams=LAMS, attack=attack, generator=generator, width_mult=width)
            for net, x, y in ((first, images, labels), (second, others, other_labels))
        )
        torch.testing.assert_close(left[:4], right[:4])
    theirs = second.state_dict()
    for key, value in first.state_dict().items():
        if ".clean.running" in key:
            torch.testing.assert_close(value, theirs[key], msg=key)
        elif ".adv.running" in key:
            assert not torch.allclose(value, theirs[key], rtol=1e-4, atol=1e-6), key


def test_oats_at_the_single_width_one_is_oat_bit_for_bit(
    batch: Batch, generator: torch.Generator
) -> None:
    runs = []
    for method in (
        Oat(lambda_choices=CHOICES, encoding_dim=4),
        oats_of(width_mults=(1.0,)),
        oats_of(width_mults=(1.0,), head_per_width=True),
    ):
        torch.manual_seed(3)
        network = slim_of(method)
        (loss,) = method.losses(
            network, *batch, attack=Attack(0.1, 2), generator=generator.manual_seed(1)
        )
        loss.mean().backward()
        gradients = [p.grad for p in network.parameters()]
        runs.append((loss, gradients, list(network.state_dict().values())))
    for loss, gradients, values in runs[1:]:
        assert torch.equal(loss, runs[0][0])
        for ours, theirs in zip(gradients, runs[0][1], strict=True):
            assert ours is not None
            assert theirs is not None
            assert torch.equal(ours, theirs)
        for value, other in zip(values, runs[0][2], strict=True):
            assert torch.equal(value, other)


def test_head_of_a_width_is_touched_by_that_width_only(
    batch: Batch, generator: torch.Generator, randomise: Randomise
) -> None:
    method = oats_of(head_per_width=True)
    network = randomise(slim_of(method))
    assert isinstance(network.head, HeadPerWidth)
    for i, width in enumerate(method.widths):
        network.zero_grad()
        oat_loss(
            network,
            *batch,
            lams=LAMS,
            attack=Attack(0.1, 1),
            generator=generator,
            width_mult=width,
        ).mean().backward()
        reached = [head.weight.grad is not None for head in network.head.heads]
        assert reached == [j == i for j in range(3)]
    network.eval()
    plain = fold(network, 0.3, 0.5)(batch[0])
    with torch.no_grad():
        for head in network.head.heads[1:]:
            head.weight.fill_(math.nan)
            head.bias.fill_(math.nan)
    assert torch.equal(fold(network, 0.3, 0.5)(batch[0]), plain)


@given(
    widths=st.lists(st.sampled_from([0.25, 0.5, 0.75, 1.0]), min_size=1, max_size=4, unique=True),
    heads=st.booleans(),
)
@settings(max_examples=8)
def test_any_set_of_widths_trains_what_its_widest_uses_and_nothing_else(
    widths: list[float], heads: bool
) -> None:
    method = oats_of(width_mults=tuple(widths), head_per_width=heads)
    torch.manual_seed(0)
    network = slim_of(method)
    source = torch.Generator().manual_seed(2)
    images = torch.rand(12, 3, 8, 8, generator=source)
    labels = torch.randint(5, (12,), generator=source)
    losses = method.losses(network, images, labels, attack=Attack(0.1, 1), generator=source)
    count = 0
    for loss in losses:
        loss.mean().backward()
        count += 1
    assert count == len(widths)
    for module in network.modules():
        if isinstance(module, SlimmableConv2d):
            rows = round(module.out_channels * max(widths))
            columns = round(module.in_channels * max(widths)) if module.slim_in else 3
            assert module.weight.grad is not None
            assert module.weight.grad[rows:].abs().sum() == 0
            assert module.weight.grad[:, columns:].abs().sum() == 0
            assert module.weight.grad[:rows, :columns].abs().max() > 0
    points = method.operating_points([0.0, 1.0])
    assert points == [(lam, w) for w in sorted(widths, reverse=True) for lam in (0.0, 1.0)]


@pytest.mark.parametrize("widths", [(), (0.0, 1.0), (1.5,), (-0.5,), (math.nan,), (0.5, 0.5)])
def test_widths_out_of_range_are_refused_by_name(widths: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"`width_mults` must"):
        Oats(width_mults=widths)
