"""What a study can decide, held against simulated studies."""

import numpy as np
import pytest

import studies
from studies.comparison.assumed import Rates
from studies.comparison.power import power_of
from studies.errors import StudyError
from studies.statistics.intervals import paired_difference


def test_the_width_of_an_interval_is_that_of_models_that_differ_so_often() -> None:
    rates = Rates(sa_discordance=0.08, ra_discordance=0.2)
    found = power_of(5000, 1, 4, rates)
    for discordance, half in ((0.08, found.half_sa), (0.2, found.half_ra)):
        apart = np.arange(5000) < 5000 * discordance
        even = np.arange(5000) % 2 == 0
        interval = paired_difference(apart & even, apart & ~even)
        assert (interval.high - interval.low) / 2 == pytest.approx(half, rel=0.01)


@pytest.mark.parametrize(("images", "margin"), [(2000, 0.02), (10_000, 0.015)])
def test_the_chance_to_match_an_equal_model_is_that_of_simulated_pairs(
    images: int, margin: float
) -> None:
    rng = np.random.default_rng(0)
    rates = Rates(sa_discordance=0.05, ra_discordance=0.1)
    expected = power_of(images, 1, 1, rates, margin).free
    freed = 0
    for _ in range(400):
        pairs = []
        for discordance in (rates.sa_discordance, rates.ra_discordance):
            apart = rng.random(images) < discordance
            first = apart & (rng.random(images) < 0.5)
            pairs.append(paired_difference(first, apart & ~first))
        freed += all(pair.low >= -margin for pair in pairs)
    assert freed / 400 == pytest.approx(expected, abs=0.08)


def test_more_images_and_more_seeds_decide_more() -> None:
    few, many = power_of(500, 1, 8), power_of(50_000, 1, 8)
    assert many.half_sa < few.half_sa
    assert many.free > few.free
    assert many.loss_ra < few.loss_ra
    two, five = power_of(50_000, 2, 8), power_of(50_000, 5, 8)
    assert five.half_ra < two.half_ra
    # one seed compares networks, whose luck is theirs
    assert many.half_ra < five.half_ra
    assert "compare networks" in str(many)
    assert "compare methods" in str(five)


def test_a_study_says_what_it_assumes() -> None:
    found = studies.power("quickstart", overrides=["seeds=[0,1,2]"], margin=0.02)
    assert (found.images, found.seeds, found.rows) == (449, 3, 8)
    assert "margin 2 points" in str(found)
    assert "Assumed: two models differ on 5% of the images, under attack on 15%" in str(found)
    assert studies.power("quickstart", sa_discordance=0.1).half_sa > found.half_sa


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"margin": 1.5}, "`margin` must be from 0 to 1, got 1.5."),
        ({"ra_spread": -0.1}, "`ra_spread` must be from 0 to 1, got -0.1."),
        ({"overrides": ["methods=[{name: oat}]", "tune=null"]}, "nothing to compare"),
    ],
)
def test_what_makes_no_sense_is_refused(asked: dict[str, object], said: str) -> None:
    with pytest.raises(StudyError) as caught:
        studies.power("quickstart", **asked)  # type: ignore[arg-type]
    assert said in str(caught.value)
