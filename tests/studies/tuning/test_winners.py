"""Who wins a search: closed forms, and what no rule may do."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studies.statistics.frontier import hypervolume, pareto_mask
from studies.study_file.tune_block import Select
from studies.tuning.winners import Search, SearchTrial, area, choose, search_of

Values = Sequence[tuple[float, float]]

FRONT = Select()
AREA = Select(rule="hypervolume")


def _trial(number: int, *values: tuple[float, float], state: str = "done") -> SearchTrial:
    points: list[dict[str, Any]] = [
        {"lam": None, "beta": None, "width_mult": 1.0, "sa": sa, "ra": ra} for sa, ra in values
    ]
    return SearchTrial(
        number=number,
        state=state,
        run_key=f"key{number}",
        entry={"name": "pgd_at"},
        points=points if state == "done" else [],
        device_seconds=1.0,
    )


def _dedicated(*values: tuple[float, float]) -> list[SearchTrial]:
    return [_trial(number, value) for number, value in enumerate(values)]


def _numbers(trials: Sequence[SearchTrial], select: Select, once: bool = False) -> list[int]:
    return [trial.number for trial in choose(trials, select, once)[0]]


def test_of_dedicated_models_all_on_the_front_win_in_the_order_of_the_search() -> None:
    trials = _dedicated((0.5, 0.5), (0.9, 0.1), (0.4, 0.4), (0.7, 0.3), (0.7, 0.2))
    assert _numbers(trials, FRONT) == [0, 1, 3]


def test_equal_points_on_the_front_all_win() -> None:
    assert _numbers(_dedicated((0.5, 0.5), (0.5, 0.5), (0.4, 0.5)), FRONT) == [0, 1]


def test_of_once_for_all_networks_one_wins_by_the_area_of_its_own_front() -> None:
    # 0.9 * 0.1 + 0.4 * 0.3 = 0.21, 0.5 * 0.5 = 0.25, 0.8 * 0.2 + 0.3 * 0.3 = 0.25
    trials = [
        _trial(0, (0.9, 0.1), (0.4, 0.4)),
        _trial(1, (0.5, 0.5)),
        _trial(2, (0.8, 0.2), (0.3, 0.5)),
    ]
    assert [round(area([trial]), 12) for trial in trials] == [0.21, 0.25, 0.25]
    assert _numbers(trials, FRONT, once=True) == _numbers(trials, AREA, once=True) == [1]


def test_the_largest_area_wins_alone_also_among_dedicated_models() -> None:
    assert _numbers(_dedicated((0.9, 0.2), (0.5, 0.5), (0.3, 0.6)), AREA) == [1]


@pytest.mark.parametrize(("weight", "winner"), [(0.0, 2), (0.5, 1), (1.0, 0), (0.8, 0)])
def test_the_weighted_rule_takes_the_highest_sum(weight: float, winner: int) -> None:
    # at 0.5: 0.5, 0.555, 0.4; at 0.8: 0.74, 0.642, 0.22
    trials = _dedicated((0.9, 0.1), (0.7, 0.41), (0.1, 0.7))
    assert _numbers(trials, Select(rule="weighted", weight=weight)) == [winner]


def test_the_least_ra_is_reached_by_the_most_accurate_that_reaches_it() -> None:
    trials = _dedicated((0.9, 0.1), (0.7, 0.4), (0.6, 0.41), (0.3, 0.6))
    for least, winner in ((0.0, 0), (0.1, 0), (0.11, 1), (0.4, 1), (0.405, 2), (0.5, 3)):
        chosen, notes = choose(trials, Select(rule="sa_at_ra", ra=least), once=False)
        assert [trial.number for trial in chosen] == [winner]
        assert notes == []


def test_where_none_reaches_the_least_ra_the_most_robust_wins_and_it_is_said() -> None:
    trials = _dedicated((0.9, 0.1), (0.3, 0.6), (0.5, 0.5))
    chosen, (note,) = choose(trials, Select(rule="sa_at_ra", ra=0.7), once=False)
    assert [trial.number for trial in chosen] == [1]
    assert "no trial reaches RA 70 %" in note
    assert "60.0 %" in note


@pytest.mark.parametrize(
    "select", [AREA, Select(rule="weighted", weight=0.5), Select(rule="sa_at_ra", ra=0.4)]
)
def test_of_equal_trials_the_first_wins(select: Select) -> None:
    assert _numbers(_dedicated((0.1, 0.1), (0.5, 0.5), (0.5, 0.5)), select) == [1]


@pytest.mark.parametrize("once", [False, True])
@pytest.mark.parametrize(
    "state", ["diverged", "failed", "stopped early", "died", "not run", "open"]
)
def test_only_what_is_done_can_win(state: str, once: bool) -> None:
    trials = [_trial(0, (0.9, 0.9), state=state), _trial(1, (0.1, 0.1))]
    assert _numbers(trials, FRONT, once) == [1]
    chosen, (note,) = choose(trials[:1], FRONT, once)
    assert chosen == []
    assert "the study's own settings stay" in note


SHARE = st.integers(0, 10).map(lambda n: n / 10)
SEVERAL = st.lists(
    st.lists(st.tuples(SHARE, SHARE), min_size=1, max_size=3), min_size=1, max_size=6
)
RULES = [
    FRONT,
    AREA,
    Select(rule="weighted", weight=0.3),
    Select(rule="sa_at_ra", ra=0.5),
]


@given(SEVERAL, st.sampled_from(RULES), st.booleans())
def test_winners_are_trials_of_the_search_and_one_unless_a_dedicated_front(
    values: list[Values], select: Select, once: bool
) -> None:
    trials = [_trial(number, *some) for number, some in enumerate(values)]
    chosen, _ = choose(trials, select, once)
    assert chosen
    assert chosen == [trial for trial in trials if trial in chosen]
    if once or select.rule != "front":
        assert len(chosen) == 1


@given(st.lists(st.tuples(SHARE, SHARE), min_size=1, max_size=8))
def test_the_front_of_the_winners_is_the_front_of_all(values: Values) -> None:
    trials = _dedicated(*values)
    chosen, _ = choose(trials, FRONT, once=False)
    assert [t.number for t in chosen] == list(pareto_mask(values).nonzero()[0])
    assert area(chosen) == pytest.approx(hypervolume(values))


def test_nothing_has_no_area() -> None:
    assert area([]) == 0


def _search(**changes: Any) -> Search:
    trials = (_trial(0, (0.5, 0.5)), _trial(1, (0.6, 0.4)), _trial(2, state="failed"))
    whole = {
        "method": "pgd_at",
        "once": False,
        "starts": 1,
        "budget": 100.0,
        "device_seconds": 3.0,
        "ended": "the budget is spent",
        "trials": trials,
        "winners": ["key1"],
        "dimensions": ["train.lr"],
        "notes": ["a note"],
    }
    return Search(**{**whole, **changes})


def test_a_search_survives_its_record() -> None:
    search = _search()
    again = search_of(json.loads(json.dumps(search.dump())))
    assert again.dump() == search.dump()
    assert [trial.number for trial in again.won()] == [1]
    assert again.trials[0].values() == [(0.5, 0.5)]


def test_a_trial_that_died_does_not_win_beside_the_one_that_took_its_place() -> None:
    died = SearchTrial(number=0, state="died", run_key="key1", start=True)
    search = _search(trials=(died, _trial(1, (0.6, 0.4))))
    assert [trial.number for trial in search.won()] == [1]


def test_the_studys_own_settings_count_only_if_all_are_done() -> None:
    one, other = (replace(_trial(n, (0.5, 0.5)), start=True) for n in range(2))
    assert _search(trials=(one, other), starts=2).started() == [one, other]
    assert _search(trials=(one, _trial(1, (0.5, 0.5))), starts=2).started() == []
    assert _search(trials=(one, replace(other, state="diverged")), starts=2).started() == []
