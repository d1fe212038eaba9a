"""The plain way computes what the library computes, from the same draws."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from baselines import PgdAt, Trades
from baselines.trades import trades_loss
from benchmarks import plain as plain_way
from benchmarks.plain import plain_oat_loss, plain_pgd_at_loss, plain_step, plain_trades_loss
from oat import ascent
from oat.attacks import Attack
from oat.losses import oat_loss
from oat.method import Method, Oat, Oats
from oat.models import ModelConfig, Network, build

ATTACK = Attack(eps=0.05, steps=3)
Batch = tuple[Tensor, Tensor]


def network(method: Method) -> Network:
    torch.manual_seed(3)
    return build(
        ModelConfig("resnet8", 4),
        in_channels=3,
        num_classes=5,
        conditioning=method.conditioning(),
    )


def value_and_gradients(
    model: Network, loss: Callable[[Network, torch.Generator], Tensor]
) -> list[Tensor]:
    """Return the mean loss and the gradients of all parameters that have one."""
    value = loss(model.train(), torch.Generator().manual_seed(4)).mean()
    value.backward()
    found = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(found) > 10
    return [value.detach(), *found]


def assert_equal(ours: list[Tensor], plain: list[Tensor]) -> None:
    assert len(ours) == len(plain)
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))


@pytest.mark.parametrize("width", [1.0, 0.5])
def test_the_plain_oat_step_has_the_loss_and_gradients_of_ours(width: float, batch: Batch) -> None:
    images, labels = batch
    method = Oats()
    lams = method.sampler().draw(len(images), generator=torch.Generator().manual_seed(5))
    assert 0 < lams.num_zero < len(images)

    def ours(model: Network, generator: torch.Generator) -> Tensor:
        return oat_loss(
            model, images, labels, lams=lams, attack=ATTACK, generator=generator, width_mult=width
        )

    def plain(model: Network, generator: torch.Generator) -> Tensor:
        return plain_oat_loss(
            model, images, labels, lams=lams, attack=ATTACK, generator=generator, width_mult=width
        )

    assert_equal(*(value_and_gradients(network(method), loss) for loss in (ours, plain)))


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_the_plain_pgd_at_step_has_the_loss_and_gradients_of_ours(lam: float, batch: Batch) -> None:
    images, labels = batch
    method = PgdAt(lam)

    def ours(model: Network, generator: torch.Generator) -> Tensor:
        (rows,) = method.losses(model, images, labels, attack=ATTACK, generator=generator)
        return rows

    def plain(model: Network, generator: torch.Generator) -> Tensor:
        return plain_pgd_at_loss(model, images, labels, lam=lam, attack=ATTACK, generator=generator)

    assert_equal(*(value_and_gradients(network(method), loss) for loss in (ours, plain)))


def test_the_plain_trades_step_has_the_loss_of_ours_where_statistics_stand(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = batch

    def standing(model: Network) -> Network:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.0  # ours attacks after the clean pass, the authors before it
        return model

    def ours(model: Network, generator: torch.Generator) -> Tensor:
        return trades_loss(model, images, labels, beta=6.0, attack=ATTACK, generator=generator)

    def plain(model: Network, generator: torch.Generator) -> Tensor:
        return plain_trades_loss(
            model, images, labels, beta=6.0, attack=ATTACK, generator=generator
        )

    # of the same adversarial images, loss and all gradients are equal
    crafted = (images + 0.1 * torch.randn_like(images).sign()).clamp(0, 1)
    with monkeypatch.context() as patch:
        patch.setattr(ascent, "perturb", lambda *_, **__: crafted)
        patch.setattr(plain_way, "_pgd", lambda *_, **__: crafted)
        pair = [standing(network(Trades())) for _ in range(2)]
        assert_equal(value_and_gradients(pair[0], ours), value_and_gradients(pair[1], plain))

    models = standing(network(Trades())), standing(network(Trades()))
    one, other = value_and_gradients(models[0], ours), value_and_gradients(models[1], plain)
    # the attack begins where its gradient is nearly 0, so that rounding decides some of its signs
    assert one[0] == pytest.approx(float(other[0]), rel=0.02)
    flat, flat_plain = (torch.cat([g.flatten() for g in found[1:]]) for found in (one, other))
    assert torch.cosine_similarity(flat, flat_plain, dim=0) > 0.95


@pytest.mark.parametrize("method", [Oat(), Oats(), PgdAt(), Trades()])
def test_a_plain_step_moves_the_weights_and_leaves_train_mode_on(
    method: Method, batch: Batch, generator: torch.Generator
) -> None:
    model = network(method)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.head.weight.detach().clone()
    loss = plain_step(model, optimizer, method, *batch, attack=ATTACK, generator=generator)
    assert loss.isfinite()
    assert model.training
    assert not torch.equal(model.head.weight, before)


def test_a_method_without_a_plain_way_is_refused(batch: Batch, generator: torch.Generator) -> None:
    class Other(Method):
        name = "other"

    model = network(PgdAt())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="no plain way of `method` 'other'"):
        plain_step(model, optimizer, Other(), *batch, attack=ATTACK, generator=generator)
