import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from oat.models.slimmable import SlimmableConv2d, SlimmableLinear, scaled


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
