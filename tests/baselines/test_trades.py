import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence
from torch.nn import functional

from baselines.trades import Trades, kl_rows, trades_attack, trades_loss
from oat.ascent import perturb
from oat.attacks import Attack
from oat.losses import cross_entropy_of
from oat.models import ModelConfig, Network, build, relative_flops
from oat.price import step_units

Batch = tuple[Tensor, Tensor]
Passes = Callable[[Network], list[int]]
Randomise = Callable[[Network], Network]


def _plain() -> Network:
    return build(
        ModelConfig("resnet8", 4),
        in_channels=3,
        num_classes=5,
        conditioning=Trades().conditioning(),
    )


def test_kl_is_that_of_torch_distributions() -> None:
    p, q = torch.randn(7, 5).log_softmax(1), torch.randn(7, 5).log_softmax(1)
    expected = kl_divergence(Categorical(logits=p), Categorical(logits=q))
    torch.testing.assert_close(kl_rows(p, q), expected)
    assert not torch.allclose(kl_rows(p, q), kl_rows(q, p))


def test_kl_is_zero_at_equal_inputs() -> None:
    p = torch.randn(7, 5).log_softmax(1)
    assert torch.equal(kl_rows(p, p), torch.zeros(7))


def test_beta_zero_is_cross_entropy_and_calls_no_attack(
    batch: Batch, generator: torch.Generator, passes: Passes
) -> None:
    network = _plain()
    twin = copy.deepcopy(network)
    sizes, state = passes(network), generator.get_state()
    (loss,) = Trades(0.0).losses(network, *batch, attack=Attack(0.1), generator=generator)
    assert sizes == [12]
    assert torch.equal(generator.get_state(), state)
    expected = functional.cross_entropy(twin(batch[0]), batch[1], reduction="none")
    assert torch.equal(loss, expected)


def test_loss_adds_beta_times_the_kl_from_the_clean_to_the_attacked_output(
    batch: Batch, generator: torch.Generator, randomise: Randomise
) -> None:
    network = randomise(_plain())
    twin = copy.deepcopy(network)
    inputs: list[Tensor] = []
    network.register_forward_pre_hook(lambda _m, args: inputs.append(args[0].detach().clone()))
    loss = trades_loss(network, *batch, beta=3.0, attack=Attack(0.1, 3), generator=generator)
    images, images_adv = inputs
    assert torch.equal(images, batch[0])
    assert images_adv.min() >= 0
    assert images_adv.max() <= 1
    assert 0 < (images_adv - images).abs().max() <= 0.1 + 1e-6
    clean, adv = twin(images), twin(images_adv)
    kl = kl_divergence(Categorical(logits=clean), Categorical(logits=adv))
    expected = cross_entropy_of(batch[1])(clean) + 3.0 * kl
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


def test_gradient_flows_through_both_sides_of_the_kl(
    batch: Batch, generator: torch.Generator, randomise: Randomise
) -> None:
    network = randomise(_plain())
    twin = copy.deepcopy(network)
    inputs: list[Tensor] = []
    network.register_forward_pre_hook(lambda _m, args: inputs.append(args[0].detach().clone()))
    trades_loss(
        network, *batch, beta=3.0, attack=Attack(0.1, 3), generator=generator
    ).mean().backward()
    clean, adv = twin(inputs[0]), twin(inputs[1])
    kl = kl_divergence(Categorical(logits=clean), Categorical(logits=adv))
    (cross_entropy_of(batch[1])(clean) + 3.0 * kl).mean().backward()
    gradients = dict(network.named_parameters())
    for key, parameter in twin.named_parameters():
        torch.testing.assert_close(gradients[key].grad, parameter.grad, rtol=1e-3, atol=1e-4)


def test_attack_raises_the_kl_of_the_network_in_eval_mode(
    batch: Batch, generator: torch.Generator, randomise: Randomise
) -> None:
    network = randomise(_plain())
    frozen = copy.deepcopy(network).eval()
    inputs: list[Tensor] = []
    network.register_forward_pre_hook(lambda _m, args: inputs.append(args[0].detach().clone()))
    trades_loss(network, *batch, beta=1.0, attack=Attack(0.1, 10), generator=generator)
    corner = batch[0] + 0.1 * torch.randn(12, 3, 8, 8, generator=generator).sign()

    def kl(images: Tensor) -> Tensor:
        p, q = Categorical(logits=frozen(batch[0])), Categorical(logits=frozen(images))
        return kl_divergence(p, q)

    assert (kl(inputs[1]) > kl(corner.clamp(0, 1))).all()


def test_the_attack_of_the_study_has_its_start_and_its_steps(
    batch: Batch, generator: torch.Generator, randomise: Randomise
) -> None:
    network = randomise(_plain())
    frozen = copy.deepcopy(network)
    frozen(batch[0])  # the clean pass feeds the batch norms before the attack looks at them
    frozen = frozen.eval().requires_grad_(False)
    inputs: list[Tensor] = []
    network.register_forward_pre_hook(lambda _m, args: inputs.append(args[0].detach().clone()))
    attack, state = Attack(0.1, 3), generator.get_state()
    given = Trades(3.0, attack="study").losses(network, *batch, attack=attack, generator=generator)
    assert len(list(given)) == 1
    generator.set_state(state)
    log_p = functional.log_softmax(frozen(batch[0]), dim=1)

    def kl(logits: Tensor) -> Tensor:
        return kl_rows(log_p, functional.log_softmax(logits, dim=1))

    expected = perturb(frozen, kl, batch[0], attack, generator=generator)
    torch.testing.assert_close(inputs[1], expected, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="`attack` must be 'own' or 'study', got 'mine'"):
        Trades(1.0, attack="mine")  # type: ignore[arg-type]


def test_clean_probabilities_are_computed_once_for_the_whole_attack(
    batch: Batch, generator: torch.Generator, passes: Passes
) -> None:
    network = _plain()
    sizes = passes(network)
    trades_loss(network, *batch, beta=1.0, attack=Attack(0.1, 3), generator=generator)
    assert sizes == [12] * (1 + 1 + 3 + 1)
    assert network.training
    for key, value in network.state_dict().items():
        if key.endswith("num_batches_tracked"):
            assert value == 2, key


def test_at_radius_zero_the_loss_is_cross_entropy(
    batch: Batch, generator: torch.Generator, randomise: Randomise
) -> None:
    network = randomise(_plain())
    twin = copy.deepcopy(network)
    loss = trades_loss(network, *batch, beta=6.0, attack=Attack(0.0, 2), generator=generator)
    torch.testing.assert_close(loss, cross_entropy_of(batch[1])(twin(batch[0])))


def test_cost_of_a_training_image() -> None:
    attack = Attack(steps=10)
    assert Trades(0.0).work(attack, 128)[1.0].units == 3
    assert Trades(6.0).work(attack, 128)[1.0].units == 3 + 1 + 20 + 3


def test_dedicated_network_has_no_lambda() -> None:
    assert _plain().encoding is None
    assert Trades().operating_points([0.0, 0.5]) == [(None, 1.0)]


@pytest.mark.parametrize("beta", [-0.1, float("nan"), float("inf")])
def test_beta_that_is_no_weight_is_refused(beta: float) -> None:
    with pytest.raises(ValueError, match="`beta`"):
        Trades(beta)


def _narrow(method: Trades, name: str = "resnet8") -> Network:
    torch.manual_seed(3)
    return build(
        ModelConfig(name, 4), in_channels=3, num_classes=5, conditioning=method.conditioning()
    )


@pytest.mark.parametrize(("name", "width"), [("resnet8", 0.5), ("wrn-10-2", 0.75)])
def test_network_at_a_width_is_a_plain_one_with_that_share_of_the_channels(
    name: str, width: float, batch: Batch, generator: torch.Generator
) -> None:
    network = _narrow(Trades(6.0, width), name)
    torch.manual_seed(3)
    plain = build(ModelConfig(name, round(4 * width)), in_channels=3, num_classes=5)
    for value, expected in zip(
        network.state_dict().values(), plain.state_dict().values(), strict=True
    ):
        assert torch.equal(value, expected)
    losses = [
        trades_loss(
            net, *batch, beta=6.0, attack=Attack(0.1, 2), generator=generator.manual_seed(1)
        )
        for net in (network, plain)
    ]
    assert torch.equal(losses[0], losses[1])


@pytest.mark.parametrize("beta", [0.0, 6.0])
@pytest.mark.parametrize("width", [0.5, 1.0])
def test_cost_is_that_of_the_passes_made_by_the_operations_of_the_width(
    beta: float, width: float, batch: Batch, generator: torch.Generator, passes: Passes
) -> None:
    method, attack, model = Trades(beta, width), Attack(0.1, 3), ModelConfig("resnet8", 4)
    network = _narrow(method)
    sizes = passes(network)
    trained: list[int] = []
    network.register_forward_pre_hook(lambda _m, args: trained.append(len(args[0])))
    list(method.losses(network, *batch, attack=attack, generator=generator))
    clean = 12 if beta else 0  # the frozen clean probabilities take a forward pass alone
    attacked = sum(sizes) - sum(trained) - clean
    units = (3 * sum(trained) + clean + 2 * attacked) / 12
    assert method.work(attack, 12)[width].units == units
    cost = step_units(method, attack, 12, model, (3, 8, 8))
    assert cost == pytest.approx(units * relative_flops(model, width, (3, 8, 8)))


def test_label_smoothing_is_torchs_and_reaches_neither_the_attack_nor_the_kl(
    batch: Batch, generator: torch.Generator, randomise: Randomise
) -> None:
    start = randomise(_plain())
    runs = []
    for smoothing in (0.0, 0.4):
        network = copy.deepcopy(start)
        inputs: list[Tensor] = []
        network.register_forward_pre_hook(lambda _m, args, to=inputs: to.append(args[0].clone()))
        loss = trades_loss(
            network,
            *batch,
            beta=3.0,
            attack=Attack(0.1, 3),
            generator=generator.manual_seed(1),
            label_smoothing=smoothing,
        )
        runs.append((loss, inputs[1]))
    assert torch.equal(runs[0][1], runs[1][1])
    logits = copy.deepcopy(start)(batch[0])
    hard, soft = (
        functional.cross_entropy(logits, batch[1], reduction="none", label_smoothing=smoothing)
        for smoothing in (0.0, 0.4)
    )
    torch.testing.assert_close(runs[1][0] - runs[0][0], soft - hard, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 7, 10])
@pytest.mark.parametrize("eps", [0.0, 1e-3, 0.031, 0.9])
def test_inner_attack_reaches_as_far_as_the_published_one_but_crosses_the_ball_once_a_step_at_most(
    steps: int, eps: float
) -> None:
    ours = trades_attack(Attack(eps=eps, steps=steps))
    assert (ours.eps, ours.steps) == (eps, steps)
    if eps:
        assert ours.step == pytest.approx(min(0.07 / 0.031 * eps / steps, 2 * eps))
    stated = Attack(eps=0.1, steps=steps, step_size=0.05)
    assert trades_attack(stated) == stated


@pytest.mark.parametrize("width", [0.0, -0.5, 1.5, float("nan")])
def test_width_outside_the_unit_interval_is_refused(width: float) -> None:
    with pytest.raises(ValueError, match="`width_mult`"):
        Trades(6.0, width)
