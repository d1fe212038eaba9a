import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from baselines.pgd_at import PgdAt, pgd_at_loss
from oat.attacks import Attack
from oat.deploy import fold
from oat.lambdas import RowLams
from oat.losses import cross_entropy_of, oat_loss
from oat.method import Oat
from oat.models import ModelConfig, Network, build, flops, relative_flops
from oat.price import step_units

Batch = tuple[Tensor, Tensor]
Passes = Callable[[Network], list[int]]
Randomise = Callable[[Network], Network]


def _plain() -> Network:
    return build(
        ModelConfig("resnet8", 4),
        in_channels=3,
        num_classes=5,
        conditioning=PgdAt().conditioning(),
    )


def test_lambda_zero_is_plain_cross_entropy_and_calls_no_attack(
    batch: Batch, generator: torch.Generator, passes: Passes
) -> None:
    network = _plain()
    twin = copy.deepcopy(network)
    sizes, state = passes(network), generator.get_state()
    (loss,) = PgdAt(0.0).losses(network, *batch, attack=Attack(0.1), generator=generator)
    assert sizes == [12]
    assert torch.equal(generator.get_state(), state)
    expected = functional.cross_entropy(twin(batch[0]), batch[1], reduction="none")
    assert torch.equal(loss, expected)


def test_lambda_one_makes_no_clean_pass(
    batch: Batch, generator: torch.Generator, passes: Passes
) -> None:
    network = _plain()
    sizes = passes(network)
    inputs: list[Tensor] = []
    network.register_forward_pre_hook(lambda _m, args: inputs.append(args[0].detach()))
    twin = copy.deepcopy(network)
    (loss,) = PgdAt(1.0).losses(network, *batch, attack=Attack(0.1, 3), generator=generator)
    assert sizes == [12] * 4
    (images_adv,) = inputs
    torch.testing.assert_close(loss, cross_entropy_of(batch[1])(twin(images_adv)))


def test_loss_mixes_clean_and_adversarial_cross_entropy(
    batch: Batch, generator: torch.Generator, randomise: Randomise
) -> None:
    network = randomise(_plain())
    twin = copy.deepcopy(network)
    inputs: list[Tensor] = []
    network.register_forward_pre_hook(lambda _m, args: inputs.append(args[0].detach().clone()))
    loss = pgd_at_loss(network, *batch, lam=0.25, attack=Attack(0.1, 3), generator=generator)
    images, images_adv = inputs
    assert torch.equal(images, batch[0])
    assert images_adv.min() >= 0
    assert images_adv.max() <= 1
    assert 0 < (images_adv - images).abs().max() <= 0.1 + 1e-6
    row_loss = cross_entropy_of(batch[1])
    expected = 0.75 * row_loss(twin(images)) + 0.25 * row_loss(twin(images_adv))
    torch.testing.assert_close(loss, expected)


def test_attack_sees_the_network_in_eval_mode_and_raises_its_loss(
    batch: Batch, generator: torch.Generator, randomise: Randomise
) -> None:
    network = randomise(_plain())
    frozen = copy.deepcopy(network).eval()
    inputs: list[Tensor] = []
    network.register_forward_pre_hook(lambda _m, args: inputs.append(args[0].detach().clone()))
    pgd_at_loss(network, *batch, lam=1.0, attack=Attack(0.1, 10), generator=generator)
    row_loss = cross_entropy_of(batch[1])
    assert (row_loss(frozen(inputs[0])) > row_loss(frozen(batch[0]))).all()


def test_running_statistics_see_the_two_training_passes_only(
    batch: Batch, generator: torch.Generator
) -> None:
    network = _plain()
    pgd_at_loss(network, *batch, lam=0.5, attack=Attack(0.1, 5), generator=generator)
    assert network.training
    for key, value in network.state_dict().items():
        if key.endswith("num_batches_tracked"):
            assert value == 2, key


@pytest.mark.parametrize("lam", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("choices", [(), (1.0,)])
def test_oat_at_one_constant_lambda_equals_pgd_at(
    lam: float, choices: tuple[float, ...], batch: Batch, generator: torch.Generator
) -> None:
    choices = (lam, *choices)
    method = Oat(lambda_choices=choices, encoding_dim=4, dual_bn=False, film_init="identity")
    conditional = build(
        ModelConfig("resnet8", 4),
        in_channels=3,
        num_classes=5,
        conditioning=method.conditioning(),
    )
    plain = _plain()
    shared = conditional.state_dict()
    plain.load_state_dict({key: shared[key] for key in plain.state_dict()})
    attack = Attack(0.1, 3)
    ours = oat_loss(
        conditional,
        *batch,
        lams=RowLams(torch.tensor(choices), torch.zeros(12, dtype=torch.long), 0),
        attack=attack,
        generator=generator.manual_seed(1),
    )
    theirs = pgd_at_loss(plain, *batch, lam=lam, attack=attack, generator=generator.manual_seed(1))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    ours.mean().backward()
    theirs.mean().backward()
    gradients = dict(conditional.named_parameters())
    for key, parameter in plain.named_parameters():
        torch.testing.assert_close(gradients[key].grad, parameter.grad, rtol=1e-3, atol=1e-5)
    shared = conditional.state_dict()
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(shared[key], value, rtol=1e-4, atol=1e-5)


def test_cost_of_a_training_image() -> None:
    attack = Attack(steps=7)
    assert PgdAt(0.5).work(attack, 128)[1.0].units == 20  # 3 clean, 14 attack, 3 adversarial
    assert PgdAt(0.0).work(attack, 128)[1.0].units == 3
    assert PgdAt(1.0, 0.5).work(attack, 128)[0.5].units == 17


def test_dedicated_network_has_no_lambda() -> None:
    assert _plain().encoding is None
    assert PgdAt().operating_points([0.0, 0.5]) == [(None, 1.0)]


@pytest.mark.parametrize("lam", [-0.1, 1.1, float("nan")])
def test_lambda_outside_the_unit_interval_is_refused(lam: float) -> None:
    with pytest.raises(ValueError, match="`lam`"):
        PgdAt(lam)


def _narrow(method: PgdAt, name: str = "resnet8") -> Network:
    torch.manual_seed(3)
    return build(
        ModelConfig(name, 4), in_channels=3, num_classes=5, conditioning=method.conditioning()
    )


@pytest.mark.parametrize(
    ("name", "width"), [("resnet8", 0.5), ("resnet8", 0.75), ("wrn-10-2", 0.5)]
)
def test_network_at_a_width_is_a_plain_one_with_that_share_of_the_channels(
    name: str, width: float, batch: Batch, generator: torch.Generator
) -> None:
    method = PgdAt(0.5, width)
    network = _narrow(method, name)
    torch.manual_seed(3)
    plain = build(ModelConfig(name, round(4 * width)), in_channels=3, num_classes=5)
    for (key, value), (other, expected) in zip(
        network.state_dict().items(), plain.state_dict().items(), strict=True
    ):
        assert key == other
        assert torch.equal(value, expected), key
    losses = [
        pgd_at_loss(net, *batch, lam=0.5, attack=Attack(0.1, 2), generator=generator.manual_seed(1))
        for net in (network, plain)
    ]
    assert torch.equal(losses[0], losses[1])
    folded = fold(network, *method.operating_points([0.0])[0])
    assert flops(folded, (3, 8, 8)) == flops(plain, (3, 8, 8))


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("width", [0.5, 1.0])
def test_cost_is_that_of_the_passes_made_by_the_operations_of_the_width(
    lam: float, width: float, batch: Batch, generator: torch.Generator, passes: Passes
) -> None:
    method, attack, model = PgdAt(lam, width), Attack(0.1, 3), ModelConfig("resnet8", 4)
    network = _narrow(method)
    sizes = passes(network)
    trained: list[int] = []
    network.register_forward_pre_hook(lambda _m, args: trained.append(len(args[0])))
    list(method.losses(network, *batch, attack=attack, generator=generator))
    units = (3 * sum(trained) + 2 * (sum(sizes) - sum(trained))) / 12
    assert method.work(attack, 12)[width].units == units
    cost = step_units(method, attack, 12, model, (3, 8, 8))
    assert cost == pytest.approx(units * relative_flops(model, width, (3, 8, 8)))
    assert (cost < units) == (width < 1)


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_label_smoothing_is_torchs_and_the_attack_has_hard_labels(
    lam: float, batch: Batch, generator: torch.Generator, randomise: Randomise
) -> None:
    start = randomise(_plain())
    crafted = []
    for smoothing in (0.0, 0.4):
        network, twin = copy.deepcopy(start), copy.deepcopy(start)
        inputs: list[Tensor] = []
        network.register_forward_pre_hook(lambda _m, args, to=inputs: to.append(args[0].clone()))
        loss = pgd_at_loss(
            network,
            *batch,
            lam=lam,
            attack=Attack(0.1, 3),
            generator=generator.manual_seed(1),
            label_smoothing=smoothing,
        )
        rows = [
            functional.cross_entropy(
                twin(images), batch[1], reduction="none", label_smoothing=smoothing
            )
            for images in inputs
        ]
        expected = rows[0] if len(rows) == 1 else (1 - lam) * rows[0] + lam * rows[1]
        torch.testing.assert_close(loss, expected)
        crafted.append(inputs[-1])
    assert torch.equal(crafted[0], crafted[1])


@pytest.mark.parametrize("width", [0.0, -0.5, 1.5, float("nan"), float("inf")])
def test_width_outside_the_unit_interval_is_refused(width: float) -> None:
    with pytest.raises(ValueError, match="`width_mult`"):
        PgdAt(1.0, width)


def test_width_that_leaves_no_whole_channel_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`width_mult` 0\.3 of 4 channels"):
        _narrow(PgdAt(1.0, 0.3))
