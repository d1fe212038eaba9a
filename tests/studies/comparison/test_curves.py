"""RA by radius, the area under it, and radii at which a network withstands more than it can."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from studies.comparison.comparing import compare
from studies.comparison.curves import area_remark, area_weights
from studies.statistics.intervals import Z, mean_interval, wilson
from tests.studies.comparison.models import Bools, Model, bare_points, first_of, stored_points

RADII = {0.05: "pgd20@0.05", 0.1: "pgd20", 0.2: "pgd20@0.2"}
IMAGES = 400


def _nested(rng: np.random.Generator, rates: tuple[float, ...]) -> list[Bools]:
    """Draw which images are right at radius 0 and at each radius: fewer at larger ones."""
    draw = rng.random(IMAGES)
    return [draw < rate for rate in rates]


def _at_all_radii(method: str, right: list[Bools], lam: float = 1.0, seed: int = 0) -> list[Model]:
    clean, *robust = right
    return [
        Model(method, clean, mask, lam=lam, seed=seed, attack=attack, eps=eps)
        for (eps, attack), mask in zip(RADII.items(), robust, strict=True)
    ]


def test_the_weights_are_those_of_trapezoids_over_the_largest_radius() -> None:
    assert area_weights([0.1]).tolist() == [0.5, 0.5]
    # radii 0, 1, 2, 4: a straight line from 1 to 0 has half the area, a constant the whole
    weights = area_weights([1.0, 2.0, 4.0])
    assert weights.sum() == pytest.approx(1)
    assert weights @ [1, 0.75, 0.5, 0] == pytest.approx(0.5)
    assert weights.tolist() == [0.125, 0.25, 0.375, 0.25]


def test_a_curve_starts_at_sa_and_has_the_intervals_of_the_comparison() -> None:
    rates = (0.9, 0.8, 0.5, 0.1)
    models = [
        model
        for method in ("oat", "pgd_at")
        for model in _at_all_radii(method, [first_of(round(IMAGES * r), IMAGES) for r in rates])
    ]
    radii = compare(bare_points(*models)).radii
    assert radii is not None
    own = radii.curves[radii.curves["point"] == "oat λ=1"]
    assert own["eps"].tolist() == [0, *RADII]
    assert own["ra"].tolist() == pytest.approx(list(rates))
    for row, rate in zip(own.itertuples(), rates, strict=True):
        assert (row.ra_low, row.ra_high) == wilson(rate, IMAGES)
    # 0.05, 0.05 and 0.1 wide: trapezoids by hand
    area = (0.05 * (0.9 + 0.8) / 2 + 0.05 * (0.8 + 0.5) / 2 + 0.1 * (0.5 + 0.1) / 2) / 0.2
    (found,) = radii.areas.loc[radii.areas["point"] == "oat λ=1", "area"]
    assert found == pytest.approx(area)


def test_the_area_is_the_mean_of_an_area_of_each_image(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    right = {method: _nested(rng, (0.9, 0.7, 0.5, 0.2)) for method in ("oat", "pgd_at")}
    models = [model for method, masks in right.items() for model in _at_all_radii(method, masks)]
    radii = compare(stored_points(tmp_path, *models)).radii
    assert radii is not None
    for row in radii.areas.itertuples():
        # image by image, with numpy's own rule
        masks = np.array(right[row.method], float)
        each = np.trapezoid(masks, [0, *RADII], axis=0) / max(RADII)
        assert row.by_image
        assert row.images == IMAGES
        assert row.area == pytest.approx(each.mean(), abs=1e-12)
        interval = mean_interval(each)
        assert (row.area_low, row.area_high) == pytest.approx((interval.low, interval.high))
        assert row.area_high - row.area_low == pytest.approx(
            2 * Z * each.std() / math.sqrt(IMAGES), rel=0.02
        )
    # what is known of rates alone gives the same area, and an interval that is wider
    bare = compare(bare_points(*models))
    assert bare.radii is not None
    assert not bare.radii.areas["by_image"].any()
    assert bare.radii.areas["area"].to_numpy() == pytest.approx(radii.areas["area"].to_numpy())
    assert (bare.radii.areas["area_low"] < radii.areas["area_low"]).all()
    assert (bare.radii.areas["area_high"] > radii.areas["area_high"]).all()
    assert any("No per-image results at each radius for oat λ=1, pgd" in n for n in bare.notes)


def test_the_area_is_of_the_worst_over_the_attacks_at_each_radius(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    right = {method: _nested(rng, (0.9, 0.7, 0.5, 0.2)) for method in ("oat", "pgd_at")}
    other = {method: _nested(rng, (0.9, 0.8, 0.6, 0.3)) for method in ("oat", "pgd_at")}
    models = [model for method, masks in right.items() for model in _at_all_radii(method, masks)]
    models += [
        replace(model, attack=model.attack.replace("pgd20", "fgsm"), clean=right[method][0])
        for method, masks in other.items()
        for model in _at_all_radii(method, masks)
    ]
    radii = compare(stored_points(tmp_path, *models)).radii
    assert radii is not None
    for row in radii.areas.itertuples():
        both = [np.logical_and(*m) for m in zip(right[row.method], other[row.method], strict=True)]
        masks = np.array([right[row.method][0], *both[1:]], float)
        each = np.trapezoid(masks, [0, *RADII], axis=0) / max(RADII)
        assert row.by_image
        assert row.area == pytest.approx(each.mean(), abs=1e-12)
        curve = radii.curves[radii.curves["point"] == row.point]
        assert curve["ra"].tolist() == pytest.approx(masks.mean(axis=1).tolist())


def test_seeds_are_averaged_and_their_spread_widens_the_area(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    seeds = {
        (method, seed): _nested(rng, tuple(rate + 0.04 * seed for rate in (0.9, 0.7, 0.5, 0.2)))
        for method in ("oat", "pgd_at")
        for seed in range(3)
    }
    models = [
        model
        for (method, seed), masks in seeds.items()
        for model in _at_all_radii(method, masks, seed=seed)
    ]
    radii = compare(stored_points(tmp_path, *models)).radii
    assert radii is not None
    weights = area_weights(list(RADII))
    for row in radii.areas.itertuples():
        each = np.array([weights @ seeds[row.method, seed] for seed in range(3)])
        assert row.seeds == 3
        assert row.area == pytest.approx(each.mean())
        luck = each.mean(axis=1).var(ddof=1) / 3
        # Student's with Welch and Satterthwaite's freedom: wider than the normal one
        least = Z * math.sqrt(luck + each.mean(axis=0).var() / IMAGES)
        assert row.area_high - row.area > 0.98 * least
        assert row.area_high - row.area_low > 2 * Z * math.sqrt(luck)


def test_an_operating_point_that_lacks_a_radius_has_no_area_and_is_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    models = [
        model
        for method, lam in (("oat", 0.0), ("oat", 1.0), ("pgd_at", 0.0), ("pgd_at", 1.0))
        for model in _at_all_radii(method, _nested(rng, (0.9, 0.7, 0.5, 0.2)), lam)
    ]
    lacking = [m for m in models if (m.method, m.lam, m.eps) != ("pgd_at", 1.0, 0.05)]
    found = compare(stored_points(tmp_path, *lacking))
    assert found.radii is not None
    areas = found.radii.areas.set_index("point")["area"]
    assert areas.index[areas.isna()].tolist() == ["pgd_at λ=1"]
    assert "No area, as a radius is missing: pgd_at λ=1." in found.notes
    curve = found.radii.curves[found.radii.curves["point"] == "pgd_at λ=1"]
    assert curve["eps"].tolist() == [0, 0.1, 0.2]


def test_images_that_not_all_radii_have_are_left_out_of_the_area(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    right = {method: _nested(rng, (0.9, 0.7, 0.5, 0.2)) for method in ("oat", "pgd_at")}
    models = []
    for method, masks in right.items():
        full = _at_all_radii(method, masks)
        few = _at_all_radii(method, [mask[:100] for mask in masks])
        models += [few[0], *full[1:]]
    radii = compare(stored_points(tmp_path, *models)).radii
    assert radii is not None
    for row in radii.areas.itertuples():
        masks = [mask[:100] for mask in right[row.method]]
        assert row.images == 100
        assert row.area == pytest.approx(float((area_weights(list(RADII)) @ masks).mean()))


def test_more_robust_at_a_larger_radius_is_told_with_both_radii(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    good = _nested(rng, (0.9, 0.7, 0.5, 0.2))
    masked = [good[0], good[1], good[2], good[1]]  # 70 % at 0.2, after 50 % at 0.1
    models = [*_at_all_radii("oat", good), *_at_all_radii("pgd_at", masked)]
    for table in (stored_points(tmp_path, *models), bare_points(*models)):
        (said,) = [note for note in compare(table).notes if note.startswith("RA is higher")]
        ra = [f"{100 * mask.mean():.1f}" for mask in masked]
        assert f"pgd_at λ=1 seed 0 ({ra[2]} at ε=0.1, {ra[3]} at ε=0.2)" in said
        assert "oat" not in said
        assert "gradients are masked" in said


def test_a_rise_within_its_interval_is_none(tmp_path: Path) -> None:
    right = [first_of(some, IMAGES) for some in (360, 300, 200, 202)]
    models = [model for method in ("oat", "pgd_at") for model in _at_all_radii(method, right)]
    assert not any(
        "RA is higher" in note for note in compare(stored_points(tmp_path, *models)).notes
    )


@pytest.mark.parametrize("right", [0, 1, 50, 99, 100])
def test_the_interval_of_a_mean_is_agresti_and_coulls_for_right_and_wrong(right: int) -> None:
    found = mean_interval(first_of(right, 100).astype(float))
    images = 100 + Z**2
    centre = (right + Z**2 / 2) / images
    half = Z * math.sqrt(centre * (1 - centre) / images)
    assert found.value == right / 100
    assert found.low == pytest.approx(max(0, centre - half))
    assert found.high == pytest.approx(min(1, centre + half))
    assert found.low <= found.value <= found.high
    assert found.high > found.low, "also where all images agree"


def test_the_interval_of_an_area_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    weights = area_weights(list(RADII))
    for rates in ((0.95, 0.8, 0.5, 0.1), (0.99, 0.97, 0.9, 0.6), (0.6, 0.1, 0.02, 0.0)):
        truth, held = float(weights @ rates), 0
        for _ in range(1000):
            draw = rng.random(100)
            found = mean_interval(weights @ [draw < rate for rate in rates])
            held += found.low <= truth <= found.high
        assert 0.93 < held / 1000 < 0.99, rates


def test_the_best_area_of_each_method_is_told_and_that_it_was_picked_on_the_same_images() -> None:
    areas = pd.DataFrame(
        {
            "point": ["oat λ=0", "oat λ=1", "pgd_at λ=1"],
            "variant": ["oat", "oat", "pgd_at"],
            "area": [0.2, 0.6, 0.5],
            "area_low": [0.1, 0.5, 0.4],
            "area_high": [0.3, 0.7, 0.6],
        }
    )
    said = area_remark(areas, 0.2)
    assert "oat λ=1 0.600 [0.500, 0.700], pgd_at λ=1 0.500 [0.400, 0.600]" in said
    assert "oat λ=0" not in said
    assert "chosen on the same images, which favors a method with more points" in said
