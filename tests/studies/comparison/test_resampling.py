import numpy as np
import pandas as pd
import pytest

from studies.comparison import resampling
from studies.comparison.resampling import Resampled
from studies.results.points import COLUMNS
from studies.statistics.frontier import hypervolume
from studies.statistics.intervals import LEVEL, pooled_variance, quantiles
from studies.trial.records import Correct


def test_pooled_variance_is_the_mean_of_the_variances_by_their_freedom() -> None:
    two, three = [0.8, 0.84, np.nan], [0.7, 0.73, 0.79]
    values = np.stack([[two, three], [three, two]], axis=-1).astype(float)  # (cells, seeds, 2)
    found, freedom = pooled_variance(values, np.array([0, 1]))
    expected = (np.var(two[:2], ddof=1) + 2 * np.var(three, ddof=1)) / 3
    assert freedom == 3
    assert found[0] == pytest.approx(expected)
    # cells of one network are not independent: they count as one
    _, freedom = pooled_variance(np.stack([values[1]] * 5), np.zeros(5, dtype=int))
    assert freedom == 2
    alone = np.full((2, 3, 2), np.nan)
    alone[:, 0] = 0.5
    assert pooled_variance(alone, np.array([0, 1]))[1] == 0


def _points(rng: np.random.Generator, seeds: int, luck: float) -> pd.DataFrame:
    """Make up a study of OAT and six dedicated models: all are as good, but for their luck."""
    lams = (0.0, 0.1, 0.2, 0.3, 0.4, 1.0)
    rows = []
    for seed in range(seeds):
        mine = rng.normal(0, luck)
        for lam in lams:
            for method, moved in (("oat", mine), ("pgd_at", rng.normal(0, luck))):
                row = {name: 0.0 if kind != "str" else "" for name, kind in COLUMNS.items()}
                rates = rng.binomial(20_000, np.array([0.8, 0.4]) + moved) / 20_000
                row |= {"method": method, "variant": method, "lam": lam, "beta": np.nan}
                row |= {"seed": seed, "sa": rates[0], "ra": rates[1], "images": 20_000}
                rows.append({**row, "point_key": f"{method} {lam} {seed}"})
    return pd.DataFrame(rows)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_intervals_over_seeds_hold_the_truth_about_as_often_as_they_say(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    held = []
    for _ in range(150):
        draws = Resampled(_points(rng, seeds, luck=0.01), {})
        for i, j in zip(np.flatnonzero(draws.once), np.flatnonzero(~draws.once), strict=True):
            found = draws.difference(int(i), int(j), 0)
            held.append(found.low <= 0 <= found.high)
    # differences of one study share OAT's luck, so that a share of 900 is known to about 0.015
    assert 0.92 < np.mean(held) < 0.985


def test_the_spread_between_trainings_is_found_and_said() -> None:
    draws = Resampled(_points(np.random.default_rng(0), 40, luck=0.02), {})
    for variant in ("oat", "pgd_at"):
        assert np.sqrt(draws.luck[variant].variance) == pytest.approx((0.02, 0.02), rel=0.3)
    assert {luck.freedom for luck in draws.luck.values()} == {39, 6 * 39}
    assert any(
        note.startswith("40 seeds: the standard deviation between trainings")
        for note in draws.notes
    )


def test_the_luck_of_a_training_moves_all_points_of_a_network_together() -> None:
    rng = np.random.default_rng(0)
    points = _points(rng, 3, luck=0.02)
    # every point has the same images right, so that draws differ by luck alone
    right = np.arange(1000) % 2 == 0
    keys = [f"{key}.{kind}" for key in points["point_key"] for kind in ("clean", "robust")]
    draws = Resampled(points.assign(images=1000), dict.fromkeys(keys, right))
    apart = np.ptp(draws.samples[:, draws.once], axis=1)
    assert apart.max() < 1e-6, "one network has one luck, at every λ"
    assert np.ptp(draws.samples[:, ~draws.once], axis=1).min() > 1e-4
    assert draws.luck["oat"].freedom == 2, "three trainings of one network, however many its points"
    assert draws.luck["pgd_at"].freedom == 6 * 2


def test_methods_have_spreads_of_their_own_and_freedom_by_welch() -> None:
    rng = np.random.default_rng(1)
    points = _points(rng, 4, luck=0.001)
    mine = points["method"] == "oat"
    for name in ("sa", "ra"):
        points.loc[mine, name] += points.loc[mine, "seed"] * 0.01
    draws = Resampled(points, {})
    oat, other = (draws.luck[name].variance[0] / 4 for name in ("oat", "pgd_at"))
    assert oat > 10 * other
    i, j = int(np.flatnonzero(draws.once)[0]), int(np.flatnonzero(~draws.once)[0])
    found = draws.difference(i, j, 0)
    assert found.training == pytest.approx(oat + other)
    total = found.sampling + oat + other
    assert found.freedom == pytest.approx(total**2 / (oat**2 / 3 + other**2 / 18))
    # and between dedicated models OAT's spread plays no part
    k = int(np.flatnonzero(~draws.once)[1])
    assert draws.difference(j, k, 0).training == pytest.approx(2 * other)


RATES = ((0.95, 0.1), (0.93, 0.3), (0.91, 0.4), (0.89, 0.45), (0.87, 0.5), (0.8, 0.55))


def _judged(
    rng: np.random.Generator, images: int, behind: tuple[float, float]
) -> tuple[pd.DataFrame, Correct]:
    """Make up OAT and dedicated models judged on the same images, one seed, partly alike."""
    rows, correct = [], {}
    shared = rng.random(images)
    for method, (less_sa, less_ra) in (("oat", behind), ("pgd_at", (0.0, 0.0))):
        for lam, (sa, ra) in enumerate(RATES):
            hard = np.where(rng.random(images) < 0.8, shared, rng.random(images))
            clean, robust = hard < sa - less_sa, hard < ra - less_ra
            row = {name: 0.0 if kind != "str" else "" for name, kind in COLUMNS.items()}
            row |= {"method": method, "variant": method, "lam": lam, "beta": np.nan, "seed": 0}
            row |= {"sa": clean.mean(), "ra": robust.mean(), "images": images}
            rows.append({**row, "point_key": f"{method}{lam}"})
            correct |= {f"{method}{lam}.clean": clean, f"{method}{lam}.robust": robust}
    return pd.DataFrame(rows), correct


@pytest.mark.slow
@pytest.mark.parametrize("behind", [(0.0, 0.0), (-0.01, 0.03)])
@pytest.mark.parametrize("images", [449, 2000])
def test_one_seeds_areas_and_cells_hold_the_truth_about_as_often_as_they_say(
    images: int, behind: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resampling, "RESAMPLES", 200)
    rng = np.random.default_rng([4, images])
    theirs = hypervolume(RATES)
    truth = hypervolume(np.array(RATES) - behind)
    held: dict[str, list[bool]] = {"ratio": [], "area": [], "cell": []}
    for _ in range(120):
        draws = Resampled(*_judged(rng, images, behind))
        ours, dedicated = np.flatnonzero(draws.once), np.flatnonzero(~draws.once)
        areas = draws.hypervolumes(ours), draws.hypervolumes(dedicated)
        for name, samples, value in (
            ("ratio", areas[0] / areas[1], truth / theirs),
            ("area", areas[1], theirs),
            ("cell", draws.samples[:, dedicated[0], 0], RATES[0][0]),
        ):
            low, high = quantiles(samples)
            held[name].append(bool(low <= value <= high))
    # 120 studies tell the level to 0.02 (standard error), and 200 draws the ends a little short
    for name, found in held.items():
        assert abs(np.mean(found) - LEVEL) <= 0.055, name
