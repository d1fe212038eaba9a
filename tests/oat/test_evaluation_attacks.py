from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from baselines import PgdAt
from oat.adversaries import EVALUATION_SEED, AutoAttack, Fgsm, Pgd, Square, Transfer
from oat.ascent import GradientError, perturb, row_loss, start_point
from oat.attacks import Attack, Loss
from oat.data import DataConfig, Split, load, unit
from oat.deploy import fold
from oat.evaluation import Correctness, evaluate
from oat.models import ModelConfig, Network
from oat.recipe import TrainConfig
from oat.training import Training
from tests.oat.judged import RowByRow, split_of

STEEP = torch.tensor([[1.0, -2.0, 3.0, 0.5], [-1.0, 0.5, 0.25, -1.0], [0.5, 1.0, -0.5, 2.0]])
"""Rows are the classes of a linear network on images of four pixels."""


def _steep(images: Tensor) -> Tensor:
    return (images.flatten(1) - 0.5) @ STEEP.T


def _of_steep(count: int = 200) -> Split:
    images = torch.rand(count, 1, 2, 2, generator=torch.Generator().manual_seed(8))
    return Split(images, _steep(images).argmax(dim=1))


def _moved(split: Split, towards: Tensor, eps: float) -> Tensor:
    """Move each image by ``eps`` in the direction of signs of each row, within the box."""
    return (split.images + eps * towards.sign().view_as(split.images)).clamp(0, 1)


@pytest.mark.parametrize("eps", [0.03, 0.1, 0.3])
def test_fgsm_on_a_linear_model_takes_one_step_along_the_gradients_signs(eps: float) -> None:
    split = _of_steep()
    chance = _steep(split.images).softmax(dim=1)
    ascent = (chance - functional.one_hot(split.labels, 3)) @ STEEP
    expected = _steep(_moved(split, ascent, eps)).argmax(dim=1) == split.labels
    result = evaluate(_steep, split, Fgsm(eps=eps))
    assert torch.equal(result.robust, expected)
    assert 0 < result.ra < 1


@pytest.mark.parametrize("eps", [0.03, 0.1, 0.3])
def test_fgsm_by_the_margin_on_a_linear_model_goes_to_the_runner_up(eps: float) -> None:
    split = _of_steep()
    second = _steep(split.images).topk(2, dim=1).indices[:, 1]
    expected = _steep(_moved(split, STEEP[second] - STEEP[split.labels], eps)).argmax(dim=1)
    result = evaluate(_steep, split, Fgsm(eps=eps, loss="cw"))
    assert torch.equal(result.robust, expected == split.labels)
    assert 0 < result.ra < 1


def test_fgsm_is_no_random_attack() -> None:
    split = _of_steep()
    whole = evaluate(_steep, split, Fgsm(eps=0.1))
    assert torch.equal(whole.robust, evaluate(_steep, split, Fgsm(eps=0.1), batch_size=7).robust)


@pytest.mark.parametrize("loss", ["ce", "cw", "dlr"])
@pytest.mark.parametrize("eps", [0.05, 0.2])
def test_every_loss_finds_the_optimum_on_a_linear_model(loss: Loss, eps: float) -> None:
    """Of three classes one has no chance, so the other two decide: in closed form."""
    weight = torch.tensor([[1.0, -2.0, 3.0, 0.5], [-1.0, 0.5, 0.25, -1.0]])

    def logits_fn(images: Tensor) -> Tensor:
        x = (images.flatten(1) - 0.5) @ weight.T
        return functional.pad(x, (0, 1), value=-50.0)

    images = torch.rand(200, 1, 2, 2, generator=torch.Generator().manual_seed(9))
    split = Split(images, logits_fn(images).argmax(dim=1))
    ascent = (weight[1] - weight[0]) * (1 - 2 * split.labels[:, None])
    expected = logits_fn(_moved(split, ascent, eps)).argmax(dim=1) == split.labels
    result = evaluate(logits_fn, split, Pgd(eps=eps, steps=5, loss=loss))
    assert torch.equal(result.robust, expected)
    assert 0 < result.ra < 1


class RoughRowByRow(RowByRow):
    """The same with so many bends that starts matter."""

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(1)
        hidden = (9 * (x[:, None] * self.get_buffer("hidden")).sum(-1)).sin()
        return (hidden[:, None] * self.get_buffer("out")).sum(-1)


def test_an_image_withstands_many_starts_if_it_withstands_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = RoughRowByRow()
    split = split_of(network, 200)

    def robust(restarts: int, seed: int = EVALUATION_SEED) -> Tensor:
        monkeypatch.setattr("oat.evaluation.EVALUATION_SEED", seed)
        attack = Pgd(eps=0.04, steps=2, restarts=restarts)
        return evaluate(network, split, attack, batch_size=64).robust

    singles = torch.stack([robust(1, EVALUATION_SEED + i) for i in range(5)])
    assert torch.equal(robust(1), singles[0])
    for count in (2, 3, 5):
        assert torch.equal(robust(count), singles[:count].all(dim=0))
    assert robust(5).sum() < robust(1).sum()


@pytest.mark.parametrize("batch_size", [1, 16, 100])
def test_the_first_start_is_the_same_for_any_number(
    batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = RowByRow()
    split = split_of(network)
    starts: list[Tensor] = []

    def remember(*args: Any) -> Tensor:
        starts.append(start_point(*args))
        return starts[-1]

    monkeypatch.setattr("oat.evaluation.start_point", remember)
    evaluate(network, split, Pgd(eps=0.1, steps=1), batch_size=batch_size)
    alone, starts = starts, []
    evaluate(network, split, Pgd(eps=0.1, steps=1, restarts=3), batch_size=batch_size)
    assert len(starts) == 3 * len(alone)
    assert torch.equal(torch.cat(alone), torch.cat(starts[::3]))
    for other in (starts[1::3], starts[2::3]):
        assert not any(torch.equal(x, y) for x, y in zip(alone, other, strict=True))
    starts = []
    again = evaluate(
        network, split, Pgd(eps=0.1, steps=1), batch_size=batch_size, surrogates=[network, network]
    )
    assert torch.equal(torch.cat(alone), torch.cat(starts)), "surrogates draw nothing"
    assert 0 < again.ra < again.sa


def _mi_fgsm(network: RowByRow, split: Split, eps: float, steps: int, decay: float) -> Tensor:
    """Iterate equations (6) and (7) of Dong et al. an image at a time; what no iterate breaks."""
    source = torch.Generator().manual_seed(EVALUATION_SEED)
    starts = start_point(split.images, eps, "uniform", source)
    robust = []
    for image, label, start in zip(split.images, split.labels, starts, strict=True):
        x = start.clamp((image - eps).clamp(0, 1), (image + eps).clamp(0, 1))[None]
        velocity = torch.zeros_like(x)
        right = [bool(network(image[None]).argmax() == label)]
        for _ in range(steps):
            x = x.detach().requires_grad_()
            logits = network(x)
            right.append(bool(logits.argmax() == label))
            (slope,) = torch.autograd.grad(functional.cross_entropy(logits, label[None]), x)
            velocity = decay * velocity + slope / slope.norm(p=1)
            x = x.detach() + 2.5 * eps / steps * velocity.sign()
            x = image + (x - image).clamp(-eps, eps)
            x = x.clamp(0, 1)
        right.append(bool(network(x).argmax() == label))
        robust.append(all(right))
    return torch.tensor(robust)


@pytest.mark.parametrize("decay", [0.7, 1.0])
def test_momentum_pgd_is_mi_fgsm(decay: float) -> None:
    network = RoughRowByRow()
    split = split_of(network, 300)
    attack = Pgd(eps=0.02, steps=6, momentum=decay)
    result = evaluate(network, split, attack)
    assert torch.equal(result.robust, _mi_fgsm(network, split, 0.02, 6, decay))
    assert torch.equal(_mi_fgsm(network, split, 0.02, 6, 0.0), _plain(network, split).robust)
    assert not torch.equal(result.robust, _plain(network, split).robust)


def _plain(network: RowByRow, split: Split) -> Correctness:
    return evaluate(network, split, Pgd(eps=0.02, steps=6))


def test_a_gradient_of_nothing_leaves_momentum_a_number() -> None:
    def flat(images: Tensor) -> Tensor:
        return functional.pad(0 * images.flatten(1).sum(dim=1, keepdim=True) + 1, (0, 2))

    split = Split(torch.rand(5, 1, 2, 2), torch.zeros(5, dtype=torch.long))
    assert evaluate(flat, split, Pgd(eps=0.1, steps=3, momentum=1)).ra == 1


class Others(NamedTuple):
    network: RowByRow
    surrogates: list[RowByRow]
    split: Split


@pytest.fixture
def others() -> Others:
    """A network, and two of other weights that agree with it here and there."""
    network, surrogates = RoughRowByRow(), [RoughRowByRow(), RoughRowByRow()]
    for i, other in enumerate(surrogates):
        source = torch.Generator().manual_seed(i)
        other.get_buffer("out").add_(torch.randn(3, 10, generator=source))
    return Others(network, list(surrogates), split_of(network, 200))


def _crafted(
    split: Split, surrogate: RowByRow, eps: float, steps: int, which: Loss = "ce"
) -> Tensor:
    """Return the last iterates of plain PGD on a surrogate, from the starts of the white box."""
    source = torch.Generator().manual_seed(EVALUATION_SEED)
    loss = row_loss(which, split.labels)
    attack = Attack(eps=eps, steps=steps, step_size=2.5 * eps / steps)
    return perturb(surrogate, loss, split.images, attack, generator=source)


def test_an_image_withstands_a_transfer_if_it_withstands_the_last_iterates_of_every_source(
    others: Others,
) -> None:
    network, surrogates, split = others
    clean = network(split.images).argmax(dim=1) == split.labels
    withstood = [
        network(_crafted(split, other, 0.1, 4)).argmax(dim=1) == split.labels
        for other in surrogates
    ]
    result = evaluate(network, split, Transfer(eps=0.1, steps=4), surrogates=surrogates)
    assert torch.equal(result.robust, clean & withstood[0] & withstood[1])
    assert not torch.equal(clean & withstood[0], clean & withstood[1])
    assert 0 < result.ra < result.sa


@pytest.mark.parametrize("loss", ["ce", "cw", "dlr"])
def test_every_lam_is_its_own_attack_and_what_the_others_find(loss: Loss, others: Others) -> None:
    network, surrogates, split = others
    attack = Pgd(eps=0.03, steps=4, loss=loss)
    own = evaluate(network, split, attack).robust
    withstood = [
        network(_crafted(split, other, 0.03, 4, loss)).argmax(dim=1) == split.labels
        for other in surrogates
    ]
    result = evaluate(network, split, attack, surrogates=surrogates)
    assert torch.equal(result.robust, own & withstood[0] & withstood[1])
    assert 0 < result.robust.sum() < own.sum()


@pytest.mark.parametrize("batch_size", [16, 64, 500])
@pytest.mark.parametrize("attack", [Pgd(eps=0.05, steps=3), Transfer(eps=0.1, steps=3)])
def test_the_order_of_surrogates_changes_nothing(
    attack: Pgd | Transfer, batch_size: int, others: Others
) -> None:
    network, surrogates, split = others
    one_way, other_way = (
        evaluate(network, split, attack, batch_size=batch_size, surrogates=some).robust
        for some in (surrogates, surrogates[::-1])
    )
    assert torch.equal(one_way, other_way)


@pytest.mark.parametrize("batch_size", [7, 16, 64, 500])
@pytest.mark.parametrize("loss", ["ce", "cw", "dlr"])
def test_more_surrogates_are_never_kinder_in_any_batch(
    batch_size: int, loss: Loss, others: Others
) -> None:
    network, surrogates, split = others
    attack = Pgd(eps=0.03, steps=2, loss=loss)
    robust = [
        evaluate(network, split, attack, batch_size=batch_size, surrogates=surrogates[:i]).robust
        for i in range(3)
    ]
    assert not (robust[1] & ~robust[0]).any()
    assert not (robust[2] & ~robust[1]).any()


@pytest.mark.parametrize("batch_size", [7, 500])
def test_transfer_from_a_network_to_itself_is_its_white_box_less_the_iterates_on_the_way(
    batch_size: int, others: Others
) -> None:
    network, _, split = others
    white = evaluate(network, split, Pgd(eps=0.1, steps=4), batch_size=batch_size).robust
    black = evaluate(
        network, split, Transfer(eps=0.1, steps=4), batch_size=batch_size, surrogates=[network]
    ).robust
    assert not (white & ~black).any()


def test_a_surrogate_may_be_attacked_by_steps_longer_than_the_ball_is_wide(others: Others) -> None:
    network, surrogates, split = others
    for radius in (0.0, 0.05):
        attack = Pgd(eps=radius, steps=2, step_size=0.5)
        result = evaluate(network, split, attack, surrogates=surrogates)
        assert (result.ra == result.sa) == (radius == 0)


ALL = [
    Pgd(eps=0.1, steps=2, restarts=2, momentum=1),
    Pgd(eps=0.1, steps=2, loss="dlr"),
    Fgsm(eps=0.1),
    Transfer(eps=0.1, steps=2),
]


@pytest.mark.parametrize("attack", ALL, ids=lambda attack: attack.label)
def test_an_empty_split_is_judged_as_one_of_no_images(attack: Pgd | Fgsm | Transfer) -> None:
    empty = Split(torch.rand(0, 1, 3, 3), torch.zeros(0, dtype=torch.long))
    surrogates = [] if isinstance(attack, Fgsm) else [RowByRow()]
    result = evaluate(RowByRow(), empty, attack, surrogates=surrogates)
    assert (len(result.clean), len(result.robust)) == (0, 0)


@pytest.mark.parametrize("attack", ALL, ids=lambda attack: attack.label)
def test_nothing_is_crafted_for_images_that_are_wrong_anyway(
    attack: Pgd | Fgsm | Transfer,
) -> None:
    network = RowByRow()
    images = split_of(network).images
    wrong = Split(images, (network(images).argmax(dim=1) + 1) % 3)
    sizes: list[int] = []
    network.register_forward_hook(lambda _m, args, _out: sizes.append(len(args[0])))
    surrogates = [] if isinstance(attack, Fgsm) else [network]
    result = evaluate(network, wrong, attack, surrogates=surrogates)
    assert result.sa == result.ra == 0
    assert sizes == [60]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("attack", ALL, ids=lambda attack: attack.label)
def test_evaluation_touches_no_parameter_gradient_buffer_or_train_flag(
    attack: Pgd | Fgsm | Transfer, training: bool
) -> None:
    networks = [
        nn.Sequential(nn.Flatten(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 3)).train(training)
        for _ in range(2)
    ]
    before = [{k: v.clone() for k, v in n.state_dict().items()} for n in networks]
    for network in networks:
        network.register_buffer("untouched", torch.rand(3))
    surrogates = [] if isinstance(attack, Fgsm) else networks[1:]
    evaluate(networks[0], split_of(networks[0]), attack, surrogates=surrogates)
    for network, known in zip(networks, before, strict=True):
        assert all(module.training is training for module in network.modules())
        assert all(p.grad is None and p.requires_grad for p in network.parameters())
        assert all(torch.equal(v, network.state_dict()[k]) for k, v in known.items())


def test_an_attack_that_does_not_fit_the_classes_is_refused() -> None:
    split = Split(torch.rand(4, 1, 2, 2), torch.zeros(4, dtype=torch.long))

    def two(images: Tensor) -> Tensor:
        return images.flatten(1)[:, :2]

    for attack in (Pgd(eps=0.1, loss="dlr"), Fgsm(eps=0.1, loss="dlr")):
        with pytest.raises(ValueError, match="`dlr` needs at least 3 classes, the data have 2"):
            evaluate(two, split, attack)
    assert evaluate(two, split, Pgd(eps=0.1, loss="cw")).ra <= 1


class Rooted(RowByRow):
    """The same network, but its gradient is NaN at images of which no pixel is above a half."""

    def forward(self, images: Tensor) -> Tensor:
        above = ((images > 0.5) * (images - 0.5)).flatten(1).sum(1, keepdim=True)
        return super().forward(images) + 0 * above.sqrt()


@pytest.mark.parametrize(
    "attack",
    [
        Pgd(eps=0.1, steps=3),
        Pgd(eps=0.1, steps=3, momentum=0.9),
        Fgsm(eps=0.1),
    ],
    ids=["pgd", "momentum", "fgsm"],
)
def test_images_that_an_attack_cannot_move_are_not_called_robust(attack: Pgd | Fgsm) -> None:
    images = split_of(RowByRow()).images.clone()
    images[:3] = 0.25
    split = Split(images, RowByRow()(images).argmax(dim=1))
    with pytest.raises(GradientError, match="is no number at 3 images that it classifies"):
        evaluate(Rooted(), split, attack)
    split.labels[:3] = (split.labels[:3] + 1) % 3  # what is wrong needs no attack
    found, same = (evaluate(network, split, attack) for network in (Rooted(), RowByRow()))
    assert torch.equal(found.robust, same.robust)


def test_autoattack_refuses_a_network_that_it_cannot_move_and_square_needs_no_gradient() -> None:
    def five(images: Tensor) -> Tensor:
        return functional.pad(Rooted()(images), (0, 2), value=-9)

    images = torch.full((4, 1, 3, 3), 0.25)
    split = Split(images, five(images).argmax(dim=1))
    with pytest.raises(GradientError, match="at 4 images"):
        evaluate(five, split, AutoAttack(eps=0.1, targets=4))
    assert evaluate(five, split, Square(eps=0.1, queries=5)).sa == 1


def test_images_crafted_on_a_network_that_gives_no_direction_show_nothing() -> None:
    images = torch.full((4, 1, 3, 3), 0.25)
    split = Split(images, RowByRow()(images).argmax(dim=1))
    with pytest.raises(GradientError, match="at 4 images"):
        evaluate(RowByRow(), split, Transfer(eps=0.1, steps=2), surrogates=[Rooted()])


@pytest.mark.parametrize("label", [0, 1])
def test_logits_that_are_no_numbers_break_an_image_whatever_its_class(label: int) -> None:
    def overflows(images: Tensor) -> Tensor:
        mean = images.flatten(1).mean(1, keepdim=True)
        logits = functional.one_hot(torch.tensor(label), 3) * (1 - mean)
        return torch.where(mean > 0.6, torch.nan, logits)

    images = torch.full((6, 1, 3, 3), 0.55)
    images[3:] = 0.2  # 0.6 is out of reach
    found = evaluate(overflows, Split(images, torch.full((6,), label)), Pgd(eps=0.2, steps=9))
    assert found.clean.all()
    assert found.robust.tolist() == [False] * 3 + [True] * 3


@pytest.fixture(scope="module")
def trained() -> tuple[Network, Split]:
    """A small ResNet trained on digits as fast as it gets, folded; and its test images."""
    data = DataConfig("digits")
    dataset = load(data)
    config = TrainConfig(epochs=4, batch_size=32, val_images=32)
    training = Training(
        PgdAt(0.5), ModelConfig("resnet8", 4), dataset, data, config, Attack(0.1, 2), seed=0
    )
    for _ in training.epochs():
        pass
    return fold(training.model, None), dataset.test


# foolbox imports a module of SciPy by its old name
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.slow
def test_pgd_agrees_with_foolbox_on_a_trained_network(trained: tuple[Network, Split]) -> None:
    """Last iterates from the image itself, so that the two libraries answer one question."""
    import foolbox  # warns when it is imported

    network, split = trained
    images, labels = unit(split.images), split.labels
    theirs = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    judged = differ = fell = 0
    for eps, steps in ((0.05, 20), (0.08, 7), (0.1, 20)):
        attack = foolbox.attacks.LinfPGD(rel_stepsize=2.5 / steps, steps=steps, random_start=False)
        _, clipped, _ = attack(theirs, images, labels, epsilons=eps)
        generator = torch.Generator()
        ours = perturb(
            network,
            row_loss("ce", labels),
            images,
            Attack(eps, steps, 2.5 * eps / steps),
            generator=generator,
            start="none",
        )
        with torch.no_grad():
            mine, other = (network(x).argmax(dim=1) == labels for x in (ours, clipped))
        judged += len(labels)
        differ += int((mine != other).sum())
        fell += int((~mine).sum())
        # no iterate counts here: never kinder than the last one of the other library's runs
        assert evaluate(network, split, Pgd(eps=eps, steps=steps)).ra <= other.float().mean() + 0.02
    assert judged >= 500
    assert 0.1 * judged < fell < 0.9 * judged
    assert differ * 500 <= judged
