import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from oat.deploy import specialize
from oat.lambdas import LambdaSampler
from oat.models import Conditioning, ModelConfig, build
from oat.models.compute import BatchNorm, Compute, Film, conv2d, finish, normalise
from oat.models.norm import Condition


def _features(*shape: int, seed: int = 0) -> Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return drawn.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else drawn


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("side", "channels"), [(8, (4, 8)), (7, (8, 6)), (5, (3, 1))])
def test_a_strided_convolution_equals_the_librarys(
    kernel: int, stride: int, side: int, channels: tuple[int, int]
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on several, some of the library's own corrupt the heap
    try:
        pair = []
        for convolve in (conv2d, functional.conv2d):
            x = _features(5, channels[0], side, side).requires_grad_()
            weight = _features(channels[1], channels[0], kernel, kernel, seed=1).requires_grad_()
            padding = (kernel // 2, kernel // 2)
            out = convolve(x, weight, None, (stride, stride), padding)
            out.square().sum().backward()
            assert x.grad is not None
            assert weight.grad is not None
            pair.append((out, x.grad, weight.grad))
    finally:
        torch.set_num_threads(threads)
    for ours, theirs in zip(*pair, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-5)


def test_a_convolution_runs_in_the_type_of_the_features() -> None:
    weight, bias = torch.randn(4, 3, 3, 3), torch.randn(4)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        out = conv2d(torch.randn(2, 3, 6, 6).to(dtype), weight, bias, (1, 1), (1, 1))
        assert out.dtype == dtype


def test_finishing_scales_shifts_adds_and_cuts() -> None:
    x = torch.tensor([1.0, -2.0]).view(2, 1, 1, 1)
    film = Film(torch.tensor([[2.0], [3.0]]), torch.ones(2, 1))
    add = torch.tensor([-4.0, 9.0]).view(2, 1, 1, 1)
    assert finish(x, film, None, False).flatten().tolist() == [3.0, -5.0]
    assert finish(x, film, add, False).flatten().tolist() == [-1.0, 4.0]
    assert finish(x, film, add, True).flatten().tolist() == [0.0, 4.0]
    assert finish(x, None, None, False) is x


def test_the_arithmetic_of_an_affine_is_float32_where_features_are_bfloat16() -> None:
    # 1 + 2**-12 is no bfloat16: as a factor in bfloat16 it would be 1
    x = torch.full((1, 1, 1, 1), 3.0, dtype=torch.bfloat16)
    out = finish(x, Film(torch.full((1, 1), 1 + 2**-12), torch.full((1, 1), -3.0)), None, False)
    assert out.dtype == torch.bfloat16
    assert out.item() == pytest.approx(3 * 2**-12)


def _norm(channels: int, seed: int) -> BatchNorm:
    weight, bias = (_features(channels, seed=seed + i).requires_grad_() for i in range(2))
    return BatchNorm(torch.zeros(channels), torch.ones(channels), weight, bias, True, 0.1, 1e-5)


def test_two_norms_take_the_first_rows_and_the_rest() -> None:
    x = _features(7, 3, 4, 4)
    both = normalise(x, [_norm(3, 1), _norm(3, 5)], 2, None, None, False)
    first = normalise(x[:2], [_norm(3, 1)], 0, None, None, False)
    rest = normalise(x[2:], [_norm(3, 5)], 0, None, None, False)
    assert torch.equal(both, torch.cat([first, rest]))


@pytest.mark.parametrize("name", ["resnet8", "resnet50", "wrn-10-1"])
def test_the_view_in_bfloat16_is_the_one_in_float32_within_its_rounding(name: str) -> None:
    asked = Conditioning((0.0, 0.2, 1.0), dual_bn=True, film_init="paper")
    torch.manual_seed(0)
    model = build(ModelConfig(name, 8), in_channels=3, num_classes=10, conditioning=asked).eval()
    assert model.encoding is not None
    index = LambdaSampler((0.2, 1.0)).draw(16, generator=torch.Generator().manual_seed(0)).index
    cond = Condition(model.encoding.encode(torch.tensor([0.2, 1.0])), index % 2, 0)
    images = torch.rand(16, 3, 16, 16)
    exact = specialize(model, cond)(images)
    model.compute = Compute(torch.bfloat16)
    rounded = specialize(model, cond)(images)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    # some 20 roundings of 2**-9 each
    assert (rounded - exact).norm() / exact.norm() < 20 * 2**-9


def test_weights_norms_and_logits_stay_float32_in_bfloat16() -> None:
    model = build(ModelConfig("resnet8", 4), in_channels=1, num_classes=3)
    model.compute = Compute(torch.bfloat16)
    types = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda m, i, o: types.append(o.dtype))
    logits = model(torch.rand(4, 1, 8, 8))
    logits.sum().backward()
    assert set(types) == {torch.bfloat16}
    assert logits.dtype == torch.float32
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}
    assert {b.dtype for n, b in model.named_buffers() if "running" in n} == {torch.float32}
