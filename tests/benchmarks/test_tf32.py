import pytest
import torch
from torch.nn import functional

from benchmarks.tf32 import CONVOLVE, in_tf32, rounded


def test_rounding_keeps_ten_bits_and_goes_to_the_nearest() -> None:
    values = torch.randn(10_000) * torch.logspace(-20, 20, 10_000)
    found = rounded(values)
    assert torch.equal(rounded(found), found)
    assert (found.view(torch.int32) & 0x1FFF == 0).all()
    assert ((found - values).abs() <= values.abs() * 2.0**-11).all()
    assert torch.equal(rounded(torch.tensor([1.0, -1.5, 0.0])), torch.tensor([1.0, -1.5, 0.0]))


@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_and_their_gradients_take_rounded_inputs(stride: int) -> None:
    images = torch.randn(2, 3, 8, 8, requires_grad=True)
    twin = rounded(images).requires_grad_()
    weight, bias = torch.randn(5, 3, 3, 3), torch.randn(5)
    with in_tf32():
        out = functional.conv2d(images, weight, bias, (stride, stride), (1, 1))
    expected = CONVOLVE(twin, rounded(weight), bias, (stride, stride), (1, 1))
    torch.testing.assert_close(out, expected)
    grad = rounded(torch.randn_like(out))
    (found,) = torch.autograd.grad(out, images, grad)
    torch.testing.assert_close(found, torch.autograd.grad(expected, twin, grad)[0])
    assert functional.conv2d is CONVOLVE, "it is put back"


def test_products_and_their_gradients_take_rounded_inputs() -> None:
    features = torch.randn(4, 6, requires_grad=True)
    twin, weight = rounded(features).requires_grad_(), torch.randn(3, 6)
    with in_tf32():
        out = functional.linear(features, weight, torch.ones(3))
    expected = functional.linear(twin, rounded(weight), torch.ones(3))
    torch.testing.assert_close(out, expected)
    grad = rounded(torch.randn_like(out))
    (found,) = torch.autograd.grad(out, features, grad)
    torch.testing.assert_close(found, torch.autograd.grad(expected, twin, grad)[0])
