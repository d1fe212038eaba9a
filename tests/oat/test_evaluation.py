import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from baselines import PgdAt
from oat import evaluation
from oat.adversaries import EVALUATION_SEED, EvaluationAttack, Fgsm, Pgd
from oat.ascent import ball, start_point
from oat.data import Split
from oat.deploy import fold
from oat.evaluation import Correctness, evaluate, evaluate_at, looks, validate
from oat.method import Oat, Oats
from oat.models import ModelConfig, Network, build, flops, stored_bytes
from oat.operating import OperatingPoint
from tests.oat.judged import RowByRow, split_of

Randomise = Callable[[Network], Network]


@pytest.mark.parametrize("eps", [0.02, 0.05, 0.3])
@pytest.mark.parametrize("steps", [1, 2, 20])
def test_robust_accuracy_of_a_linear_model_is_known_in_closed_form(eps: float, steps: int) -> None:
    source = torch.Generator().manual_seed(3)
    weight = torch.randn(12, generator=source)
    images = torch.rand(200, 3, 2, 2, generator=source)
    labels = torch.randint(2, (200,), generator=source)
    offset = (images.flatten(1) @ weight).median()

    def logits_fn(x: Tensor) -> Tensor:
        margin = x.flatten(1) @ weight - offset
        return torch.stack([-margin, margin], dim=1)

    sign = (2 * labels - 1).float()
    clean = sign * (images.flatten(1) @ weight - offset) > 0
    lower, upper = (images - eps).clamp(0, 1), (images + eps).clamp(0, 1)
    falls = (sign[:, None] * weight > 0).view(200, 3, 2, 2)
    worst = torch.where(falls, lower, upper).flatten(1)
    robust = sign * (worst @ weight - offset) > 0
    attack = Pgd(steps=steps, eps=eps)  # 2.5 eps in all: across the whole ball
    result = evaluate(logits_fn, Split(images, labels), attack)
    assert torch.equal(result.clean, clean)
    assert torch.equal(result.robust, robust)
    assert result.sa == pytest.approx(clean.float().mean().item())
    assert result.ra == pytest.approx(robust.float().mean().item())
    assert 0 < result.sa < 1


def test_away_from_the_box_an_image_is_robust_if_its_margin_exceeds_eps_times_the_1_norm() -> None:
    weight = torch.tensor([1.0, -2.0, 3.0])
    margins = torch.linspace(-0.25, 0.95, 13)
    images = 0.5 + margins[:, None] * weight / weight.square().sum()
    result = evaluate(
        lambda x: functional.pad((x.flatten(1) - 0.5) @ weight[:, None], (1, 0)),
        Split(images.view(13, 3, 1, 1), torch.ones(13, dtype=torch.long)),
        Pgd(steps=5, eps=0.06),
    )
    assert result.clean.tolist() == [m > 0 for m in margins.tolist()]
    assert result.robust.tolist() == [m > 0.36 for m in margins.tolist()]


def _attack_to_the_end(
    logits_fn: Callable[[Tensor], Tensor], split: Split, eps: float, step: float, steps: int
) -> Correctness:
    """Attack every image for every step; robust is what no iterate breaks."""
    source = torch.Generator().manual_seed(EVALUATION_SEED)
    clean = logits_fn(split.images).argmax(dim=1) == split.labels
    lower, upper = ball(split.images, eps)
    x = start_point(split.images, eps, "uniform", source).clamp(lower, upper)
    robust = clean.clone()
    for _ in range(steps):
        x = x.requires_grad_()
        logits = logits_fn(x)
        robust &= logits.argmax(dim=1) == split.labels
        loss = functional.cross_entropy(logits, split.labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
        x = torch.min(torch.max(x.detach() + step * gradient.sign(), lower), upper)
    robust &= logits_fn(x).argmax(dim=1) == split.labels
    return Correctness(clean, robust)


@pytest.mark.parametrize("eps", [0.02, 0.05, 0.1])
@pytest.mark.parametrize("steps", [1, 7])
def test_dropping_broken_images_changes_nothing(eps: float, steps: int) -> None:
    network = RowByRow()
    split = split_of(network)
    attack = Pgd(steps=steps, eps=eps)
    expected = _attack_to_the_end(network, split, eps, 2.5 * eps / steps, steps)
    result = evaluate(network, split, attack)
    assert torch.equal(result.clean, expected.clean)
    assert torch.equal(result.robust, expected.robust)
    assert 0 < result.ra < result.sa < 1


def test_a_cpu_looks_after_each_step_and_a_gpu_seldom() -> None:
    steps = range(1, 21)
    assert all(looks(torch.device("cpu"), done) for done in steps)
    assert [n for n in steps if looks(torch.device("cuda"), n)] == [1, 2, 4, 8, 16]


@pytest.mark.parametrize("at", [{2, 4, 6}, {1, 2, 4}, set()])
@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_looking_seldom_at_what_is_broken_changes_nothing(
    at: set[int], momentum: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = RowByRow()
    split, attack = split_of(network), Pgd(steps=7, eps=0.15, restarts=2, momentum=momentum)
    often = evaluate(network, split, attack, batch_size=25)
    monkeypatch.setattr(evaluation, "looks", lambda device, done: done in at)
    seldom = evaluate(network, split, attack, batch_size=25)
    assert 0 < often.ra < often.sa
    assert torch.equal(seldom.robust, often.robust)
    assert torch.equal(seldom.clean, often.clean)


@pytest.mark.parametrize("batch_size", [1, 7, 59, 60, 1000])
def test_clean_part_does_not_depend_on_the_batch_size(batch_size: int) -> None:
    network = RowByRow()
    split, attack = split_of(network), Pgd(steps=3, eps=0.05)
    result = evaluate(network, split, attack, batch_size=batch_size)
    assert torch.equal(result.clean, network(split.images).argmax(dim=1) == split.labels)
    assert not (result.robust & ~result.clean).any()


def test_evaluation_repeats_whatever_the_global_generator_does() -> None:
    network = RowByRow()
    split, attack = split_of(network), Pgd(steps=1, eps=0.05)
    first = evaluate(network, split, attack, batch_size=13)
    torch.manual_seed(77)
    second = evaluate(network, split, attack, batch_size=13)
    assert torch.equal(first.robust, second.robust)
    assert 0 < first.ra < first.sa


class Unknown(EvaluationAttack):
    """An attack that was written down and that nothing runs."""

    label = "unknown"

    def passes(self) -> float:
        return 1.0


def test_an_attack_that_nothing_runs_is_refused_and_leaves_no_model_robust() -> None:
    network = RowByRow()
    with pytest.raises(TypeError, match="class Unknown"):
        evaluate(network, split_of(network), Unknown(eps=0.1))


def test_clean_part_is_plain_accuracy() -> None:
    network = RowByRow()
    split = split_of(network)
    result = evaluate(network, split, Pgd(steps=1, eps=0.05), batch_size=13)
    assert torch.equal(result.clean, network(split.images).argmax(dim=1) == split.labels)
    assert result.sa == pytest.approx(48 / 60)


def test_radius_zero_breaks_no_image() -> None:
    network = RowByRow()
    result = evaluate(network, split_of(network), Pgd(steps=3, eps=0.0))
    assert torch.equal(result.robust, result.clean)
    assert result.ra == result.sa == pytest.approx(0.8)


def test_an_image_that_is_misclassified_is_never_robust() -> None:
    network = RowByRow()
    wrong = Split(split_of(network).images, (network(split_of(network).images).argmax(1) + 1) % 3)
    sizes: list[int] = []
    network.register_forward_hook(lambda _m, args, _out: sizes.append(len(args[0])))
    result = evaluate(network, wrong, Pgd(steps=5, eps=0.3))
    assert result.sa == result.ra == 0
    assert sizes == [60]


def test_broken_images_leave_the_batch() -> None:
    network = RowByRow()
    split = split_of(network)
    sizes: list[int] = []
    handle = network.register_forward_hook(lambda _m, args, _out: sizes.append(len(args[0])))
    result = evaluate(network, split, Pgd(steps=7, eps=0.1))
    handle.remove()
    assert sizes[:2] == [60, int(result.clean.sum())]
    assert sizes[1:] == sorted(sizes[1:], reverse=True)
    assert sizes[-1] < sizes[1]
    assert sizes[-1] >= int(result.robust.sum())


def test_bytes_are_judged_as_numbers_in_the_unit_interval() -> None:
    network = RowByRow()
    images = (split_of(network).images * 255).to(torch.uint8)
    labels = network(images.float() / 255).argmax(dim=1)
    attack = Pgd(steps=2, eps=0.05)
    as_bytes = evaluate(network, Split(images, labels), attack)
    as_floats = evaluate(network, Split(images.float() / 255, labels), attack)
    assert as_bytes.sa == 1
    assert torch.equal(as_bytes.robust, as_floats.robust)


def _network(method: Oat | PgdAt, randomise: Randomise) -> Network:
    return randomise(
        build(
            ModelConfig("resnet8", 4),
            in_channels=1,
            num_classes=3,
            conditioning=method.conditioning(),
        )
    )


def _images() -> Split:
    source = torch.Generator().manual_seed(5)
    return Split(
        torch.rand(40, 1, 8, 8, generator=source), torch.randint(3, (40,), generator=source)
    )


@pytest.mark.parametrize("lam", [0.0, 0.3])
def test_operating_point_is_that_of_the_folded_network(lam: float, randomise: Randomise) -> None:
    network = _network(Oat(lambda_choices=(0.0, 0.3), encoding_dim=4), randomise)
    split, attack = _images(), Pgd(steps=2, eps=0.01)
    point = evaluate_at(network, OperatingPoint(lam), split, attack)
    plain = fold(network, lam)
    expected = evaluate(plain, split, attack)
    assert torch.equal(point.correctness.clean, expected.clean)
    assert torch.equal(point.correctness.robust, expected.robust)
    assert (point.point, point.attack) == ((lam, 1.0), attack)
    assert point.flops == flops(plain, (1, 8, 8))
    assert point.deployed_bytes == stored_bytes(plain)
    assert point.deployed_bytes < stored_bytes(network)
    assert network.training


def test_validation_is_the_mean_over_the_operating_points(randomise: Randomise) -> None:
    method = Oat(lambda_choices=(0.0, 0.3, 1.0), encoding_dim=4)
    network = _network(method, randomise)
    split, attack = _images(), Pgd(steps=2, eps=0.01)
    points = [
        evaluate_at(network, OperatingPoint(lam), split, attack).correctness for lam in (0.0, 1.0)
    ]
    sa, ra = validate(network, method, [0.0, 1.0], split, attack)
    assert sa == pytest.approx((points[0].sa + points[1].sa) / 2)
    assert ra == pytest.approx((points[0].ra + points[1].ra) / 2)


def test_validation_of_a_dedicated_network_has_one_operating_point(randomise: Randomise) -> None:
    network = _network(PgdAt(), randomise)
    split, attack = _images(), Pgd(steps=2, eps=0.01)
    result = evaluate_at(network, OperatingPoint(None), split, attack).correctness
    assert validate(network, PgdAt(), [0.0, 1.0], split, attack) == (result.sa, result.ra)


def test_attack_is_named_by_its_steps_and_crosses_the_ball_by_itself() -> None:
    attack = Pgd(steps=20, eps=8 / 255)
    assert attack.label == "pgd20"
    assert attack.step() * 20 == pytest.approx(2.5 * 8 / 255)
    assert Pgd(step_size=0.01).step_size == 0.01
    assert Pgd(step_size=0.01, eps=0.1).step() == 0.01


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("steps", 0),
        ("eps", -0.1),
        ("eps", 8.0),
        ("eps", math.nan),
        ("step_size", 0.0),
        ("step_size", math.nan),
    ],
)
def test_evaluation_attack_refuses_values_out_of_range_by_name(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"`{key}`"):
        Pgd(**{key: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("widths", [(0.5, 1.0), (0.5, 0.25)])
def test_validation_of_oats_is_the_mean_over_lambdas_and_widths(
    widths: tuple[float, ...], randomise: Randomise
) -> None:
    method = Oats(lambda_choices=(0.0, 0.3, 1.0), encoding_dim=4, width_mults=widths)
    network = _network(method, randomise)
    split, attack = _images(), Pgd(steps=2, eps=0.01)
    points = [OperatingPoint(lam, width) for lam in (0.0, 0.3) for width in widths]
    judged = [evaluate_at(network, point, split, attack) for point in points]
    for one in judged:
        plain = fold(network, *one.point)
        assert one.flops == flops(plain, (1, 8, 8))
        assert one.deployed_bytes == stored_bytes(plain)
    bytes_of = {one.point.width_mult: one.deployed_bytes for one in judged}
    assert bytes_of[min(widths)] < bytes_of[max(widths)] < stored_bytes(network)
    sa, ra = validate(network, method, [0.0, 0.3], split, attack)
    assert sa == pytest.approx(sum(one.correctness.sa for one in judged) / 4)
    assert ra == pytest.approx(sum(one.correctness.ra for one in judged) / 4)


@pytest.mark.parametrize("attack", [Pgd(eps=0.1, steps=2), Fgsm(eps=0.1)], ids=str)
def test_logits_that_are_no_numbers_classify_no_image(attack: EvaluationAttack) -> None:
    """`argmax` takes the first NaN for the largest, which would be class 0."""
    split = Split(torch.rand(8, 1, 4, 4), torch.zeros(8, dtype=torch.int64))

    def logits(images: Tensor) -> Tensor:
        return images.flatten(1)[:, :3] * math.nan

    found = evaluate(logits, split, attack)
    assert not found.clean.any()
    assert not found.robust.any()
