"""The authors' checkpoints: recognised, converted, and the same logits."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from oat.ascent import ball, gradient
from oat.deploy import condition, fold, specialize
from oat.losses import cross_entropy_of
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
SINGLE_BN = replace(OAT, dual_bn=False)
OATS_OF_FOUR = replace(OATS, widths=(0.25, 0.5, 0.75, 1.0))


def theirs(net: Network) -> dict[str, Tensor]:
    """Name our tensors as the authors do, from the layout of their repository."""
    wide = net.config.name.startswith("wrn")
    slim = len(net.conditioning.widths) > 1
    stages = {"resnet18": (2, 2, 2, 2), "wrn-10-2": (1, 1, 1), "wrn-40-2": (6, 6, 6)}[
        net.config.name
    ]
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


@pytest.mark.parametrize(
    ("name", "conditioning", "form"),
    [
        *[
            (name, conditioning, form)
            for name in ("resnet18", "wrn-10-2")
            for conditioning in (PLAIN, OAT, OATS)
            for form in ("bare", "parallel", "latest.pth")
        ],
        ("resnet18", SINGLE_BN, "bare"),
        ("wrn-10-2", SINGLE_BN, "bare"),
        ("wrn-40-2", OAT, "bare"),
        ("wrn-40-2", SINGLE_BN, "bare"),
        ("resnet18", OATS_OF_FOUR, "bare"),
        ("wrn-10-2", OATS_OF_FOUR, "bare"),
    ],
)
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
    assert loaded.conditioning.dual_bn == conditioning.dual_bn
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
    with pytest.raises(OfficialError, match="mapping of names to tensors, got list"):
        load_official([1])  # type: ignore[arg-type]
    wide = theirs(_network("wrn-10-2", PLAIN, randomise))
    cut = {key: tensor for key, tensor in wide.items() if key != "bundle1.0.conv1.weight"}
    with pytest.raises(OfficialError, match=r"first stage has no `conv1\.weight`"):
        load_official(cut)


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


def _place(key: str) -> tuple[float | None, float]:
    """Read λ and width from the name of a vector."""
    lam = float(key.split("lam")[1]) if "lam" in key else None
    return lam, float(key.split("_w")[1].split("_")[0]) if "_w" in key else 1.0


@pytest.fixture(
    scope="module", params=["resnet34", "resnet34_oat", "slimmable_resnet34_oat", "wrn16_8_oat"]
)
def official(request: pytest.FixtureRequest) -> tuple[Network, dict[str, np.ndarray]]:
    """One of the authors' networks with the weights of the rule, and its stored vectors."""
    if not VECTORS.exists():
        pytest.skip("the authors' vectors are not part of the product")
    stored = dict(np.load(VECTORS / f"{request.param}.npz"))
    encoding = torch.tensor(stored["encoding"]) if "oat" in request.param else None
    return load_official(_by_rule(request.param), encoding=encoding), stored


@pytest.mark.slow
def test_the_authors_networks_give_the_authors_logits(
    official: tuple[Network, dict[str, np.ndarray]],
) -> None:
    net, stored = official
    images = torch.tensor(stored["images"]).float()
    keys = [key for key in stored if key.startswith("logits") and "pgd" not in key]
    assert keys
    for key in keys:
        found, want = fold(net, *_place(key))(images), torch.tensor(stored[key])
        assert (found - want).abs().max() < 1e-4 * want.abs().max(), key


@pytest.mark.slow
def test_attacked_the_authors_networks_give_the_authors_logits(
    official: tuple[Network, dict[str, np.ndarray]],
) -> None:
    # A step moves each pixel by the sign of its gradient. Where that is 0 but for rounding, two
    # roundings of the same network may disagree by a few pixels; so one of three must agree.
    single, stored = official
    labels, misses = torch.tensor(stored["labels"]), []
    for key in (key for key in stored if "pgd3" in key):
        want = torch.tensor(stored[key])
        errors = []
        for dtype in (torch.float32, torch.float64):
            net = copy.deepcopy(single).to(dtype)
            cond = condition(net, *_place(key))
            if cond.lam_code is not None:
                cond = replace(cond, lam_code=cond.lam_code.to(dtype))
            forms = [specialize(net, cond)]
            if dtype == torch.float32:
                forms.append(lambda x, net=net, cond=cond: net.logits(x, cond))  # type: ignore[misc]
            for form in forms:
                images = torch.tensor(stored["images"]).to(dtype)
                lower, upper = ball(images, 8 / 255)
                images_adv = (images + torch.tensor(stored["pgd_start"])).clamp(0, 1)
                for _ in range(3):
                    grad, _ = gradient(form, cross_entropy_of(labels), images_adv)
                    images_adv = (images_adv + 10 / 255 / 7 * grad.sign()).clamp(lower, upper)
                with torch.no_grad():
                    errors.append((form(images_adv) - want).abs().max() / want.abs().max())
        assert max(errors) < 1e-3, key
        if min(errors) > 1e-4:
            misses.append(key)
    assert len(misses) <= 1
