"""What a study can decide, held against simulated studies."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import studies
from studies.comparison.assumed import Rates
from studies.comparison.comparing import compare
from studies.comparison.power import power_of
from studies.errors import ComparisonError, StudyError
from studies.statistics.intervals import paired_difference
from studies.study_file.loading import load_study
from tests.studies.comparison.models import Model, bare_points, stored_points
from tests.studies.conftest import IMAGES, MakeUp


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


def _two_seeds(images: int) -> list[Model]:
    """Make two networks of each of OAT and PGD-AT at two λ that differ by chance."""
    rng = np.random.default_rng(0)
    return [
        Model(method, rng.random(images) < 0.9, rng.random(images) < share, lam=lam, seed=seed)
        for method, share in (("oat", 0.5), ("pgd_at", 0.6))
        for lam in (0.5, 1.0)
        for seed in (0, 1)
    ]


def test_measured_rates_are_those_of_all_pairs_of_trainings_one_by_one(tmp_path: Path) -> None:
    models = _two_seeds(300)
    rates = compare(stored_points(tmp_path, *models)).rates
    assert rates is not None
    oat, dedicated = models[:4], models[4:]
    pairs = [(a, b) for a in oat for b in dedicated if a.lam == b.lam]
    assert len(pairs) == 8
    for rate, kind in ((rates.sa_discordance, "clean"), (rates.ra_discordance, "robust")):
        one_by_one = [np.mean(getattr(a, kind) != getattr(b, kind)) for a, b in pairs]
        assert rate == pytest.approx(np.mean(one_by_one), abs=1e-12)
    for rate, kind in ((rates.sa_spread, "clean"), (rates.ra_spread, "robust")):
        # the two λ of OAT are one network, whose mean over λ has one degree of freedom
        found = {
            (method, lam): [getattr(m, kind).mean() for m in models if (m.method, m.lam) == key]
            for key in {(m.method, m.lam) for m in models}
            for method, lam in [key]
        }
        variances = {key: np.var(values, ddof=1) for key, values in found.items()}
        of_oat = np.mean([v for (method, _), v in variances.items() if method == "oat"])
        of_dedicated = [v for (method, _), v in variances.items() if method == "pgd_at"]
        assert rate == pytest.approx(np.sqrt(np.mean([of_oat, *of_dedicated])), rel=1e-9)


def test_what_nothing_tells_is_not_known_and_assumed_instead(tmp_path: Path) -> None:
    one_seed = [model for model in _two_seeds(300) if model.seed == 0]
    rates = compare(stored_points(tmp_path, *one_seed)).rates
    assert rates is not None
    assert math.isnan(rates.sa_spread)
    assert math.isnan(rates.ra_spread)
    known = rates.known(Rates())
    assert known == replace(rates, sa_spread=Rates.sa_spread, ra_spread=Rates.ra_spread)
    by_image = compare(bare_points(*_two_seeds(300))).rates
    assert by_image is not None
    assert math.isnan(by_image.sa_discordance)
    assert by_image.sa_spread > 0


def test_a_study_with_results_says_what_it_measured(tiny: dict[str, Any], finished: Path) -> None:
    measured = studies.compare(tiny, storage=finished).rates
    assert measured is not None
    found = studies.power(tiny, like=tiny, storage=finished)
    assert found.rates.ra_discordance == measured.ra_discordance
    assert f"Measured in '{tiny['name']}': two models differ on" in str(found)
    assert f"Assumed, as '{tiny['name']}' has no second seed: trainings by" in str(found)
    given = studies.power(tiny, like=tiny, storage=finished, sa_spread=0.01)
    assert "Given in part, else assumed, as" in str(given)
    both = studies.power(tiny, sa_spread=0.01, ra_spread=0.02)
    assert "Given: trainings by 1 point in SA and 2 in RA." in str(both)


def test_other_settings_of_the_study_that_was_measured_are_named(
    tiny: dict[str, Any], finished: Path
) -> None:
    found = studies.power("quickstart", like=tiny, storage=finished)
    assert f"Measured in '{tiny['name']}' (of other settings in `" in str(found)


def test_a_study_without_results_measures_nothing(tmp_path: Path) -> None:
    with pytest.raises(ComparisonError) as caught:
        studies.power("quickstart", like="quickstart", storage=tmp_path)
    assert "`like` 'quickstart': There are no points to compare yet" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_the_images_are_those_of_the_attacks_that_decide() -> None:
    def images(*attacks: str) -> int:
        attack = f"evaluate.attacks=[{', '.join(attacks)}]"
        return studies.power("cifar10", overrides=[attack]).images

    few = "{name: pgd, images: 1000}"
    assert images(few) == 1000
    assert images(few, "{name: pgd, eps: 0.01}") == 1000
    assert images("{name: pgd, eps: 0.01}", "{name: pgd, eps: 0.05, images: 500}") == 500


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"margin": 1.5}, "`margin` must be from 0 to 1, got 1.5."),
        ({"ra_spread": -0.1}, "`ra_spread` must be from 0 to 1, got -0.1."),
        ({"sa_spread": math.nan}, "`sa_spread` must be from 0 to 1, got nan."),
        ({"overrides": ["methods=[{name: oat}]", "tune=null"]}, "nothing to compare"),
    ],
)
def test_what_makes_no_sense_is_refused(asked: dict[str, object], said: str) -> None:
    with pytest.raises(StudyError) as caught:
        studies.power("quickstart", **asked)  # type: ignore[arg-type]
    assert said in str(caught.value)


def test_no_accuracy_can_lose_more_than_all_of_it() -> None:
    wild = power_of(100, 2, 4, Rates(sa_spread=0.5, ra_spread=0.01))
    assert wild.half_sa == 1
    assert wild.loss_sa > 1
    assert "points in SA or" not in str(wild)
    assert f"a loss of {100 * wild.loss_ra:.1f} points in RA is found with 80%" in str(wild)
    assert "no loss is found with 80%" in str(power_of(100, 2, 4, Rates(0.1, 0.1, 0.5, 0.5)))


def test_images_of_data_that_nobody_has_counted_are_said_to_be_assumed(
    tiny: dict[str, Any], finished: Path, tmp_path: Path
) -> None:
    assert "(assumed" not in str(studies.power(tiny))
    tiny["data"] = {"name": "imagefolder", "root": str(tmp_path), "image_size": 8}
    found = studies.power(tiny)
    assert not found.counted
    said = "images (assumed, as your data are not read for this) and 1 seed compare networks"
    assert said in str(found)


def test_images_of_data_that_were_evaluated_are_counted(
    tiny: dict[str, Any], root: Path, make_up: MakeUp, tmp_path: Path
) -> None:
    tiny["data"] = {"name": "imagefolder", "root": str(root), "image_size": 8}
    make_up(load_study(tiny), tmp_path)
    found = studies.power(tiny, like=tiny, storage=tmp_path)
    assert found.counted
    assert str(found).startswith(f"{IMAGES} test images and 1 seed")
