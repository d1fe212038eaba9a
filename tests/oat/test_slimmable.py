import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from oat.deploy import condition, fold, specialize
from oat.models import Conditioning, ModelConfig, Network, build
from oat.models.norm import Norm2d
from oat.models.slimmable import HeadPerWidth, SlimmableConv2d, SlimmableLinear
from oat.widths import check_width, scaled


@given(parts=st.integers(1, 64), share=st.integers(1, 20), whole=st.integers(1, 20))
def test_scaled_is_exact_where_the_channels_divide(parts: int, share: int, whole: int) -> None:
    share = min(share, whole)
    assert scaled(parts * whole, share / whole) == parts * share


@pytest.mark.parametrize(("channels", "width"), [(3, 0.5), (2, 0.25), (16, 0.3), (4, 0.0)])
def test_scaled_refuses_a_share_that_is_no_whole_number(channels: int, width: float) -> None:
    with pytest.raises(ValueError, match="`width_mult`"):
        scaled(channels, width)


@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, 1), (1, 0)])
def test_full_width_is_torchs_convolution(stride: int, padding: int) -> None:
    conv = SlimmableConv2d(6, 8, 3, stride, padding)
    plain = nn.Conv2d(6, 8, 3, stride, padding, bias=False)
    plain.load_state_dict(conv.state_dict())
    x = torch.randn(2, 6, 9, 9)
    assert torch.equal(conv(x), plain(x))


@pytest.mark.parametrize("width", [0.5, 0.75])
@pytest.mark.parametrize("stride", [1, 2])
def test_width_is_a_plain_convolution_on_the_sliced_weights(width: float, stride: int) -> None:
    conv = SlimmableConv2d(4, 8, 3, stride, 1)
    plain = nn.Conv2d(round(4 * width), round(8 * width), 3, stride, 1, bias=False)
    with torch.no_grad():
        plain.weight.copy_(conv.weight[: round(8 * width), : round(4 * width)])
    x = torch.randn(2, round(4 * width), 9, 9)
    assert torch.equal(conv(x, width), plain(x))


def test_convolution_on_the_image_keeps_its_input_channels() -> None:
    conv = SlimmableConv2d(3, 8, 3, padding=1, slim_in=False)
    x = torch.randn(2, 3, 5, 5)
    assert torch.equal(conv(x, 0.5), functional.conv2d(x, conv.weight[:4], None, 1, 1))


def test_weights_out_of_use_receive_no_gradient() -> None:
    conv = SlimmableConv2d(4, 8, 3)
    conv(torch.randn(2, 2, 5, 5), 0.5).square().sum().backward()
    assert conv.weight.grad is not None
    assert conv.weight.grad[:4, :2].abs().min() > 0
    assert conv.weight.grad[4:].abs().max() == 0
    assert conv.weight.grad[:, 2:].abs().max() == 0


def test_linear_layer_uses_the_leading_features() -> None:
    linear = SlimmableLinear(8, 3)
    plain = nn.Linear(4, 3)
    with torch.no_grad():
        plain.weight.copy_(linear.weight[:, :4])
        plain.bias.copy_(linear.bias)
    full, half = torch.randn(2, 8), torch.randn(2, 4)
    assert torch.equal(linear(half, 0.5), plain(half))
    assert torch.equal(linear(full), functional.linear(full, linear.weight, linear.bias))


WIDTHS = (0.5, 0.75, 1.0)
LAMS = (0.0, 0.3, 1.0)
Randomise = Callable[[Network], Network]
Batch = tuple[Tensor, Tensor]


def _built(config: ModelConfig, conditioning: Conditioning) -> Network:
    return build(config, in_channels=3, num_classes=5, conditioning=conditioning)


@torch.no_grad()
def _copy_slice(wide: Network, narrow: Network, place: int) -> None:
    """Write what a network uses at its width number ``place`` into one built at that width."""
    source = wide.state_dict()
    for key, target in narrow.state_dict().items():
        origin = key.replace(".bn.0.", f".bn.{place}.").replace("heads.0.", f"heads.{place}.")
        value = source[origin]
        if ".film.out." in key:  # scales, then shifts
            half = len(target) // 2
            value = torch.cat([part[:half] for part in value.chunk(2)])
        target.copy_(value[tuple(slice(size) for size in target.shape)])


def _pair(
    config: ModelConfig, width: float, randomise: Randomise, *, heads: bool, lams: bool = True
) -> tuple[Network, Network]:
    """Make a network of several widths, and one built at one of these with copied weights."""
    wide_of = Conditioning(
        LAMS if lams else (),
        encoding_dim=4,
        dual_bn=lams,
        film_init="paper",
        widths=WIDTHS,
        head_per_width=heads,
    )
    narrow_of = replace(wide_of, widths=(1.0,), base_width=width)
    wide, narrow = randomise(_built(config, wide_of)), _built(config, narrow_of)
    _copy_slice(wide, narrow, WIDTHS.index(width))
    return wide, narrow


def _logits_and_gradient(
    logits_fn: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    images = images.clone().requires_grad_()
    logits = logits_fn(images)
    loss = functional.cross_entropy(logits, labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, images)
    assert gradient.abs().max() > 0
    return logits, gradient


FAMILIES = [ModelConfig("resnet8", 4), ModelConfig("wrn-10-2", 4), ModelConfig("resnet50", 4)]


@pytest.mark.parametrize("config", FAMILIES, ids=lambda config: config.name)
@pytest.mark.parametrize("heads", [True, False])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("lam", LAMS)
def test_network_at_a_width_is_one_built_at_that_width_with_the_leading_weights(
    config: ModelConfig, heads: bool, width: float, lam: float, batch: Batch, randomise: Randomise
) -> None:
    wide, narrow = (net.double().eval() for net in _pair(config, width, randomise, heads=heads))
    images, labels = batch[0].double(), batch[1]
    assert wide.encoding is not None
    code, zeros = wide.encoding(lam), 12 if lam == 0 else 0

    def expected_of(x: Tensor) -> Tensor:
        return narrow(x, code, num_zero_lam=zeros)

    expected = _logits_and_gradient(expected_of, images, labels)
    views: list[Callable[[Tensor], Tensor]] = [
        lambda x: wide(x, code, num_zero_lam=zeros, width_mult=width),
        specialize(wide, condition(wide, lam, width)),
        fold(wide, lam, width).double(),
        fold(narrow, lam).double(),
    ]
    for i, view in enumerate(views):
        tolerance = 1e-9 if i < 2 else 1e-4  # a folded network is stored in single precision
        for ours, theirs in zip(_logits_and_gradient(view, images, labels), expected, strict=True):
            atol = tolerance * theirs.abs().max().item()
            torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=atol)


@pytest.mark.parametrize("config", FAMILIES[:2], ids=lambda config: config.name)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("lams", [True, False])
def test_training_at_a_width_is_that_of_a_network_built_at_that_width(
    config: ModelConfig, width: float, lams: bool, batch: Batch, randomise: Randomise
) -> None:
    wide, narrow = (net.double() for net in _pair(config, width, randomise, heads=False, lams=lams))
    images, labels = batch[0].double(), batch[1]
    args: dict[str, Any] = {}
    if lams:
        assert wide.encoding is not None
        index = torch.tensor([0, 0, 0, 0, 1, 2, 1, 2, 2, 1, 1, 2])
        args = {"lam_code": wide.encoding.table, "lam_index": index, "num_zero_lam": 4}
    ours = functional.cross_entropy(wide(images, **args, width_mult=width), labels)
    theirs = functional.cross_entropy(narrow(images, **args), labels)
    torch.testing.assert_close(ours, theirs)
    ours.backward()
    theirs.backward()
    after = copy.deepcopy(narrow)
    _copy_slice(wide, after, WIDTHS.index(width))
    for (key, value), expected in zip(
        after.state_dict().items(), narrow.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(value, expected, msg=key)
    theirs_of = dict(narrow.named_parameters())
    for key, parameter in wide.named_parameters():
        if ".bn." in key and f".bn.{WIDTHS.index(width)}." not in key:
            assert parameter.grad is None, key
            continue
        expected = theirs_of[key.replace(f".bn.{WIDTHS.index(width)}.", ".bn.0.")].grad
        assert parameter.grad is not None, key
        assert expected is not None, key
        # what is out of use has no gradient, so the sums of all powers agree
        for power in (1, 2):
            torch.testing.assert_close(
                parameter.grad.pow(power).sum(), expected.pow(power).sum(), msg=key
            )


@pytest.mark.parametrize("lam", [0.0, 0.3])
def test_weights_out_of_use_at_a_width_do_not_reach_its_logits(
    lam: float, batch: Batch, randomise: Randomise
) -> None:
    wide, _ = _pair(FAMILIES[0], 0.5, randomise, heads=False)
    wide.eval()
    expected = fold(wide, lam, 0.5)(batch[0])
    with torch.no_grad():
        for module in wide.modules():
            if isinstance(module, SlimmableConv2d):
                module.weight[module.out_channels // 2 :] = math.nan
                if module.slim_in:
                    module.weight[:, module.in_channels // 2 :] = math.nan
            elif isinstance(module, SlimmableLinear):
                module.weight[:, module.in_features // 2 :] = math.nan
            elif isinstance(module, Norm2d):
                for bn in module.bn[1:].modules():
                    if isinstance(bn, nn.BatchNorm2d):
                        bn.weight.fill_(math.nan)
                        assert bn.running_mean is not None
                        bn.running_mean.fill_(math.nan)
    assert expected.isfinite().all()
    assert torch.equal(fold(wide, lam, 0.5)(batch[0]), expected)


def test_heads_are_those_of_torch_on_the_leading_features() -> None:
    head = HeadPerWidth(8, 3, (0.5, 1.0))
    half, full = torch.randn(2, 4), torch.randn(2, 8)
    first, second = head.heads
    assert torch.equal(head(half, 0.5), first(half))
    assert torch.equal(head(full), second(full))


@pytest.mark.parametrize("heads", [True, False])
def test_width_that_no_layer_has_is_refused_by_name(heads: bool, batch: Batch) -> None:
    conditioning = Conditioning(widths=(1.0, 0.5), head_per_width=heads)
    network = _built(ModelConfig("resnet8", 4), conditioning)
    for width in (0.25, 0.75, 2.0):
        with pytest.raises(ValueError, match=rf"`width_mult`.*{width:g}"):
            network(batch[0], width_mult=width)


@pytest.mark.parametrize("name", ["resnet8", "wrn-10-1"])
def test_width_that_leaves_no_whole_channel_is_refused_when_the_network_is_built(
    name: str,
) -> None:
    for conditioning in (Conditioning(widths=(1.0, 0.3)), Conditioning(base_width=0.3)):
        with pytest.raises(ValueError, match=r"`width_mult` 0\.3 of 4 channels"):
            _built(ModelConfig(name, 4), conditioning)


@pytest.mark.parametrize("width", [0.0, -1.0, 1.01, math.nan, math.inf])
def test_width_outside_the_unit_interval_is_refused(width: float) -> None:
    with pytest.raises(ValueError, match=r"`width_mult` must be in \(0, 1\]"):
        check_width(width)
