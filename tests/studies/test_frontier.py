import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from optuna._hypervolume import compute_hypervolume
from optuna.study._multi_objective import _is_pareto_front

from studies.frontier import attainment, hypervolume, pareto_mask

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


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1])
def test_what_is_not_finite_is_refused(bad: float, place: int) -> None:
    point = [0.5, 0.5]
    point[place] = bad
    values = [(0.1, 0.9), tuple(point)]
    for of in (pareto_mask, hypervolume, lambda v: attainment(v, [0.5])):
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
