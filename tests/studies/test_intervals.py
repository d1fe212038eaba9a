import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from studies.intervals import paired_difference, unpaired_difference, wilson

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
