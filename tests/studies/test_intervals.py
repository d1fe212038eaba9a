import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from studies.intervals import (
    Resampled,
    paired_difference,
    pooled_variance,
    unpaired_difference,
    wilson,
)
from studies.results import COLUMNS

Z = 1.959963984540054


def _pair(
    both: int, gained: int, lost: int, neither: int
) -> tuple[np.ndarray[tuple[int], np.dtype[np.bool_]], np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """Return two models that are right on these many images together, alone, and not at all."""
    counts = (both, gained, lost, neither)
    first = np.repeat([True, True, False, False], counts)
    return first, np.repeat([True, False, True, False], counts)


COUNTS = st.tuples(*[st.integers(0, 300)] * 4).filter(any)


@given(counts=COUNTS)
def test_a_paired_interval_holds_the_difference_and_has_a_width(
    counts: tuple[int, int, int, int],
) -> None:
    found = paired_difference(*_pair(*counts))
    assert found.value == pytest.approx((counts[1] - counts[2]) / sum(counts))
    assert found.low < found.value < found.high


@given(counts=COUNTS)
def test_to_trade_places_turns_a_paired_interval(counts: tuple[int, int, int, int]) -> None:
    first, second = _pair(*counts)
    found, turned = paired_difference(first, second), paired_difference(second, first)
    assert (found.value, found.low, found.high) == pytest.approx(
        (-turned.value, -turned.high, -turned.low)
    )


@given(counts=COUNTS, more=st.integers(1, 300))
def test_images_on_which_both_agree_make_a_paired_interval_narrower(
    counts: tuple[int, int, int, int], more: int
) -> None:
    both, gained, lost, neither = counts
    few = paired_difference(*_pair(both, gained, lost, neither))
    many = paired_difference(*_pair(both + more, gained, lost, neither))
    assert many.high - many.low < few.high - few.low


@pytest.mark.parametrize(
    "rates", [(0.7, 0.05, 0.05, 0.2), (0.85, 0.005, 0.015, 0.13), (0.3, 0.2, 0.1, 0.4)]
)
def test_paired_intervals_hold_the_truth_about_as_often_as_they_say(
    rates: tuple[float, float, float, float],
) -> None:
    rng = np.random.default_rng(1)
    held = 0
    for counts in rng.multinomial(400, rates, size=2000):
        found = paired_difference(*_pair(*counts.tolist()))
        held += found.low <= rates[1] - rates[2] <= found.high
    assert 0.935 < held / 2000 < 0.98


@given(
    right=st.tuples(st.integers(0, 200), st.integers(0, 300)),
)
def test_an_unpaired_interval_holds_the_difference_and_has_a_width(
    right: tuple[int, int],
) -> None:
    found = unpaired_difference(right[0] / 200, right[1] / 300, (200, 300))
    assert found.value == pytest.approx(right[0] / 200 - right[1] / 300)
    assert found.low < found.value < found.high


@pytest.mark.parametrize("rates", [(0.9, 0.85), (0.5, 0.5), (0.99, 0.97)])
def test_unpaired_intervals_hold_the_truth_about_as_often_as_they_say(
    rates: tuple[float, float],
) -> None:
    rng = np.random.default_rng(2)
    held = 0
    for first, second in zip(*(rng.binomial(400, rate, 2000) / 400 for rate in rates), strict=True):
        found = unpaired_difference(first, second, (400, 400))
        held += found.low <= rates[0] - rates[1] <= found.high
    assert 0.935 < held / 2000 < 0.98


@pytest.mark.parametrize("images", [1, 50, 449, 10_000])
def test_wilsons_interval_is_the_root_of_its_equation(images: int) -> None:
    for right in {0, 1, images // 3, images}:
        rate = right / images
        low, high = wilson(rate, images)
        assert 0 <= low <= rate <= high <= 1 + 1e-12
        for end in (low, high):
            # the ends are where the rate is z standard errors off
            assert (rate - end) ** 2 == pytest.approx(
                Z**2 * end * (1 - end) / images, rel=1e-6, abs=1e-9
            )


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
@pytest.mark.timeout(120)
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
    assert draws.spread == pytest.approx((0.02, 0.02), rel=0.25)
    assert any(note.startswith("40 seeds: trainings of one setting") for note in draws.notes)
