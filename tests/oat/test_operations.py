import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from oat.models import Conditioning, ModelConfig, build, build_unfilled, flops
from oat.models.operations import Operations

IMAGE = (3, 16, 16)
FAMILIES = [ModelConfig("resnet8", 4), ModelConfig("resnet50", 4), ModelConfig("wrn-16-2", 4)]


@pytest.mark.parametrize("config", FAMILIES, ids=lambda config: config.name)
@pytest.mark.parametrize("width", [None, 0.5, 1.0])
def test_operations_are_those_that_torch_counts_for_one_image(
    config: ModelConfig, width: float | None
) -> None:
    conditioning = None if width is None else Conditioning((0.0, 1.0), widths=(0.5, 1.0))
    net = build(config, in_channels=3, num_classes=5, conditioning=conditioning).eval()
    code = None if net.encoding is None else net.encoding.table[:1]
    zeros = None if code is None else 0
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, *IMAGE), code, num_zero_lam=zeros, width_mult=width or 1.0)
    assert flops(net, IMAGE, width or 1.0) == counter.get_total_flops() > 0


def test_other_operations_are_counted_by_torchs_formulas() -> None:
    left, right = torch.zeros(2, 3, 4), torch.zeros(2, 4, 5)
    with Operations() as counter:
        torch.bmm(left, right)
    assert counter.total == 2 * 2 * 3 * 4 * 5


def test_a_network_that_is_not_filled_has_every_shape_and_draws_nothing() -> None:
    config, conditioning = ModelConfig("resnet8", 4), Conditioning((0.0, 0.5, 1.0))
    before = torch.get_rng_state()
    bare = build_unfilled(config, in_channels=3, num_classes=5, conditioning=conditioning)
    assert torch.equal(torch.get_rng_state(), before)
    full = build(config, in_channels=3, num_classes=5, conditioning=conditioning)
    assert not torch.equal(torch.get_rng_state(), before)
    shapes = {name: tensor.shape for name, tensor in full.state_dict().items()}
    assert {name: tensor.shape for name, tensor in bare.state_dict().items()} == shapes
    assert all(tensor.device.type == "cpu" for tensor in bare.state_dict().values())
