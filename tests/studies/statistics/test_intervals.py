import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, t

from studies.statistics.intervals import (
    LEVEL,
    difference_of,
    holm,
    paired_difference,
    unpaired_difference,
    wilson,
)

Z = 1.959963984540054
DRAWS = 2000
"""So many tell the level to 0.5 points (standard error). Where few images decide, intervals of
counts move in steps; rates and images below are such that theory gives the level to a point."""


def _pair(
    both: int, gained: int, lost: int, neither: int
) -> tuple[np.ndarray[tuple[int], np.dtype[np.bool_]], np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """Return two models that are right on these many images together, alone, and not at all."""
    counts = (both, gained, lost, neither)
    first = np.repeat([True, True, False, False], counts)
    return first, np.repeat([True, False, True, False], counts)


COUNTS = st.tuples(*[st.integers(0, 300)] * 4).filter(any)


@given(counts=st.integers(1, 30_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_interval_is_scipys_bit_for_bit(counts: tuple[int, int]) -> None:
    right, images = counts
    found = binomtest(right, images).proportion_ci(LEVEL, method="wilson")
    assert wilson(right / images, images) == (found.low, found.high)


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
    "rates",
    [
        (0.7, 0.05, 0.05, 0.2),
        (0.85, 0.005, 0.015, 0.13),
        (0.3, 0.2, 0.1, 0.4),
        (0.4, 0.1, 0.02, 0.48),
    ],
)
@pytest.mark.parametrize("images", [400, 2000])
def test_paired_intervals_hold_the_truth_as_often_as_they_say(
    images: int, rates: tuple[float, float, float, float]
) -> None:
    rng = np.random.default_rng(1)
    held = 0
    for counts in rng.multinomial(images, rates, size=DRAWS):
        found = paired_difference(*_pair(*counts.tolist()))
        held += found.low <= rates[1] - rates[2] <= found.high
    assert abs(held / DRAWS - LEVEL) <= 0.01


@pytest.mark.parametrize("rates", [(0.999, 0.0005, 0.0005, 0), (0.98, 0.001, 0.001, 0.018)])
@pytest.mark.parametrize("images", [50, 400])
def test_paired_intervals_of_models_that_hardly_differ_are_on_the_safe_side(
    images: int, rates: tuple[float, float, float, float]
) -> None:
    rng = np.random.default_rng(1)
    held = 0
    for counts in rng.multinomial(images, rates, size=DRAWS):
        found = paired_difference(*_pair(*counts.tolist()))
        held += found.low <= rates[1] - rates[2] <= found.high
    assert held / DRAWS > LEVEL


@given(
    right=st.tuples(st.integers(0, 200), st.integers(0, 300)),
)
def test_an_unpaired_interval_holds_the_difference_and_has_a_width(
    right: tuple[int, int],
) -> None:
    found = unpaired_difference(right[0] / 200, right[1] / 300, (200, 300))
    assert found.value == pytest.approx(right[0] / 200 - right[1] / 300)
    assert found.low < found.value < found.high


@pytest.mark.parametrize("rates", [(0.9, 0.85), (0.5, 0.5), (0.4, 0.35), (0.99, 0.97)])
@pytest.mark.parametrize("images", [(400, 400), (449, 200), (2000, 2000)])
def test_unpaired_intervals_hold_the_truth_as_often_as_they_say(
    images: tuple[int, int], rates: tuple[float, float]
) -> None:
    rng = np.random.default_rng(2)
    drawn = [rng.binomial(n, rate, DRAWS) / n for n, rate in zip(images, rates, strict=True)]
    held = 0
    for first, second in zip(*drawn, strict=True):
        found = unpaired_difference(first, second, images)
        held += found.low <= rates[0] - rates[1] <= found.high
    # 4 and 6 errors among 400: too few for the level, and the interval is on the safe side
    safe = 0.01 if min(images) < 1000 and rates[0] == 0.99 else 0
    assert -0.01 <= held / DRAWS - LEVEL <= 0.01 + safe


@pytest.mark.parametrize("images", [449, 1000, 2000])
@pytest.mark.parametrize("rate", [0.05, 0.1, 0.3, 0.4, 0.5, 0.8, 0.9, 0.95])
def test_wilsons_interval_holds_the_truth_as_often_as_it_says(rate: float, images: int) -> None:
    rng = np.random.default_rng([3, images])
    drawn, times = np.unique(rng.binomial(images, rate, DRAWS), return_counts=True)
    ends = [wilson(right / images, images) for right in drawn.tolist()]
    held = np.array([low <= rate <= high for low, high in ends])
    assert abs(times[held].sum() / DRAWS - LEVEL) <= 0.01


@pytest.mark.parametrize("images", [50, 100, 449])
def test_wilsons_interval_holds_any_rate_as_often_as_it_says(images: int) -> None:
    """By the binomial itself: at one rate its steps show, over all rates they even out."""
    right = np.arange(images + 1)
    low, high = np.array([wilson(n / images, images) for n in right.tolist()]).T
    rates = np.linspace(0.02, 0.98, 193)[:, None]
    held = (binom.pmf(right, images, rates) * ((low <= rates) & (rates <= high))).sum(axis=1)
    assert held.mean() == pytest.approx(LEVEL, abs=0.0025)
    # at no rate is it worse than this, which is a matter of one image more or less
    assert held.min() > {50: 0.92, 100: 0.92, 449: 0.935}[images]


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


P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@given(p_values=P_VALUES)
def test_holm_rejects_by_its_steps(p_values: list[float]) -> None:
    found = holm(np.array(p_values), 0.05)
    left = sorted(range(len(p_values)), key=lambda i: p_values[i])
    expected = [False] * len(p_values)
    for step, i in enumerate(left):
        if p_values[i] > 0.05 / (len(p_values) - step):
            break
        expected[i] = True
    assert found.tolist() == expected


def test_holm_of_true_hypotheses_rejects_any_in_a_twentieth_of_the_cases() -> None:
    rng = np.random.default_rng(0)
    any_rejected = [holm(rng.random(8)).any() for _ in range(4000)]
    assert np.mean(any_rejected) == pytest.approx(0.05, abs=0.012)


def test_a_difference_has_students_interval_and_p_value() -> None:
    found = difference_of(0.02, 0.02, 4e-5, [(1e-4, 2), (6e-5, 18)])
    total = 2e-4
    freedom = total**2 / (1e-4**2 / 2 + 6e-5**2 / 18)
    assert found.freedom == pytest.approx(freedom)
    assert found.high - found.centre == pytest.approx(t.ppf(0.975, freedom) * total**0.5)
    assert found.p_not_below(-0.01) == pytest.approx(t.cdf(0.03 / total**0.5, freedom))
    # an interval and its p-value agree: the upper end is where p is a fortieth
    assert found.p_not_below(found.high) == pytest.approx(0.025)
    alone = difference_of(0.02, 0.02, 4e-5)
    assert alone.high - alone.centre == pytest.approx(Z * 4e-5**0.5)


def test_a_paired_difference_of_several_trainings_is_of_their_shares() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 3, 4000)) < 0.7
    shares = first.mean(axis=0), second.mean(axis=0)
    found = paired_difference(*shares)
    apart = shares[0] - shares[1]
    assert found.value == pytest.approx(first.mean() - second.mean())
    assert found.sampling == pytest.approx(apart.var() / 4000, rel=0.01)


def test_a_difference_of_accuracies_stays_where_accuracies_can_be() -> None:
    found = difference_of(-0.1, -0.1, 0.001, [(0.04, 1), (0.04, 1)])
    assert (found.low, found.high) == (-1, 1)
    assert found.centre == -0.1
