import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from oat.attacks import Attack, perturb
from oat.deploy import condition, specialize
from oat.lambdas import RowLams
from oat.method import Oat, cross_entropy_of, oat_loss
from oat.models import ModelConfig, Network, build

Batch = tuple[Tensor, Tensor]
Passes = Callable[[Network], list[int]]
Randomise = Callable[[Network], Network]
CHOICES = (0.0, 0.3, 1.0)
INDEX = torch.tensor([0, 0, 0, 0, 1, 2, 1, 2, 2, 1, 1, 2])  # a third of twelve rows at λ = 0
LAMS = RowLams(torch.tensor(CHOICES), INDEX, 4)


def _network(method: Oat) -> Network:
    return build(
        ModelConfig("resnet8", 4),
        in_channels=3,
        num_classes=5,
        conditioning=method.conditioning(),
    )


def test_cross_entropy_is_torchs_row_by_row_in_single_precision() -> None:
    logits, labels = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    rows = cross_entropy_of(labels)(logits.bfloat16())
    assert rows.dtype == torch.float32
    for i in range(6):
        one = functional.cross_entropy(logits.bfloat16()[i : i + 1].float(), labels[i : i + 1])
        torch.testing.assert_close(rows[i], one)


def test_lambda_zero_alone_is_plain_cross_entropy_and_calls_no_attack(
    batch: Batch, generator: torch.Generator, passes: Passes
) -> None:
    method = Oat(lambda_choices=(0.0,), encoding="none")
    network = _network(method)
    twin = copy.deepcopy(network)
    sizes, state = passes(network), generator.get_state()
    (loss,) = method.losses(network, *batch, attack=Attack(0.1), generator=generator)
    assert sizes == [12]
    assert torch.equal(generator.get_state(), state)
    logits = twin(batch[0], torch.zeros(1, 1), num_zero_lam=12)
    assert torch.equal(loss, functional.cross_entropy(logits, batch[1], reduction="none"))


def test_attack_runs_on_the_rows_with_lambda_above_zero_only(
    batch: Batch, generator: torch.Generator, passes: Passes
) -> None:
    method = Oat(lambda_choices=CHOICES, encoding_dim=4)
    network = _network(method)
    sizes = passes(network)
    list(method.losses(network, *batch, attack=Attack(0.1, steps=3), generator=generator))
    assert sizes == [12, 8, 8, 8, 8]


def test_rows_with_lambda_zero_cost_their_own_cross_entropy_whatever_the_others_are(
    batch: Batch, generator: torch.Generator, randomise: Randomise
) -> None:
    network = randomise(_network(Oat(lambda_choices=CHOICES, encoding_dim=4)))
    twin = copy.deepcopy(network)
    loss = oat_loss(network, *batch, lams=LAMS, attack=Attack(0.1, 2), generator=generator)
    assert twin.encoding is not None
    logits = twin(batch[0][:4], twin.encoding(0.0), num_zero_lam=4)
    torch.testing.assert_close(loss[:4], cross_entropy_of(batch[1][:4])(logits))


@pytest.mark.parametrize("dual_bn", [True, False])
def test_loss_mixes_clean_and_adversarial_rows_by_their_own_lambda(
    dual_bn: bool, batch: Batch, generator: torch.Generator, randomise: Randomise
) -> None:
    network = randomise(_network(Oat(lambda_choices=CHOICES, encoding_dim=4, dual_bn=dual_bn)))
    twin = copy.deepcopy(network)
    inputs: list[Tensor] = []
    network.register_forward_pre_hook(lambda _m, args: inputs.append(args[0].detach().clone()))
    loss = oat_loss(network, *batch, lams=LAMS, attack=Attack(0.1, 2), generator=generator)
    clean_images, images_adv = inputs
    assert torch.equal(clean_images, batch[0])
    assert images_adv.min() >= 0
    assert images_adv.max() <= 1
    assert 0 < (images_adv - batch[0][4:]).abs().max() <= 0.1 + 1e-6
    assert twin.encoding is not None
    codes, lam = twin.encoding.table[INDEX], torch.tensor(CHOICES)[INDEX]
    clean = cross_entropy_of(batch[1])(twin(batch[0], codes, num_zero_lam=4))
    adv = cross_entropy_of(batch[1][4:])(twin(images_adv, codes[4:], num_zero_lam=0))
    expected = (1 - lam) * clean + lam * torch.cat([torch.zeros(4), adv])
    torch.testing.assert_close(loss, expected)


def test_at_radius_zero_every_row_costs_its_clean_cross_entropy(
    batch: Batch, generator: torch.Generator, randomise: Randomise
) -> None:
    network = randomise(_network(Oat(lambda_choices=CHOICES, encoding_dim=4)))
    twin = copy.deepcopy(network)
    loss = oat_loss(network, *batch, lams=LAMS, attack=Attack(0.0, 1), generator=generator)
    assert twin.encoding is not None
    logits = twin(batch[0], twin.encoding.table, lam_index=INDEX, num_zero_lam=4)
    torch.testing.assert_close(loss, cross_entropy_of(batch[1])(logits))


def test_attack_of_a_row_is_conditioned_on_its_own_lambda(
    batch: Batch, generator: torch.Generator, randomise: Randomise
) -> None:
    choices = (0.3, 1.0)
    network = randomise(_network(Oat(lambda_choices=choices, encoding_dim=4)))
    attack, index = Attack(0.1, 3), torch.tensor([0, 1, 1, 0, 0, 0, 1, 1, 0, 1, 0, 0])
    twin = copy.deepcopy(network)
    assert twin.encoding is not None
    # the attack comes after the clean pass and sees the statistics that this has moved
    twin(batch[0], twin.encoding.table[index], num_zero_lam=0)
    expected = [
        perturb(
            specialize(twin, condition(twin, lam)),
            cross_entropy_of(batch[1]),
            batch[0],
            attack,
            generator=generator.manual_seed(1),
        )
        for lam in choices
    ]
    inputs: list[Tensor] = []
    network.register_forward_pre_hook(lambda _m, args: inputs.append(args[0].detach().clone()))
    oat_loss(
        network,
        *batch,
        lams=RowLams(torch.tensor(choices), index, 0),
        attack=attack,
        generator=generator.manual_seed(1),
    )
    for i, j in enumerate(index.tolist()):
        torch.testing.assert_close(inputs[1][i], expected[j][i], rtol=0, atol=1e-5)
        assert not torch.allclose(inputs[1][i], expected[1 - j][i], rtol=0, atol=1e-3)


def test_clean_and_adversarial_images_of_other_rows_share_the_adversarial_statistics(
    batch: Batch, generator: torch.Generator
) -> None:
    network = _network(Oat(lambda_choices=CHOICES, encoding_dim=4))
    oat_loss(network, *batch, lams=LAMS, attack=Attack(0.1, 2), generator=generator)
    for key, value in network.state_dict().items():
        if key.endswith("num_batches_tracked"):
            # a shortcut's norm is a pair as well, though it has no FiLM
            assert value == (1 if ".clean." in key else 2), key


def test_gradient_of_a_step_reaches_every_parameter(
    batch: Batch, generator: torch.Generator, randomise: Randomise
) -> None:
    method = Oat(lambda_choices=CHOICES, encoding_dim=4)
    network = randomise(_network(method))
    for loss in method.losses(network, *batch, attack=Attack(0.1, 2), generator=generator):
        loss.mean().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().max() > 0, key


def test_published_cost_of_a_training_image() -> None:
    assert Oat().units(Attack(steps=7), 128)[1.0] == pytest.approx(17.1, abs=0.05)


def test_network_is_asked_for_what_the_method_says() -> None:
    method = Oat(lambda_choices=CHOICES, encoding="dct", encoding_dim=16, dual_bn=False)
    asked = method.conditioning()
    assert asked.lambda_choices == CHOICES
    assert (asked.encoding, asked.encoding_dim) == ("dct", 16)
    assert not asked.dual_bn
    assert asked.film_init == method.film_init
    assert not asked.folded
    assert method.operating_points([0.0, 0.3]) == [(0.0, 1.0), (0.3, 1.0)]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lambda_choices", ()),
        ("lambda_choices", (0.0, 2.0)),
        ("encoding", "fourier"),
        ("encoding_dim", 5),
    ],
)
def test_oat_refuses_values_out_of_range_by_name(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"`{key}`"):
        Oat(**{key: value})  # type: ignore[arg-type]
