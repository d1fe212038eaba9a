"""The authors' checkpoints: recognised, converted, and the same logits."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from oat.deploy import fold
from oat.models import Conditioning, ModelConfig, Network, OfficialError, build, load_official

LAMS = (0.0, 0.1, 0.2, 0.3, 0.4, 1.0)
VECTORS = Path(__file__).parents[3] / "shared" / "data" / "official-vectors"
Randomise = Callable[[Network], Network]

PLAIN = Conditioning()
OAT = Conditioning(lambda_choices=LAMS, encoding_dim=16, dual_bn=True)
OATS = Conditioning(
    lambda_choices=LAMS,
    encoding_dim=16,
    dual_bn=True,
    widths=(0.5, 1.0),
    film_slices="leading",
)


def theirs(net: Network) -> dict[str, Tensor]:
    """Name our tensors as the authors do, from the layout of their repository."""
    wide = net.config.name.startswith("wrn")
    slim = len(net.conditioning.widths) > 1
    stages = {"resnet18": (2, 2, 2, 2), "wrn-10-2": (1, 1, 1)}[net.config.name]
    firsts = [sum(stages[:s]) for s in range(len(stages))]
    outer = {"stem.conv": "conv1", "stem.norm": "1", "last_norm": "1", "head": "linear"}
    inner = {"layers.0.conv": "conv1", "layers.1.conv": "conv2", "layers.0.norm": "1"}
    inner |= {"layers.1.norm": "2", "shortcut.conv": "conv_sc", "shortcut.norm": "sc"}
    if wide:
        outer["head"] = "fc"
        inner = {"norm": "1", "first.norm": "2", "first.conv": "conv1", "second.conv": "conv2"}
        inner |= {"shortcut.conv": "convShortcut"}
    named = {}
    for name, tensor in net.state_dict().items():
        if name.startswith("encoding."):
            continue
        prefix, rest, table = "", name, outer
        if name.startswith("blocks."):
            _, number, rest = name.split(".", 2)
            stage = max(s for s, first in enumerate(firsts) if first <= int(number))
            prefix, table = f"bundle{stage + 1}.{int(number) - firsts[stage]}.", inner
        part = max((p for p in table if rest.startswith(p + ".")), key=len)
        what, field = table[part], rest[len(part) + 1 :]
        if field.startswith("bn."):
            _, width, *sides = field.split(".")
            sides = [{"clean": "BN_c", "adv": "BN_a"}.get(s, s) for s in sides]
            if slim:
                sides.insert(1 if len(sides) == 2 else 0, width)
            name = f"bn{'_' if what == 'sc' else ''}{what}." + ".".join(sides)
        elif field.startswith("film."):
            inside = field.removeprefix("film.").replace("hidden", "MLP.0").replace("out", "MLP.2")
            name = f"film{what}.{inside}"
        else:
            name = f"{what}.{field}"
        named[prefix + name] = tensor
    return named


def _network(name: str, conditioning: Conditioning, randomise: Randomise) -> Network:
    torch.manual_seed(1)
    net = build(ModelConfig(name, 4), in_channels=3, num_classes=5, conditioning=conditioning)
    return randomise(net).eval()


@pytest.mark.parametrize("name", ["resnet18", "wrn-10-2"])
@pytest.mark.parametrize("conditioning", [PLAIN, OAT, OATS], ids=["plain", "oat", "oats"])
@pytest.mark.parametrize("form", ["bare", "parallel", "latest.pth"])
def test_a_network_under_their_names_gives_its_own_logits(
    name: str, conditioning: Conditioning, form: str, randomise: Randomise
) -> None:
    net = _network(name, conditioning, randomise)
    state = theirs(net)
    wrapped = {
        "bare": state,
        "parallel": {f"module.{key}": tensor for key, tensor in state.items()},
        "latest.pth": {"model": state, "epoch": 3, "optimizer": {}},
    }[form]
    table = None if net.encoding is None else net.encoding.table
    loaded = load_official(wrapped, encoding=table)
    assert loaded.config.name == name
    assert loaded.conditioning.widths == conditioning.widths
    images = torch.rand(3, 3, 16, 16)
    for width in conditioning.widths:
        for lam in LAMS if conditioning.lambda_choices else (None,):
            ours, again = fold(net, lam, width)(images), fold(loaded, lam, width)(images)
            assert torch.equal(ours, again)


@pytest.mark.parametrize("lost", ["linear.weight", "conv1.weight", "bundle2.0.film1.MLP.2.bias"])
def test_a_state_dict_that_is_cut_off_is_refused_in_a_sentence(
    lost: str, randomise: Randomise
) -> None:
    net = _network("resnet18", OAT, randomise)
    state = theirs(net)
    del state[lost]
    assert net.encoding is not None
    with pytest.raises(OfficialError, match=r"The state dict (has|is cut off).*\."):
        load_official(state, encoding=net.encoding.table)


def test_what_does_not_fit_is_named(randomise: Randomise) -> None:
    net = _network("resnet18", OAT, randomise)
    assert net.encoding is not None
    state = theirs(net)
    with pytest.raises(OfficialError, match="`encoding` must be its matrix"):
        load_official(state)
    with pytest.raises(OfficialError, match="must have at least 6 rows of length 16"):
        load_official(state, encoding=torch.eye(8))
    with pytest.raises(OfficialError, match="`attention\\.weight`, which none"):
        load_official({**state, "attention.weight": torch.ones(1)}, encoding=net.encoding.table)
    name = "bundle1.0.conv2.weight"
    with pytest.raises(OfficialError, match="bundle1\\.0\\.conv2\\.weight` must have the shape"):
        load_official({**state, name: torch.ones(2, 2)}, encoding=net.encoding.table)
    with pytest.raises(OfficialError, match="none of the networks"):
        load_official({"weight": torch.ones(2)})


def _by_rule(name: str) -> dict[str, Tensor]:
    """Make the weights that the vectors were computed with; the rule stands beside them."""
    shapes = json.loads((VECTORS / f"{name}.keys.json").read_text())
    state = {}
    for i, key in enumerate(sorted(shapes)):
        shape = tuple(shapes[key])
        z = np.random.RandomState(i).standard_normal(int(np.prod(shape))).reshape(shape)
        if key.endswith("running_var"):
            z = 1 + 0.5 * np.abs(z)
        elif key.endswith("running_mean"):
            z = 0.1 * z
        elif len(shape) >= 2:
            z = z * np.sqrt(2 / np.prod(shape[1:]))
        elif key.endswith("weight"):
            z = 1 + 0.1 * z
        else:
            z = 0.1 * z
            if key.endswith("MLP.2.bias"):
                z[: len(z) // 2] += 1
        integer = key.endswith("num_batches_tracked")
        state[key] = torch.tensor(0) if integer else torch.tensor(z, dtype=torch.float32)
    return state


@pytest.mark.skipif(not VECTORS.exists(), reason="the authors' vectors are not part of the product")
@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "name", ["resnet34", "resnet34_oat", "slimmable_resnet34_oat", "wrn16_8_oat"]
)
def test_the_authors_networks_give_the_authors_logits(name: str) -> None:
    stored = np.load(VECTORS / f"{name}.npz")
    net = load_official(
        _by_rule(name), encoding=torch.tensor(stored["encoding"]) if "oat" in name else None
    )
    images = torch.tensor(stored["images"]).float()
    compared = 0
    for key in stored.files:
        if not key.startswith("logits") or "pgd" in key:
            continue
        lam = float(key.split("lam")[1]) if "lam" in key else None
        width = float(key.split("_w")[1].split("_")[0]) if "_w" in key else 1.0
        found, want = fold(net, lam, width)(images), torch.tensor(stored[key])
        assert (found - want).abs().max() < 1e-4 * want.abs().max(), key
        compared += 1
    assert compared >= 1
