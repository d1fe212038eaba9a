import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from oat.ascent import ascend, ball, gradient, perturb, row_loss, start_point
from oat.attacks import Attack, Loss, Start
from oat.losses import cross_entropy_of


def _linear(weight: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda images: images.flatten(1) @ weight.T


def _first(logits: Tensor) -> Tensor:
    return logits[:, 0]


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 7), (3, 8, 8)])
@pytest.mark.parametrize("start", ["uniform", "gaussian", "none"])
def test_pgd_reaches_the_optimum_on_a_linear_model(
    shape: tuple[int, int, int], start: Start, generator: torch.Generator
) -> None:
    eps = 0.1
    images = torch.rand(6, *shape)
    weight = torch.randn(1, images[0].numel())
    optimum = (images + eps * weight.sign().view(1, *shape)).clamp(0, 1)
    attack = Attack(eps=eps, steps=5, step_size=0.05)  # crosses the whole ball from any start
    found = perturb(_linear(weight), _first, images, attack, generator=generator, start=start)
    torch.testing.assert_close(found, optimum, rtol=0, atol=1e-6)


def test_pgd_on_cross_entropy_moves_against_the_margin(generator: torch.Generator) -> None:
    eps = 0.1
    images, labels = torch.rand(8, 1, 4, 4), torch.tensor([0, 1] * 4)
    weight = torch.randn(2, 16)
    toward_one = (weight[1] - weight[0]).sign().view(1, 1, 4, 4)
    direction = torch.where(labels.view(-1, 1, 1, 1) == 0, toward_one, -toward_one)
    found = perturb(
        _linear(weight), cross_entropy_of(labels), images, Attack(eps=eps, steps=4, step_size=0.06),
        generator=generator,
    )  # fmt: skip
    torch.testing.assert_close(found, (images + eps * direction).clamp(0, 1), rtol=0, atol=1e-6)


def test_automatic_step_is_the_published_rule() -> None:
    assert Attack(eps=8 / 255, steps=7).step == pytest.approx(10 / 255 / 7)
    assert Attack(eps=32 / 255, steps=10).step == pytest.approx(36 / 255 / 10)
    assert Attack(eps=0.1, step_size=0.03).step == 0.03


def test_gradient_of_a_linear_loss_is_its_weight() -> None:
    images, weight = torch.rand(3, 2, 4, 4), torch.randn(1, 32)
    grad, logits = gradient(_linear(weight), _first, images)
    torch.testing.assert_close(grad, weight.view(1, 2, 4, 4).expand(3, 2, 4, 4), rtol=0, atol=0)
    torch.testing.assert_close(logits, _linear(weight)(images), rtol=0, atol=0)
    assert not logits.requires_grad


@given(
    eps=st.floats(0, 1),
    steps=st.integers(1, 4),
    start=st.sampled_from(["uniform", "gaussian", "none"]),
    seed=st.integers(0, 2**31),
)
def test_perturbed_images_stay_in_ball_and_box(
    eps: float, steps: int, start: Start, seed: int
) -> None:
    source = torch.Generator().manual_seed(seed)
    images = torch.rand(4, 1, 3, 3, generator=source).mul(1.5).sub(0.25).clamp(0, 1)
    weight = torch.randn(3, 9, generator=source)
    loss = cross_entropy_of(torch.tensor([0, 1, 2, 0]))
    found = perturb(
        _linear(weight), loss, images, Attack(eps=eps, steps=steps), generator=source, start=start
    )
    assert found.min() >= 0
    assert found.max() <= 1
    assert (found - images).abs().max() <= eps + 1e-6
    assert not found.requires_grad


def test_ball_is_cut_with_the_unit_box_and_leaves_the_images_alone() -> None:
    images = torch.tensor([0.0, 0.25, 1.0]).view(1, 1, 1, 3)
    before = images.clone()
    lower, upper = ball(images, 0.5)
    assert lower.flatten().tolist() == [0.0, 0.0, 0.5]
    assert upper.flatten().tolist() == [0.5, 0.75, 1.0]
    assert torch.equal(images, before)


def test_radius_zero_returns_the_images(generator: torch.Generator) -> None:
    images, weight = torch.rand(4, 1, 3, 3), torch.randn(1, 9)
    found = perturb(_linear(weight), _first, images, Attack(eps=0.0), generator=generator)
    assert torch.equal(found, images)


def test_random_starts_follow_their_distributions(generator: torch.Generator) -> None:
    images = torch.full((50, 1, 20, 20), 0.5)
    uniform = start_point(images, 0.1, "uniform", generator) - images
    assert uniform.abs().max() <= 0.1 + 1e-6
    assert uniform.std().item() == pytest.approx(0.2 / 12**0.5, rel=0.02)
    gaussian = start_point(images, 0.1, "gaussian", generator) - images
    assert gaussian.std().item() == pytest.approx(0.001, rel=0.02)
    assert torch.equal(start_point(images, 0.1, "none", generator), images)


def test_same_generator_state_gives_the_same_images() -> None:
    images, weight = torch.rand(4, 1, 3, 3), torch.randn(2, 9)
    loss = cross_entropy_of(torch.tensor([0, 1, 0, 1]))
    attack = Attack(eps=0.2, steps=1)

    def run(seed: int) -> Tensor:
        source = torch.Generator().manual_seed(seed)
        return perturb(_linear(weight), loss, images, attack, generator=source)

    assert torch.equal(run(5), run(5))
    assert not torch.equal(run(5), run(6))


def test_a_batch_is_attacked_as_its_images_one_by_one(generator: torch.Generator) -> None:
    images, labels = torch.rand(5, 1, 3, 3), torch.tensor([0, 1, 2, 1, 0])
    hidden, out = torch.randn(6, 9), torch.randn(3, 6)

    def logits_fn(x: Tensor) -> Tensor:
        return (x.flatten(1) @ hidden.T).tanh() @ out.T

    def run(rows: slice) -> Tensor:
        loss = cross_entropy_of(labels[rows])
        return perturb(
            logits_fn, loss, images[rows], Attack(0.2, 5), generator=generator, start="none"
        )

    one_by_one = torch.cat([run(slice(i, i + 1)) for i in range(5)])
    torch.testing.assert_close(run(slice(None)), one_by_one, rtol=0, atol=1e-6)


def _network() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(9, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2))


@pytest.mark.parametrize("training", [True, False])
def test_attack_leaves_parameter_gradients_and_train_mode_untouched(
    training: bool, generator: torch.Generator
) -> None:
    network = _network().train(training)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    loss = cross_entropy_of(torch.tensor([0, 1]))
    perturb(network, loss, torch.rand(2, 1, 3, 3), Attack(0.2, 2), generator=generator)
    assert all(module.training is training for module in network.modules())
    for key, parameter in network.named_parameters():
        assert parameter.requires_grad
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, torch.ones_like(parameter))
        assert torch.equal(parameter, before[key])


def test_attack_that_fails_leaves_the_network_and_autograd_as_they_were(
    generator: torch.Generator,
) -> None:
    network = _network().train()
    calls = 0

    def broken(logits: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise RuntimeError("the second step fails")
        return logits[:, 0]

    images = torch.rand(2, 1, 3, 3)
    with torch.no_grad():
        with pytest.raises(RuntimeError, match="second step"):
            perturb(network, broken, images, Attack(0.2, 3), generator=generator)
        assert not torch.is_grad_enabled()
    assert all(module.training for module in network.modules())
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    assert not images.requires_grad


def test_attack_runs_where_gradients_are_off(generator: torch.Generator) -> None:
    images, weight = torch.full((2, 1, 3, 3), 0.5), torch.randn(1, 9)
    attack = Attack(eps=0.1, steps=4, step_size=0.05)
    with torch.no_grad():
        found = perturb(_linear(weight), _first, images, attack, generator=generator)
    expected = images + 0.1 * weight.sign().view(1, 1, 3, 3)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("eps", 8.0),
        ("eps", -0.1),
        ("eps", float("nan")),
        ("steps", 0),
        ("step_size", 0.0),
        ("step_size", float("nan")),
    ],
)
def test_attack_refuses_values_out_of_range_by_name(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"`{key}`"):
        Attack(**{key: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("loss", ["ce", "cw", "dlr"])
def test_losses_equal_the_formulas_by_hand(loss: Loss) -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, -1.0], [1.0, 3.0, 2.0, -1.0], [0.5, 0.0, 0.5, -4.0]])
    labels = torch.tensor([1, 3, 0])
    by_hand = {
        "ce": [
            math.log(math.e + math.e**3 + math.e**2 + 1 / math.e) - 3,
            math.log(math.e + math.e**3 + math.e**2 + 1 / math.e) + 1,
            math.log(2 * math.e**0.5 + 1 + math.e**-4) - 0.5,
        ],
        "cw": [2 - 3, 3 + 1, 0.5 - 0.5],
        "dlr": [(2 - 3) / (3 - 1), (3 + 1) / (3 - 1), 0],
    }[loss]
    found = row_loss(loss, labels)(logits)
    assert found.shape == (3,)
    torch.testing.assert_close(found, torch.tensor(by_hand, dtype=torch.float32))


@pytest.mark.parametrize("loss", ["cw", "dlr"])
def test_a_margin_is_positive_exactly_where_an_image_is_misclassified(loss: Loss) -> None:
    logits, labels = torch.randn(500, 5), torch.randint(5, (500,))
    wrong = logits.argmax(dim=1) != labels
    assert torch.equal(row_loss(loss, labels)(logits) > 0, wrong)


@pytest.mark.parametrize(("scale", "shift"), [(3.0, 0.0), (1e4, 0.0), (1.0, -7.0), (0.2, 5.0)])
def test_dlr_changes_neither_with_the_scale_of_logits_nor_with_their_shift(
    scale: float, shift: float
) -> None:
    logits, labels = torch.randn(200, 5).double(), torch.randint(5, (200,))
    loss = row_loss("dlr", labels)
    torch.testing.assert_close(loss(scale * logits + shift), loss(logits), rtol=1e-4, atol=1e-4)
    margin = row_loss("cw", labels)
    torch.testing.assert_close(
        margin(scale * logits + shift), scale * margin(logits), rtol=1e-3, atol=1e-4
    )


def test_gradients_of_the_losses_by_the_logits_are_known() -> None:
    logits, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    true = functional.one_hot(labels, 4).float()
    best_other = functional.one_hot((logits - 1e9 * true).argmax(dim=1), 4).float()
    first, _, third = (functional.one_hot(i, 4).float() for i in logits.topk(3).indices.T)
    spread = logits.topk(3).values
    spread = (spread[:, 0] - spread[:, 2])[:, None]
    margin = ((best_other - true) * logits).sum(dim=1, keepdim=True)
    expected = {
        "ce": logits.softmax(dim=1) - true,
        "cw": best_other - true,
        "dlr": (best_other - true) / spread - margin * (first - third) / spread**2,
    }
    losses: tuple[Loss, ...] = ("ce", "cw", "dlr")
    for loss in losses:
        found, _ = gradient(lambda x: x, row_loss(loss, labels), logits)
        torch.testing.assert_close(found, expected[loss], rtol=1e-4, atol=1e-5)


def test_saturated_logits_have_no_cross_entropy_gradient_but_one_of_the_margins() -> None:
    logits = torch.tensor([[2e5, 1e4, 0.0]])
    label = torch.tensor([0])
    assert not gradient(lambda x: x, row_loss("ce", label), logits)[0].any()
    assert gradient(lambda x: x, row_loss("cw", label), logits)[0].tolist() == [[-1, 1, 0]]
    assert gradient(lambda x: x, row_loss("dlr", label), logits)[0].any()


def test_equal_logits_leave_dlr_a_number() -> None:
    grad, _ = gradient(lambda x: x, row_loss("dlr", torch.tensor([0])), torch.ones(1, 3))
    assert grad.isfinite().all()


@pytest.mark.parametrize("loss", ["ce", "cw", "dlr"])
def test_losses_are_taken_in_float32_whatever_the_logits_are(loss: Loss) -> None:
    logits = torch.randn(4, 5).bfloat16()
    found = row_loss(loss, torch.tensor([0, 1, 2, 3]))(logits)
    assert found.dtype == torch.float32


def test_gradient_of_a_batch_is_that_of_each_row() -> None:
    weight, images, labels = (
        torch.randn(3, 9),
        torch.rand(5, 1, 3, 3),
        torch.tensor([0, 1, 2, 1, 0]),
    )
    loss = row_loss("ce", labels)
    chance = _linear(weight)(images).softmax(dim=1) - functional.one_hot(labels, 3)
    found, logits = gradient(_linear(weight), loss, images)
    torch.testing.assert_close(found, (chance @ weight).view_as(images))
    assert (logits.dtype, images.requires_grad) == (torch.float32, False)


def test_ascent_begins_at_the_start_it_is_given_clipped_to_the_bounds() -> None:
    images, weight = torch.full((1, 1, 1, 3), 0.5), torch.tensor([[1.0, -1.0, 0.0]])
    start = torch.tensor([0.55, 0.9, 0.42]).view_as(images)
    bounds = ball(images, 0.1)
    none = ascend(_linear(weight), _first, start, bounds, steps=0, step=0.02)
    torch.testing.assert_close(none.flatten(), torch.tensor([0.55, 0.6, 0.42]))
    two = ascend(_linear(weight), _first, start, bounds, steps=2, step=0.02)
    torch.testing.assert_close(two.flatten(), torch.tensor([0.59, 0.56, 0.42]))
    assert start.flatten()[1] == 0.9
