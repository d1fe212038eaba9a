import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from optuna._hypervolume import compute_hypervolume
from optuna.study._multi_objective import _is_pareto_front

from studies.statistics.frontier import (
    attainment,
    coverage,
    hypervolume,
    hypervolumes,
    largest_gap,
    pareto_mask,
)

SIDE = 6
GRID = st.lists(
    st.tuples(st.integers(-1, SIDE), st.integers(-1, SIDE)), max_size=12
)  # coarse, so that ties and duplicates are common
FRACTIONS = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=20)


def _staircase(n: int) -> list[tuple[int, int]]:
    """Return (1, n), (2, n - 1), ..., (n, 1), whose hypervolume above 0 is n (n + 1) / 2."""
    return [(i, n + 1 - i) for i in range(1, n + 1)]


@pytest.mark.parametrize("n", [1, 2, 3, 10, 1000])
def test_a_staircase_has_the_area_of_a_triangular_number(n: int) -> None:
    assert hypervolume(_staircase(n)) == n * (n + 1) / 2
    assert pareto_mask(_staircase(n)).all()


def test_one_point_spans_a_rectangle() -> None:
    assert hypervolume([(0.5, 0.25)]) == 0.125
    assert hypervolume([(0.5, 0.25)], (0.25, 0.125)) == 0.25 * 0.125
    assert pareto_mask([(0.5, 0.25)]).tolist() == [True]
    assert attainment([(0.5, 0.25)], [0, 0.5, 0.51]).tolist() == [0.25, 0.25, -np.inf]


def test_no_points_have_no_area_and_reach_nothing() -> None:
    assert hypervolume([]) == 0
    assert pareto_mask([]).shape == (0,)
    assert attainment([], [0.0, 0.5]).tolist() == [-np.inf, -np.inf]
    assert attainment([(1, 1)], []).shape == (0,)


@pytest.mark.parametrize("points", [0, 1, 2, 7, 8, 9, 40, 129, 300])
def test_areas_of_many_draws_are_those_of_each_bit_for_bit(points: int) -> None:
    rng = np.random.default_rng(points)
    draws = rng.normal(0.7, 0.2, (40, points, 2)).clip(0, 1)
    draws[10:20] = draws[10:20].round(1)  # ties
    draws[20:30] = draws[20:30].clip(0.01)  # all above the origin
    draws[:, :2, 1] = 0  # points that no draw has above it
    found = hypervolumes(draws)
    assert found.tolist() == [hypervolume(draw) for draw in draws]


def test_a_draw_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        hypervolumes(np.array([[[0.1, 0.2]], [[0.1, np.nan]]]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1])
def test_what_is_not_finite_is_refused(bad: float, place: int) -> None:
    point = [0.5, 0.5]
    point[place] = bad
    values = [(0.1, 0.9), tuple(point)]
    others = [(0.5, 0.5)]
    for of in (
        pareto_mask,
        hypervolume,
        lambda v: attainment(v, [0.5]),
        lambda v: largest_gap(v, others),
        lambda v: largest_gap(others, v),
        lambda v: coverage(v, others),
        lambda v: coverage(others, v),
    ):
        with pytest.raises(ValueError, match="finite"):
            of(values)


def _dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a[0] >= b[0] and a[1] >= b[1] and a != b


@given(points=GRID)
def test_the_mask_is_that_of_the_definition(points: list[tuple[int, int]]) -> None:
    expected = [not any(_dominates(other, point) for other in points) for point in points]
    assert pareto_mask(points).tolist() == expected


@given(points=GRID, reference=st.tuples(st.integers(-1, 2), st.integers(-1, 2)))
def test_the_area_is_that_of_the_cells_below_the_points(
    points: list[tuple[int, int]], reference: tuple[int, int]
) -> None:
    cells = {
        (i, j) for x, y in points for i in range(reference[0], x) for j in range(reference[1], y)
    }
    assert hypervolume(points, reference) == len(cells)


@given(points=GRID, levels=st.lists(st.integers(-2, SIDE + 1), max_size=5))
def test_attainment_is_that_of_the_definition(
    points: list[tuple[int, int]], levels: list[int]
) -> None:
    expected = [max((y for x, y in points if x >= at), default=-np.inf) for at in levels]
    assert attainment(points, levels).tolist() == expected


@given(points=FRACTIONS, order=st.randoms(use_true_random=False))
def test_the_order_of_points_does_not_matter(
    points: list[tuple[float, float]], order: "np.random.Generator"
) -> None:
    turned = list(range(len(points)))
    order.shuffle(turned)
    shuffled = [points[i] for i in turned]
    assert hypervolume(shuffled) == pytest.approx(hypervolume(points), abs=1e-12)
    assert pareto_mask(shuffled).tolist() == pareto_mask(points)[turned].tolist()
    levels = [0.0, 0.3, 0.9]
    assert attainment(shuffled, levels).tolist() == attainment(points, levels).tolist()


@given(points=FRACTIONS)
def test_equal_points_share_their_fate_and_add_no_area(
    points: list[tuple[float, float]],
) -> None:
    twice = pareto_mask([*points, *points])
    assert twice[: len(points)].tolist() == twice[len(points) :].tolist()
    assert twice[: len(points)].tolist() == pareto_mask(points).tolist()
    assert hypervolume([*points, *points]) == pytest.approx(hypervolume(points), abs=1e-12)


@given(points=FRACTIONS)
def test_the_front_alone_has_all_the_area_and_reach(points: list[tuple[float, float]]) -> None:
    front = np.array(points)[pareto_mask(points)]
    assert len(front)
    assert hypervolume(front) == pytest.approx(hypervolume(points), abs=1e-12)
    levels = np.linspace(0, 1, 7)
    assert attainment(front, levels).tolist() == attainment(points, levels).tolist()


@given(points=FRACTIONS, extra=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_one_more_point_never_takes_area_and_never_more_than_its_own(
    points: list[tuple[float, float]], extra: tuple[float, float]
) -> None:
    gained = hypervolume([*points, extra]) - hypervolume(points)
    assert -1e-12 <= gained <= extra[0] * extra[1] + 1e-12


@given(points=FRACTIONS, turned=st.booleans())
def test_the_area_does_not_care_which_axis_is_first(
    points: list[tuple[float, float]], turned: bool
) -> None:
    values = np.array(points)
    assert hypervolume(values[:, ::-1]) == pytest.approx(hypervolume(values), abs=1e-12)


def _random_front(rng: np.random.Generator) -> NDArray[np.float64]:
    values = rng.random((int(rng.integers(1, 60)), 2))
    return np.round(values, 1) if rng.random() < 0.5 else values  # half of them with ties


@pytest.mark.parametrize("seed", range(50))
def test_fronts_and_areas_are_those_of_optuna(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = _random_front(rng)
    # Optuna minimises
    assert pareto_mask(values).tolist() == _is_pareto_front(-values, False).tolist()
    assert hypervolume(values) == pytest.approx(compute_hypervolume(-values, np.zeros(2)))
    reference = rng.random(2) / 2
    above = values[(values > reference).all(axis=1)]
    expected = compute_hypervolume(-above, -reference) if len(above) else 0.0
    assert hypervolume(values, tuple(reference)) == pytest.approx(expected)


COUNTS = st.lists(st.tuples(st.integers(0, SIDE), st.integers(0, SIDE)), min_size=1, max_size=12)
Counts = list[tuple[int, int]]


def _reach(points: Counts, level: float) -> float:
    """Return the height of the attainment curve, which is 0 beyond the last point."""
    return max((y for x, y in points if x >= level), default=0)


@given(ours=COUNTS | st.just([]), theirs=COUNTS)
def test_the_largest_gap_is_that_of_every_level_they_reach(ours: Counts, theirs: Counts) -> None:
    # halves and thirds lie between all steps, and so tell a curve that is open on the other side
    levels = [n / 6 for n in range(-6, 6 * max(x for x, _ in theirs) + 1)]
    gaps = [_reach(theirs, level) - _reach(ours, level) for level in levels]
    gap, at = largest_gap(ours, theirs)
    assert gap == max(gaps)
    assert _reach(theirs, at) - _reach(ours, at) == gap
    assert at in {x for x, _ in theirs}


@given(ours=FRACTIONS, theirs=FRACTIONS)
def test_no_level_has_a_larger_gap(
    ours: list[tuple[float, float]], theirs: list[tuple[float, float]]
) -> None:
    gap, at = largest_gap(ours, theirs)
    levels = np.append(np.linspace(0, max(x for x, _ in theirs), 101), at)
    gaps = attainment(theirs, levels) - attainment(ours, levels).clip(min=0)
    assert gap == gaps.max()
    # only the fronts count, each point once
    front = np.array(ours)[pareto_mask(ours)]
    assert largest_gap([*front, *front], [*theirs, *theirs])[0] == gap


def test_the_gap_of_a_few_fronts_is_known() -> None:
    assert largest_gap([(0.5, 0.25)], [(0.5, 0.5)]) == (0.25, 0.5)
    assert largest_gap([(0.5, 0.5)], [(0.5, 0.25)]) == (-0.25, 0.5)
    # theirs goes on where ours ends: all of its height is the gap
    assert largest_gap([(0.5, 0.75)], [(0.75, 0.25)]) == (0.25, 0.75)
    assert largest_gap([], [(0.5, 0.25)]) == (0.25, 0.5)
    # a point of theirs that another dominates is on no curve
    assert largest_gap([(1, 0.5)], [(0.25, 0.125), (1, 0.625)]) == (0.125, 0.25)


@given(n=st.integers(1, 30))
def test_a_staircase_lies_one_step_below_the_next_larger_one(n: int) -> None:
    gap, _ = largest_gap(_staircase(n), _staircase(n + 1))
    assert gap == 1
    assert largest_gap(_staircase(n + 1), _staircase(n))[0] == -1
    # all of the smaller one is reached, and of the larger one what is one worse, not less
    assert coverage(_staircase(n), _staircase(n + 1)) == 1
    assert coverage(_staircase(n + 1), _staircase(n)) == 0
    assert coverage(_staircase(n + 1), _staircase(n), margin=1) == 1
    assert coverage(_staircase(n + 1), _staircase(n), margin=0.5) == 0


@given(front=COUNTS, by=COUNTS | st.just([]), margin=st.integers(0, 3))
def test_coverage_is_that_of_the_definition(front: Counts, by: Counts, margin: int) -> None:
    best = [p for p in front if not any(_dominates(other, p) for other in front)]
    reached = [any(x >= p[0] - margin and y >= p[1] - margin for x, y in by) for p in best]
    assert coverage(front, by, margin) == sum(reached) / len(best)


@given(front=COUNTS, by=COUNTS, margin=st.integers(0, 3))
def test_rounding_does_not_decide_what_is_reached(front: Counts, by: Counts, margin: int) -> None:
    exact = coverage(front, by, margin)
    assert coverage(np.array(front) / 449, np.array(by) / 449, margin / 449) == exact
    third, other = (np.array([p]) / 3 for p in ((2, 2), (1, 1)))
    assert coverage(third + 0.1, other + 0.1, 1 / 3) == 1


@given(points=COUNTS, by=COUNTS)
def test_a_front_covers_itself_and_a_gap_is_what_is_not_covered(points: Counts, by: Counts) -> None:
    assert coverage(points, points) == 1
    assert largest_gap(points, points)[0] == 0
    # nowhere above in RA, so each point of theirs has one of ours as good; and the other way round
    assert (largest_gap(by, [p for p in points if p[1] > 0] or [(0, 0)])[0] <= 0) == (
        coverage([p for p in points if p[1] > 0] or [(0, 0)], by) == 1
    )


def test_one_point_is_reached_or_not() -> None:
    assert coverage([(0.5, 0.5)], [(0.5, 0.5)]) == 1
    assert coverage([(0.5, 0.5)], [(0.75, 0.25), (0.25, 0.75)]) == 0
    # both of two equal points are reached; one of two others
    assert coverage([(0.5, 0.5)] * 2 + [(0.25, 0.75)], [(0.5, 0.5)]) == 2 / 3
    # a dominated point is on no front, reached or not
    assert coverage([(0.5, 0.5), (0.25, 0.25)], [(0.25, 0.25)]) == 0


def _front_of_optuna(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values[_is_pareto_front(-values, False)]


@pytest.mark.parametrize("seed", range(20))
def test_a_front_that_covers_another_adds_no_area_by_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ours, theirs = _random_front(rng), _random_front(rng)
    both = np.vstack([ours, theirs])
    added = compute_hypervolume(-both, np.zeros(2)) - compute_hypervolume(-ours, np.zeros(2))
    inside = theirs[(theirs > 0).all(axis=1)]
    if len(inside):
        assert (coverage(inside, ours) == 1) == (added < 1e-12)
    front = _front_of_optuna(theirs)
    assert coverage(theirs, ours, 0.1) == coverage(front, ours, 0.1)
