"""A network with λ as an input is the folded network at every λ, image by image."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from oat.deploy import fold
from oat.knob import Knob, MixtureKnob
from oat.models import Conditioning, Mixture, ModelConfig, Network, build

LAMS = (0.0, 0.1, 1.0)
FAMILIES = ("resnet8", "resnet50", "wrn-10-1")
Randomise = Callable[[Network], Network]


def _network(name: str, randomise: Randomise, **asked: object) -> Network:
    conditioning = Conditioning(
        **{"lambda_choices": LAMS, "encoding_dim": 16, "dual_bn": True, **asked}  # type: ignore[arg-type]
    )
    return randomise(
        build(ModelConfig(name, width=8), in_channels=3, num_classes=5, conditioning=conditioning)
    )


def _images(count: int) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("width", [1.0, 0.5])
@pytest.mark.parametrize("encoding", ["random", "onehot", "dct", "none", "continuous"])
@pytest.mark.parametrize("name", FAMILIES)
def test_each_image_has_the_logits_of_the_network_folded_at_its_lam(
    name: str, encoding: str, width: float, randomise: Randomise
) -> None:
    model = _network(name, randomise, encoding=encoding, widths=(1.0, 0.5))
    images, lams = _images(6), (0.1, 0.0, 1.0, 0.1, 1.0, 0.0)
    with torch.no_grad():
        knob = Knob(model, width)
        found, moved = (knob(images, torch.tensor(lams).roll(by)) for by in (0, 1))
        each = [fold(model, lam, width)(images[i : i + 1]) for i, lam in enumerate(lams)]
    torch.testing.assert_close(found, torch.cat(each), rtol=1e-4, atol=1e-5)
    assert (found - moved).abs().amax(1).min() > 1e-3, "λ changes nothing"


@pytest.mark.parametrize(
    "asked", [{"dual_bn": False}, {"head_per_width": True}, {"film_slices": "leading"}]
)
def test_so_it_is_without_two_batch_norms_with_heads_and_with_the_papers_slices(
    asked: dict[str, object], randomise: Randomise
) -> None:
    model = _network("resnet8", randomise, widths=(1.0, 0.5), **asked)
    images = _images(2)
    with torch.no_grad():
        for lam in LAMS:
            found = Knob(model, 0.5)(images, torch.full((2,), lam))
            torch.testing.assert_close(found, fold(model, lam, 0.5)(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("encoding", "known"),
    [
        ("onehot", [True, True, False, False, False, False]),
        ("continuous", [True, True, True, False, False, False]),
    ],
)
def test_a_lam_that_the_network_does_not_know_gives_no_answer(
    encoding: str, known: list[bool], randomise: Randomise
) -> None:
    knob = Knob(_network("resnet8", randomise, encoding=encoding))
    lams = torch.tensor([0.0, 0.1, 0.5, -0.1, 1.1, float("nan")])
    found = knob(_images(6), lams)
    assert found.isfinite().all(1).tolist() == known
    assert found.isnan().all(1).tolist() == [not one for one in known]


def test_the_network_it_was_made_from_stays_as_it_is(randomise: Randomise) -> None:
    model = _network("resnet8", randomise).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    knob = Knob(model).eval()
    knob(_images(4), torch.zeros(4))
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(parameter.requires_grad for parameter in knob.parameters())
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_a_network_without_lam_or_without_that_width_has_no_knob(randomise: Randomise) -> None:
    plain = build(ModelConfig("resnet8", width=8), in_channels=3, num_classes=5)
    with pytest.raises(ValueError, match="has no λ"):
        Knob(plain)
    with pytest.raises(ValueError, match=r"`width_mult` must be one of \[1.0\], got 0.5"):
        Knob(_network("resnet8", randomise), 0.5)


def test_two_networks_are_mixed_with_the_alpha_of_each_image(randomise: Randomise) -> None:
    config = ModelConfig("resnet8", width=8)
    ends = [randomise(build(config, in_channels=3, num_classes=5)).eval() for _ in range(2)]
    pair, images = Mixture(*ends), _images(4)
    alphas = (0.0, 0.3, 1.0, 0.3)
    found = MixtureKnob(pair)(images, torch.tensor(alphas))
    each = [fold(pair, alpha)(images[i : i + 1]) for i, alpha in enumerate(alphas)]
    expected = torch.cat(each).log_softmax(1)
    torch.testing.assert_close(found.log_softmax(1), expected, rtol=1e-4, atol=1e-5)
    assert MixtureKnob(pair)(images[:2], torch.tensor([-0.1, 1.5])).isnan().all()
