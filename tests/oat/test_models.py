import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torchvision
from torch import Tensor, nn

from oat.deploy import condition, fold, specialize
from oat.encodings import Encoding
from oat.models import (
    Conditioning,
    ModelConfig,
    Network,
    build,
    build_unfilled,
    count_parameters,
    flops,
    forward_flops,
    in_situ_cost,
    relative_flops,
    stored_bytes,
)
from oat.models.config import STAGES
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


@pytest.mark.parametrize(
    ("name", "dropout", "plain", "conditional"),
    [
        ("resnet34", 0.0, 21.28, 33.36),
        ("wrn-16-8", 0.3, 10.96, 16.23),
        ("wrn-40-2", 0.3, 2.24, 3.89),
    ],
)
def test_published_sizes_plain_and_with_film_and_dual_batch_norm(
    name: str, dropout: float, plain: float, conditional: float
) -> None:
    film = Conditioning((0.0, 0.1, 0.2, 0.3, 0.4, 1.0), encoding_dim=128, dual_bn=True)
    for conditioning, published in ((Conditioning(), plain), (film, conditional)):
        with torch.device("meta"):
            network = build(
                ModelConfig(name, dropout=dropout),
                in_channels=3,
                num_classes=10,
                conditioning=conditioning,
            )
        assert round(count_parameters(network) / 1e6, 2) == published


def test_published_size_of_wrn_34_10() -> None:
    with torch.device("meta"):
        network = build(ModelConfig("wrn-34-10"), in_channels=3, num_classes=10)
    assert round(count_parameters(network) / 1e6, 2) == 46.16


BUILT = [
    ModelConfig("resnet18", 2),
    ModelConfig("resnet34", 2),
    ModelConfig("resnet50", 2),
    ModelConfig("wrn-16-8", 2, dropout=0.3),
    ModelConfig("wrn-40-2", 2, dropout=0.3),
    ModelConfig("wrn-34-10", 2),
]


@pytest.mark.parametrize("config", BUILT, ids=lambda config: config.name)
@pytest.mark.parametrize("lams", [(), LAMS])
@pytest.mark.parametrize("widths", [(1.0,), (0.5, 1.0)])
def test_every_family_trains_and_judges_plain_conditional_and_slimmable(
    config: ModelConfig, lams: tuple[float, ...], widths: tuple[float, ...]
) -> None:
    conditioning = Conditioning(lams, encoding_dim=4, dual_bn=bool(lams), widths=widths)
    network = build(config, in_channels=1, num_classes=7, conditioning=conditioning)
    images = torch.rand(4, 1, 16, 16)
    code = network.encoding(0.3) if network.encoding is not None else None
    for width in widths:
        logits = network(images, code, num_zero_lam=2 if lams else None, width_mult=width)
        assert logits.shape == (4, 7)
        logits.square().sum().backward()
        folded = fold(network, 0.3 if lams else None, width)
        network.eval()
        expected = network(images, code, num_zero_lam=0 if lams else None, width_mult=width)
        network.train()
        atol = 1e-4 * expected.abs().max().item()
        torch.testing.assert_close(folded(images), expected, rtol=1e-4, atol=atol)
    if widths == (1.0,):
        assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize("size", [8, 9, 28, 32, 64, 96])
@pytest.mark.parametrize("name", ["resnet18", "resnet20", "wrn-10-2"])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_may_have_any_side_from_8_to_96(name: str, size: int, channels: int) -> None:
    conditioning = Conditioning(LAMS, encoding_dim=4, dual_bn=True, widths=(0.5, 1.0))
    network = build(
        ModelConfig(name, 2), in_channels=channels, num_classes=5, conditioning=conditioning
    )
    images = torch.rand(4, channels, size, size)
    assert network.encoding is not None
    for width in (0.5, 1.0):
        logits = network(images, network.encoding(1.0), num_zero_lam=2, width_mult=width)
        assert logits.shape == (4, 5)
        assert fold(network, 1.0, width)(images).isfinite().all()


@pytest.mark.parametrize(("name", "depth"), [("wrn-16-8", 16), ("wrn-40-2", 40), ("wrn-34-10", 34)])
def test_depth_in_the_name_of_a_wide_network_counts_its_convolutions(name: str, depth: int) -> None:
    with torch.device("meta"):
        network = build(ModelConfig(name, 1), in_channels=3, num_classes=5)
    assert sum(isinstance(module, nn.Conv2d) for module in network.modules()) == depth


def test_dropout_acts_in_training_only_and_never_in_a_frozen_view(
    batch: tuple[Tensor, Tensor], randomise: Randomise
) -> None:
    network = randomise(
        build(ModelConfig("wrn-10-1", 4, dropout=0.5), in_channels=3, num_classes=5)
    )
    torch.manual_seed(1)
    first, second = network(batch[0]), network(batch[0])
    torch.manual_seed(1)
    assert torch.equal(network(batch[0]), first)
    assert not torch.allclose(first, second)
    state = torch.get_rng_state()
    view = specialize(network, condition(network, None))
    assert torch.equal(view(batch[0]), view(batch[0]))
    torch.testing.assert_close(view(batch[0]), network.eval()(batch[0]), rtol=1e-4, atol=1e-4)
    assert torch.equal(torch.get_rng_state(), state)


def test_last_norm_of_a_wide_network_has_no_film_but_all_others_do() -> None:
    for key, module in _conditional(name="wrn-10-2").named_modules():
        if isinstance(module, Norm2d):
            assert (module.film is None) == (key == "last_norm"), key


def _wide_parts(base: int, widen: int) -> list[tuple[int, int, int, int]]:
    """List (inputs, outputs, kernel, side of the output) of the convolutions of a wrn-10."""
    parts = [(3, base, 3, 8)]
    channels = base
    for stage, side in enumerate((8, 4, 2)):
        out = base * widen << stage
        parts += [(channels, out, 3, side), (out, out, 3, side)]
        parts += [(channels, out, 1, side)] if channels != out else []
        channels = out
    return parts


@pytest.mark.parametrize("width", [1.0, 0.75, 0.5])
@pytest.mark.parametrize("heads", [True, False])
def test_cost_in_place_of_a_wide_network_at_a_width_as_counted_by_hand(
    width: float, heads: bool
) -> None:
    conditioning = Conditioning(
        LAMS, encoding_dim=6, dual_bn=True, widths=(1.0, 0.75, 0.5), head_per_width=heads
    )
    network = build(
        ModelConfig("wrn-10-2", 4), in_channels=3, num_classes=5, conditioning=conditioning
    )
    base = round(4 * width)
    parts = _wide_parts(base, 2)
    weights = sum(i * o * k * k for i, o, k, _ in parts)
    with_film = [base, *(base * 2 << s for s in (0, 0, 1, 1, 2))]
    norms = [*with_film, base * 8]
    hidden, out = sum(2 * c * 6 for c in with_film), sum(4 * c * c for c in with_film)
    film = hidden + out + sum(4 * c for c in with_film)
    head = base * 8 * 5
    cost = in_situ_cost(network, (3, 8, 8), width)
    assert cost.parameters == weights + 4 * sum(norms) + film + head + 5
    multiply_adds = sum(i * o * k * k * s * s for i, o, k, s in parts) + hidden + out + head
    assert cost.flops == 2 * multiply_adds
    assert flops(network, (3, 8, 8), width) == cost.flops
    assert flops(fold(network, 0.3, width), (3, 8, 8)) == 2 * (multiply_adds - hidden - out)


@pytest.mark.parametrize("encoding", ["none", "continuous", "random"])
def test_cost_in_place_draws_nothing_and_leaves_the_network_as_it_was(encoding: Encoding) -> None:
    conditioning = Conditioning(LAMS, encoding=encoding, encoding_dim=4, widths=(1.0, 0.5))
    network = build(
        ModelConfig("resnet8", 4), in_channels=3, num_classes=5, conditioning=conditioning
    )
    state = torch.get_rng_state()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    cost = in_situ_cost(network, (3, 8, 8), 0.5)
    flops(network, (3, 8, 8), 0.5)
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    narrow = replace(conditioning, widths=(1.0,), base_width=0.5)
    alone = build(ModelConfig("resnet8", 4), in_channels=3, num_classes=5, conditioning=narrow)
    assert cost == in_situ_cost(alone, (3, 8, 8))
    assert cost.parameters == count_parameters(alone)


@pytest.mark.parametrize("width", [0.5, 1.0])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 13, 7)])
@pytest.mark.parametrize("name", [*STAGES, "wrn-10-1", "wrn-16-2", "wrn-22-8"])
def test_operations_are_known_from_the_config_alone(
    name: str, shape: tuple[int, int, int], width: float
) -> None:
    config = ModelConfig(name, 4)
    asked = Conditioning(base_width=width)
    net = build_unfilled(config, in_channels=shape[0], num_classes=7, conditioning=asked)
    assert forward_flops(config, shape, 7, width) == flops(net, shape)


@pytest.mark.parametrize("config", [ModelConfig("resnet8", 4), ModelConfig("wrn-10-2", 4)])
@pytest.mark.parametrize("width", [0.25, 0.5, 0.75, 1.0])
def test_relative_operations_are_those_of_networks_built_at_both_widths(
    config: ModelConfig, width: float
) -> None:
    full, narrow = (
        build(config, in_channels=3, num_classes=10, conditioning=Conditioning(base_width=w))
        for w in (1.0, width)
    )
    expected = flops(narrow, (3, 8, 8)) / flops(full, (3, 8, 8))
    assert relative_flops(config, width, (3, 8, 8)) == expected
    assert width**2 <= expected <= width


def test_reloaded_network_keeps_its_encoding_matrix(
    batch: tuple[Tensor, Tensor], randomise: Randomise
) -> None:
    torch.manual_seed(1)
    saved = randomise(_conditional(widths=(1.0, 0.5)))
    torch.manual_seed(2)
    loaded = _conditional(widths=(1.0, 0.5))
    assert saved.encoding is not None
    assert loaded.encoding is not None
    assert not torch.equal(saved.encoding.table, loaded.encoding.table)
    loaded.load_state_dict(saved.state_dict())
    for lam in LAMS:
        for width in (1.0, 0.5):
            ours, theirs = (fold(net, lam, width)(batch[0]) for net in (loaded, saved))
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ["wrn-15-2", "wrn-4-2", "wrn-16-0", "wrn-16-00", "wrn-16-2x"])
def test_wide_network_that_cannot_be_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        ModelConfig(name)


@pytest.mark.parametrize("dropout", [-0.1, 1.0, math.nan])
def test_dropout_out_of_range_or_in_a_resnet_is_refused(dropout: float) -> None:
    with pytest.raises(ValueError, match="`dropout`"):
        ModelConfig("wrn-16-2", dropout=dropout)
    with pytest.raises(ValueError, match="`dropout`"):
        ModelConfig("resnet8", dropout=0.3)
