"""Methods that train nothing."""

import pytest
import torch

from baselines import Interpolate, Mix, Pairing
from oat.attacks import Attack
from oat.models import ModelConfig, build
from oat.operating import OperatingPoint

ENDS = ("pgd_at λ=0", "pgd_at λ=1")
KINDS: list[type[Pairing]] = [Mix, Interpolate]


@pytest.mark.parametrize("kind", KINDS)
def test_a_pairing_trains_nothing_and_is_judged_at_its_own_weights(kind: type[Pairing]) -> None:
    method = kind(ENDS, alphas=(0.5, 0.0))
    assert method.work(Attack(), 16) == {}
    assert method.operating_points((0.1, 0.2)) == [OperatingPoint(0.5), OperatingPoint(0.0)]
    network = build(ModelConfig("resnet8", 4), in_channels=1, num_classes=3)
    batch = torch.rand(2, 1, 8, 8), torch.zeros(2, dtype=torch.long)
    losses = method.losses(network, *batch, attack=Attack(), generator=torch.Generator())
    assert list(losses) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_pairing_asks_for_plain_networks_of_its_width(kind: type[Pairing]) -> None:
    asked = kind(ENDS, width_mult=0.5).conditioning()
    assert (asked.base_width, asked.lambda_choices) == (0.5, ())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"of": ()}, "`of` must name two different retrained models of the study, got none."),
        ({"of": ENDS[:1]}, "got pgd_at λ=0."),
        ({"of": (ENDS[0], ENDS[0])}, "got pgd_at λ=0, pgd_at λ=0."),
        ({"of": (*ENDS, "trades β=6")}, "got pgd_at λ=0, pgd_at λ=1, trades β=6."),
        ({"alphas": ()}, "`alphas` must name at least one value, got an empty list."),
        ({"alphas": (0.5, 1.2)}, "`alphas` must be in [0, 1] (0 is the first network"),
        ({"alphas": (0.5, 0.5)}, "`alphas` must not repeat a value"),
        ({"width_mult": 0.0}, "`width_mult` must be in (0, 1]"),
    ],
)
def test_a_pairing_that_cannot_be_is_refused(
    kind: type[Pairing], given: dict[str, object], said: str
) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 -- what it says is checked below
        kind(**{"of": ENDS, **given})  # type: ignore[arg-type]
    assert said in str(caught.value)
