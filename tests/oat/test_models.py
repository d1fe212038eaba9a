from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn

from oat.models import (
    Conditioning,
    ModelConfig,
    Network,
    build,
    count_parameters,
    flops,
    stored_bytes,
)
from oat.models.network import STAGES
from oat.models.norm import Norm2d

LAMS = (0.0, 0.3, 1.0)
Randomise = Callable[[Network], Network]


def _conditional(
    *, dual_bn: bool = True, widths: tuple[float, ...] = (1.0,), name: str = "resnet8"
) -> Network:
    conditioning = Conditioning(LAMS, encoding_dim=4, dual_bn=dual_bn, widths=widths)
    return build(ModelConfig(name, 4), in_channels=3, num_classes=5, conditioning=conditioning)


@pytest.mark.parametrize(
    ("name", "reference"),
    [("resnet18", torchvision.models.resnet18), ("resnet50", torchvision.models.resnet50)],
)
def test_plain_network_is_torchvisions_with_a_stem_for_small_images(
    name: str, reference: Callable[..., nn.Module]
) -> None:
    ours = build(ModelConfig(name), in_channels=3, num_classes=5).eval()
    theirs = reference(num_classes=5).eval()
    theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    theirs.maxpool = nn.Identity()
    values = list(ours.state_dict().values())  # both list convolution, norm, ..., shortcut, head
    theirs.load_state_dict(dict(zip(theirs.state_dict(), values, strict=True)))
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-4)


def test_published_sizes_of_resnet34_plain_and_conditional() -> None:
    plain = build(ModelConfig("resnet34"), in_channels=3, num_classes=10)
    assert round(count_parameters(plain) / 1e6, 2) == 21.28
    conditional = build(
        ModelConfig("resnet34"),
        in_channels=3,
        num_classes=10,
        conditioning=Conditioning((0.0, 0.1, 0.2, 0.3, 0.4, 1.0), dual_bn=True),
    )
    assert round(count_parameters(conditional) / 1e6, 2) == 33.36


@pytest.mark.parametrize("name", STAGES)
def test_every_network_maps_images_to_logits(name: str) -> None:
    network = build(ModelConfig(name, 2), in_channels=1, num_classes=7).eval()
    assert network(torch.rand(2, 1, 16, 16)).shape == (2, 7)


@pytest.mark.parametrize(("name", "depth"), [("resnet20", 20), ("resnet18", 18), ("resnet50", 50)])
def test_the_number_in_a_name_counts_its_layers(name: str, depth: int) -> None:
    network = build(ModelConfig(name, 2), in_channels=3, num_classes=5)
    shortcuts = {id(m) for k, m in network.named_modules() if "shortcut" in k}
    layers = [
        m
        for m in network.modules()
        if isinstance(m, nn.Conv2d | nn.Linear) and id(m) not in shortcuts
    ]
    assert len(layers) == depth


def test_families_have_their_own_first_width() -> None:
    assert ModelConfig("resnet20").first_width == 16
    assert ModelConfig("resnet18").first_width == 64
    assert ModelConfig("resnet18", 8).first_width == 8


def test_channels_double_where_the_image_halves() -> None:
    network = build(ModelConfig("resnet18", 4), in_channels=3, num_classes=5).eval()
    shapes: list[tuple[int, ...]] = []
    for block in network.blocks:
        block.register_forward_hook(lambda _m, _args, out: shapes.append(tuple(out.shape[1:])))
    network(torch.rand(1, 3, 16, 16))
    assert shapes[::2] == [(4, 16, 16), (8, 8, 8), (16, 4, 4), (32, 2, 2)]


def test_film_follows_every_norm_but_that_of_a_shortcut() -> None:
    for name, module in _conditional(name="resnet18").named_modules():
        if isinstance(module, Norm2d):
            assert (module.film is None) == ("shortcut" in name), name


def test_convolutions_start_with_he_initialisation() -> None:
    network = build(ModelConfig("resnet18", 32), in_channels=3, num_classes=5)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    for conv in convolutions:
        if conv.weight.numel() > 10_000:
            fan_out = conv.out_channels * conv.kernel_size[0] ** 2
            assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)


def test_building_repeats_with_the_global_seed() -> None:
    def weights(seed: int) -> Tensor:
        torch.manual_seed(seed)
        network = _conditional()
        return torch.cat([value.double().flatten() for value in network.state_dict().values()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize("dual_bn", [True, False])
def test_each_row_sees_its_own_lambda_only(
    dual_bn: bool, batch: tuple[Tensor, Tensor], randomise: Randomise
) -> None:
    network = randomise(_conditional(dual_bn=dual_bn)).double().eval()
    images = batch[0].double()
    index = torch.tensor([0, 0, 0, 1, 2, 2, 1, 1, 2, 1, 2, 1])
    assert network.encoding is not None
    codes = network.encoding.table
    together = network(images, codes, lam_index=index, num_zero_lam=3)
    spelled_out = network(images, codes[index], num_zero_lam=3)
    alone = torch.cat(
        [
            network(images[i : i + 1], codes[j : j + 1], num_zero_lam=int(j == 0))
            for i, j in enumerate(index.tolist())
        ]
    )
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(spelled_out, alone)


def test_lambda_and_width_change_the_logits(
    batch: tuple[Tensor, Tensor], randomise: Randomise
) -> None:
    network = randomise(_conditional(widths=(1.0, 0.5))).eval()
    assert network.encoding is not None
    outs = [
        network(batch[0], network.encoding(lam), num_zero_lam=0, width_mult=width)
        for lam, width in [(0.3, 1.0), (1.0, 1.0), (0.3, 0.5)]
    ]
    clean = network(batch[0], network.encoding(0.3), num_zero_lam=len(batch[0]))
    outs.append(clean)
    for i, a in enumerate(outs):
        for b in outs[:i]:
            assert (a - b).abs().max() > 1e-3 * a.abs().max()


def test_training_at_lambda_zero_leaves_the_adversarial_statistics_alone(
    batch: tuple[Tensor, Tensor],
) -> None:
    network = _conditional()
    before = {k: v.clone() for k, v in network.state_dict().items() if "running" in k}
    assert network.encoding is not None
    network(batch[0], network.encoding(0.0), num_zero_lam=len(batch[0]))
    for key, value in network.state_dict().items():
        if "running" in key:
            assert torch.equal(value, before[key]) == (".adv." in key), key


def test_condition_that_does_not_fit_the_network_is_refused(batch: tuple[Tensor, Tensor]) -> None:
    images, code = batch[0], torch.zeros(1, 4)
    plain, conditional = (
        build(ModelConfig("resnet8", 4), in_channels=3, num_classes=5),
        _conditional(),
    )
    with pytest.raises(ValueError, match="`lam_code` must be None"):
        plain(images, code, num_zero_lam=0)
    with pytest.raises(ValueError, match="`lam_code` is required"):
        conditional(images)
    with pytest.raises(ValueError, match="`num_zero_lam` is required"):
        conditional(images, code)
    with pytest.raises(ValueError, match="`width_mult`"):
        conditional(images, code, num_zero_lam=0, width_mult=0.5)


def test_unknown_network_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match="'resnet43'; did you mean 'resnet34'"):
        ModelConfig("resnet43")
    with pytest.raises(ValueError, match="`width`"):
        ModelConfig("resnet8", 0)


def test_parameters_bytes_and_flops_of_a_small_network_as_counted_by_hand() -> None:
    network = build(ModelConfig("resnet8", 2), in_channels=3, num_classes=5).eval()
    # (inputs, outputs, kernel, side of the output) of each convolution on an 8 x 8 image
    convolutions = [
        (3, 2, 3, 8),
        (2, 2, 3, 8), (2, 2, 3, 8),
        (2, 4, 3, 4), (4, 4, 3, 4), (2, 4, 1, 4),
        (4, 8, 3, 2), (8, 8, 3, 2), (4, 8, 1, 2),
    ]  # fmt: skip
    weights = sum(i * o * k * k for i, o, k, _ in convolutions)
    channels = sum(o for _, o, _, _ in convolutions)
    head = 8 * 5 + 5
    assert count_parameters(network) == weights + 2 * channels + head
    counters = 8 * len(convolutions)  # batches seen by each norm, as int64
    assert stored_bytes(network) == 4 * (weights + 4 * channels + head) + counters
    multiply_adds = sum(i * o * k * k * s * s for i, o, k, s in convolutions) + 8 * 5
    assert flops(network, (3, 8, 8)) == 2 * multiply_adds
