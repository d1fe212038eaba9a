import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from oat.models.norm import Condition, ConvNorm, DualBatchNorm2d, Norm2d, bn_affine


@torch.no_grad()
def _shake(module: nn.Module) -> None:
    """Give every batch norm and FiLM values far from their initial ones."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
            part.weight.uniform_(0.5, 1.5)
            part.bias.normal_()
        elif isinstance(part, nn.Linear):
            part.weight.normal_(0, 0.5)
            part.bias.normal_(0.5, 0.5)


def _assert_same_state(left: nn.Module, right: nn.Module) -> None:
    for (key, a), b in zip(left.state_dict().items(), right.state_dict().values(), strict=True):
        assert torch.equal(a, b), key


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("num_zero", [0, 2, 6, None])
def test_dual_batch_norm_equals_two_separate_batch_norms_bit_for_bit(
    training: bool, num_zero: int | None
) -> None:
    dual = DualBatchNorm2d(4)
    _shake(dual)
    dual.train(training)
    clean, adv = copy.deepcopy(dual.clean), copy.deepcopy(dual.adv)
    x = torch.randn(6, 4, 3, 3)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    rows = 6 if num_zero is None else num_zero
    parts = []
    if rows:
        parts.append(clean(theirs[:rows]))
    if rows < 6:
        parts.append(adv(theirs[rows:]))
    expected, out = torch.cat(parts), dual(ours, num_zero)
    assert torch.equal(out, expected)
    weight = torch.randn_like(out)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.equal(ours.grad, theirs.grad)
    _assert_same_state(dual.clean, clean)
    _assert_same_state(dual.adv, adv)


def test_statistics_of_lambda_zero_ignore_every_other_row() -> None:
    x = torch.randn(6, 4, 3, 3)
    other = torch.cat([x[:2], 100 * torch.randn(4, 4, 3, 3)])
    first = DualBatchNorm2d(4)
    second = copy.deepcopy(first)
    out_first, out_second = first(x, 2), second(other, 2)
    assert torch.equal(out_first[:2], out_second[:2])
    _assert_same_state(first.clean, second.clean)
    assert not torch.equal(first.adv.running_mean, second.adv.running_mean)


def test_statistics_of_the_others_ignore_the_rows_with_lambda_zero() -> None:
    x = torch.randn(6, 4, 3, 3)
    other = torch.cat([100 * torch.randn(2, 4, 3, 3), x[2:]])
    first = DualBatchNorm2d(4)
    second = copy.deepcopy(first)
    assert torch.equal(first(x, 2)[2:], second(other, 2)[2:])
    _assert_same_state(first.adv, second.adv)


def test_frozen_batch_norm_is_its_affine_map() -> None:
    bn = nn.BatchNorm2d(4).eval()
    _shake(bn)
    x = torch.randn(5, 4, 3, 3)
    scale, shift = bn_affine(bn)
    torch.testing.assert_close(x * scale.view(4, 1, 1) + shift.view(4, 1, 1), bn(x))


@pytest.mark.parametrize("training", [True, False])
def test_norm_with_identity_film_is_batch_norm_bit_for_bit(training: bool) -> None:
    norm = Norm2d(4, film_dim=3, film_init="identity").train(training)
    _shake(norm.bn)
    plain = copy.deepcopy(norm.bn[0])
    x = torch.randn(5, 4, 3, 3)
    cond = Condition(torch.randn(5, 3), num_zero_lam=0)
    assert torch.equal(norm(x, cond), plain(x))
    _assert_same_state(norm.bn[0], plain)


def test_each_row_is_scaled_and_shifted_by_the_code_it_points_at() -> None:
    norm = Norm2d(4, film_dim=3).eval()
    _shake(norm)
    assert norm.film is not None
    codes, index = torch.randn(2, 3), torch.tensor([0, 1, 1, 0, 1])
    x = torch.randn(5, 4, 3, 3)
    scale, shift = norm.film(codes, 4)
    normed = norm.bn[0](x)
    expected = torch.stack(
        [normed[i] * scale[j][:, None, None] + shift[j][:, None, None] for i, j in enumerate(index)]
    )
    torch.testing.assert_close(norm(x, Condition(codes, index, 0)), expected)
    torch.testing.assert_close(norm(x, Condition(codes[index], None, 0)), expected)


def test_every_width_has_statistics_of_its_own() -> None:
    norm = Norm2d(4, widths=(1.0, 0.5), dual=True)
    before = copy.deepcopy(norm)
    norm(torch.randn(6, 2, 3, 3), Condition(num_zero_lam=0, width_mult=0.5))
    _assert_same_state(norm.bn[0], before.bn[0])
    changed, unchanged = norm.bn[1], before.bn[1]
    assert isinstance(changed, DualBatchNorm2d)
    assert isinstance(unchanged, DualBatchNorm2d)
    assert changed.adv.num_features == 2
    _assert_same_state(changed.clean, unchanged.clean)
    assert not torch.equal(changed.adv.running_mean, unchanged.adv.running_mean)


def test_width_without_statistics_is_refused() -> None:
    norm = Norm2d(4, widths=(1.0, 0.5))
    with pytest.raises(ValueError, match=r"`width_mult`.*0\.25"):
        norm(torch.randn(2, 1, 3, 3), Condition(width_mult=0.25))


def _conv_norm(*, dual: bool, film_dim: int) -> ConvNorm:
    norm = Norm2d(4, widths=(1.0, 0.5), dual=dual, film_dim=film_dim)
    pair = ConvNorm(6, 4, 3, 2, norm).double().eval()
    _shake(pair)
    return pair


CONDITIONS = {
    "clean": Condition(torch.ones(1, 3), None, None),
    "adversarial": Condition(torch.ones(1, 3), None, 0),
    "rows": Condition(torch.arange(15.0).view(5, 3).cos(), None, 0),
    "index": Condition(torch.arange(6.0).view(2, 3).cos(), torch.tensor([0, 1, 1, 0, 1]), 0),
}


@pytest.mark.parametrize("dual", [True, False])
@pytest.mark.parametrize("film_dim", [0, 3])
@pytest.mark.parametrize("width", [1.0, 0.5])
@pytest.mark.parametrize("name", CONDITIONS)
def test_frozen_conv_norm_equals_the_pair_in_eval_mode(
    dual: bool, film_dim: int, width: float, name: str
) -> None:
    pair = _conv_norm(dual=dual, film_dim=film_dim)
    cond = replace(CONDITIONS[name], width_mult=width)
    assert cond.lam_code is not None
    cond = replace(cond, lam_code=cond.lam_code.double())
    x = torch.randn(5, round(6 * width), 8, 8, dtype=torch.float64)
    frozen = pair.freeze(cond)
    torch.testing.assert_close(frozen(x), pair(x, cond))
    torch.testing.assert_close(pair(x, replace(cond, frozen={pair: frozen})), pair(x, cond))


def test_folded_weight_and_bias_are_the_pair_as_one_convolution() -> None:
    pair = _conv_norm(dual=True, film_dim=3)
    cond = Condition(torch.randn(1, 3, dtype=torch.float64), None, 0)
    weight, bias = pair.folded(cond)
    x = torch.randn(5, 6, 8, 8, dtype=torch.float64)
    out = functional.conv2d(x, weight, bias, stride=2, padding=1)
    torch.testing.assert_close(out, pair(x, cond))


def test_folding_more_than_one_lambda_is_refused() -> None:
    pair = _conv_norm(dual=False, film_dim=3)
    codes: Tensor = torch.randn(2, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="one λ, got 2"):
        pair.folded(Condition(codes, torch.tensor([0, 1]), 0))


def test_frozen_norm_refuses_to_mix_the_two_branches() -> None:
    norm = Norm2d(4, dual=True)
    with pytest.raises(ValueError, match="`num_zero_lam`"):
        norm.affine(Condition(num_zero_lam=2))


def test_freezing_touches_neither_statistics_nor_mode() -> None:
    pair = _conv_norm(dual=True, film_dim=3).train()
    before = copy.deepcopy(pair)
    cond = Condition(torch.randn(1, 3, dtype=torch.float64), None, 0)
    pair.freeze(cond)(torch.randn(5, 6, 8, 8, dtype=torch.float64))
    _assert_same_state(pair, before)
    assert all(module.training for module in pair.modules())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("widths", [(0.5, 0.75, 1.0), (1.0, 0.5), (0.25,)])
def test_norm_at_a_width_is_a_dual_batch_norm_of_that_size_bit_for_bit(
    training: bool, widths: tuple[float, ...]
) -> None:
    norm = Norm2d(8, widths=widths, dual=True).train(training)
    _shake(norm)
    for place, width in enumerate(widths):
        before = copy.deepcopy(norm)
        alone = copy.deepcopy(norm.bn[place])
        x = torch.randn(6, round(8 * width), 3, 3)
        assert torch.equal(norm(x, Condition(num_zero_lam=2, width_mult=width)), alone(x, 2))
        for i, (changed, unchanged) in enumerate(zip(norm.bn, before.bn, strict=True)):
            _assert_same_state(changed, alone if i == place else unchanged)


@pytest.mark.parametrize("dual", [True, False])
@pytest.mark.parametrize("film_dim", [0, 3])
@pytest.mark.parametrize("width", [1.0, 0.5])
@pytest.mark.parametrize("name", CONDITIONS)
def test_frozen_lone_norm_equals_itself_in_eval_mode(
    dual: bool, film_dim: int, width: float, name: str
) -> None:
    norm = Norm2d(4, widths=(1.0, 0.5), dual=dual, film_dim=film_dim).double().eval()
    _shake(norm)
    cond = replace(CONDITIONS[name], width_mult=width)
    assert cond.lam_code is not None
    cond = replace(cond, lam_code=cond.lam_code.double())
    x = torch.randn(5, round(4 * width), 3, 3, dtype=torch.float64)
    frozen = norm.freeze(cond)
    torch.testing.assert_close(frozen(x), norm(x, cond))
    torch.testing.assert_close(norm(x, replace(cond, frozen={norm: frozen})), norm(x, cond))
