import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from oat.ascent import perturb
from oat.attacks import Attack
from oat.deploy import condition, specialize
from oat.lambdas import RowLams
from oat.losses import cross_entropy_of, oat_loss
from oat.method import Oat, Oats
from oat.models import ModelConfig, Network, build, relative_flops
from oat.price import step_units
from tests.oat.methods import CHOICES, INDEX, LAMS, Batch, Randomise, calls_of, oats_of, slim_of

Passes = Callable[[Network], list[int]]


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
    assert Oat().work(Attack(steps=7), 128)[1.0].units == pytest.approx(17.1, abs=0.05)


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


@pytest.mark.parametrize("zeros", [0, 4, 11])
@pytest.mark.parametrize("dual_bn", [True, False])
def test_skipping_the_clean_pass_at_one_changes_no_loss_or_gradient_of_a_frozen_network(
    zeros: int, dual_bn: bool, batch: Batch, generator: torch.Generator, randomise: Randomise
) -> None:
    network = randomise(_network(Oat(lambda_choices=CHOICES, encoding_dim=4, dual_bn=dual_bn)))
    network.eval()
    index = torch.cat([torch.zeros(zeros, dtype=torch.long), INDEX.clamp(min=1)[zeros:]])
    lams, runs = RowLams(torch.tensor(CHOICES), index, zeros), []
    for skip in (False, True):
        network.zero_grad()
        loss = oat_loss(
            network,
            *batch,
            lams=lams,
            attack=Attack(0.1, 2),
            generator=generator.manual_seed(1),
            skip_clean_at_one=skip,
        )
        loss.mean().backward()
        gradients = [p.grad.clone() for p in network.parameters() if p.grad is not None]
        runs.append((loss, gradients, generator.get_state()))
    torch.testing.assert_close(runs[1][0], runs[0][0])
    for ours, theirs in zip(runs[1][1], runs[0][1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert torch.equal(runs[0][2], runs[1][2])


def test_rows_with_lambda_one_are_not_in_the_clean_pass(
    batch: Batch, generator: torch.Generator
) -> None:
    network = _network(Oat(lambda_choices=CHOICES, encoding_dim=4))
    calls = calls_of(network)
    oat_loss(
        network,
        *batch,
        lams=LAMS,
        attack=Attack(0.1, 1),
        generator=generator,
        skip_clean_at_one=True,
    )
    (clean, how), (adv, _) = calls
    assert torch.equal(clean, batch[0][INDEX != 2])
    assert torch.equal(how["lam_index"], INDEX[INDEX != 2])
    assert how["num_zero_lam"] == 4
    assert len(adv) == 8


def test_where_every_lambda_is_one_no_clean_pass_is_made(
    batch: Batch, generator: torch.Generator, passes: Passes
) -> None:
    method = Oat(lambda_choices=(1.0,), encoding_dim=4, skip_clean_at_one=True)
    network = _network(method)
    sizes, calls = passes(network), calls_of(network)
    (loss,) = method.losses(network, *batch, attack=Attack(0.1, 3), generator=generator)
    assert sizes == [12] * 4
    ((images_adv, how),) = calls
    twin = _network(method)
    twin.load_state_dict(network.state_dict())
    assert twin.encoding is not None
    assert how["num_zero_lam"] == 0
    logits = twin(images_adv, twin.encoding(1.0), num_zero_lam=0)
    torch.testing.assert_close(loss, cross_entropy_of(batch[1])(logits))


def test_where_every_lambda_is_zero_or_one_skipping_leaves_the_adversarial_pass_alone(
    batch: Batch, generator: torch.Generator
) -> None:
    method = Oat(lambda_choices=(0.0, 1.0), encoding_dim=4, skip_clean_at_one=True)
    network = _network(method)
    list(method.losses(network, *batch, attack=Attack(0.1, 1), generator=generator))
    for key, value in network.state_dict().items():
        if key.endswith("num_batches_tracked"):
            assert value == 1, key


COUNTED: dict[str, Oat] = {
    "paper": Oat(),
    "third": Oat(lambda_choices=CHOICES, encoding_dim=4),
    "zero": Oat(lambda_choices=(0.0,), encoding="none"),
    "one": Oat(lambda_choices=(1.0,), encoding="none"),
    "one_skipped": Oat(lambda_choices=(1.0,), encoding="none", skip_clean_at_one=True),
    "ends_skipped": Oat(lambda_choices=(0.0, 1.0), encoding="none", skip_clean_at_one=True),
    "quarter": Oat(lambda_choices=CHOICES, encoding="none", zero_share=0.25),
    "uniform": Oat(lambda_sampling="uniform", encoding="continuous", zero_share=0.5),
    "oats": Oats(lambda_choices=CHOICES, encoding_dim=4, width_mults=(0.5, 1.0)),
}


@pytest.mark.parametrize("name", COUNTED)
def test_estimated_cost_is_that_of_the_passes_made(
    name: str, batch: Batch, generator: torch.Generator, passes: Passes
) -> None:
    method, attack = COUNTED[name], Attack(0.1, 3)
    network = _network(method)
    sizes, calls = passes(network), calls_of(network)
    list(method.losses(network, *batch, attack=attack, generator=generator))
    trained = sum(len(images) for images, _ in calls)
    attacked = sum(sizes) - trained
    units = {width: w.units for width, w in method.work(attack, 12).items()}
    assert units.keys() == set(method.widths)
    assert sum(units.values()) * 12 == pytest.approx(3 * trained + 2 * attacked)


@pytest.mark.parametrize("batchwise", [True, False])
def test_estimated_cost_is_the_mean_over_draws(batchwise: bool, generator: torch.Generator) -> None:
    method = Oat(lambda_choices=CHOICES, batchwise=batchwise, skip_clean_at_one=True)
    attack, total, draws = Attack(steps=2), 0.0, 3000
    for _ in range(draws):
        lam = method.sampler().draw(12, generator=generator).rows()
        attacked, clean = (lam != 0).double().mean().item(), (lam != 1).double().mean().item()
        total += 3 * (clean + attacked) + 2 * attack.steps * attacked
    assert method.work(attack, 12)[1.0].units == pytest.approx(total / draws, rel=0.05)


def test_cost_of_training_weighs_each_width_by_its_operations() -> None:
    model, attack, shape = ModelConfig("resnet8", 4), Attack(steps=3), (3, 8, 8)
    wide = step_units(oats_of(width_mults=(1.0,)), attack, 12, model, shape)
    both = step_units(oats_of(width_mults=(1.0, 0.5)), attack, 12, model, shape)
    assert wide == pytest.approx(oats_of().work(attack, 12)[1.0].units)
    assert both == pytest.approx(wide * (1 + relative_flops(model, 0.5, shape)))


def test_label_smoothing_is_torchs_and_the_attack_has_hard_labels(
    batch: Batch, generator: torch.Generator, randomise: Randomise
) -> None:
    network = randomise(slim_of(oats_of()))
    seen = []
    for smoothing in (0.0, 0.4):
        net = copy.deepcopy(network)
        twin = copy.deepcopy(network)
        calls = calls_of(net)
        loss = oat_loss(
            net,
            *batch,
            lams=LAMS,
            attack=Attack(0.1, 3),
            generator=generator.manual_seed(1),
            width_mult=0.75,
            label_smoothing=smoothing,
        )
        codes = twin.encoding.encode(LAMS.values)  # type: ignore[union-attr]
        (clean, how), (adv, how_adv) = calls
        rows = [
            functional.cross_entropy(
                twin(images, codes, **keywords), labels, reduction="none", label_smoothing=smoothing
            )
            for images, labels, keywords in (
                (clean, batch[1], how),
                (adv, batch[1][4:], how_adv),
            )
        ]
        lam = LAMS.rows()
        expected = (1 - lam) * rows[0] + lam * torch.cat([torch.zeros(4), rows[1]])
        torch.testing.assert_close(loss, expected)
        seen.append((adv, loss))
    assert torch.equal(seen[0][0], seen[1][0])
    assert not torch.allclose(seen[0][1], seen[1][1])


@pytest.mark.parametrize("skip", [True, False])
def test_under_autocast_a_batch_of_lambda_one_trains_film_like_any_other(
    skip: bool, batch: Batch, generator: torch.Generator, randomise: Randomise
) -> None:
    method = Oat(lambda_choices=(1.0,), encoding_dim=4, skip_clean_at_one=skip)
    network = randomise(_network(method))
    with torch.autocast("cpu", torch.bfloat16):
        for loss in method.losses(network, *batch, attack=Attack(0.1, 1), generator=generator):
            loss.mean().backward()
    for key, parameter in network.named_parameters():
        if ".bn." not in key or ".adv." in key:
            assert parameter.grad is not None, key
            assert parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize(
    ("key", "value"),
    [("lambda_sampling", "uniform"), ("zero_share", 0.0), ("zero_share", math.nan)],
)
def test_oats_refuses_what_oat_refuses(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"`{key}`"):
        Oats(**{key: value})  # type: ignore[arg-type]


def test_one_row_alone_in_the_clean_pass_does_not_stop_the_training(
    batch: Batch, generator: torch.Generator
) -> None:
    # one row alone with 0 < λ < 1: a batch norm has no variance of one row of 1 x 1 pixels
    network = build(
        ModelConfig("resnet10", 4),  # four stages: 8 x 8 images end as 1 x 1
        in_channels=3,
        num_classes=5,
        conditioning=Oat(lambda_choices=CHOICES, encoding_dim=4).conditioning(),
    )
    index = torch.tensor([0] * 4 + [1] + [2] * 7)
    loss = oat_loss(
        network,
        *batch,
        lams=RowLams(torch.tensor(CHOICES), index, 4),
        attack=Attack(0.1, 1),
        generator=generator,
        skip_clean_at_one=True,
    )
    assert loss.isfinite().all()
