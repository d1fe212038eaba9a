import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studies.planning.plan import Left, Plan, PlannedTrial, State
from studies.storage.local import LocalFolder
from studies.study_file.loading import load_study
from studies.trial.run import run_trial
from tests.studies.planning.plans import plan_of


def _invented(units: list[float], states: list[State]) -> Plan:
    trials = tuple(
        PlannedTrial(f"{i:012x}", str(i), 0, {}, state, cost, 0.0)
        for i, (cost, state) in enumerate(zip(units, states, strict=True))
    )
    return Plan(load_study("quickstart"), trials, (), 0.5, True)


def _best(costs: list[float], slots: int) -> float:
    """Try every way to deal trials to slots and return the shortest time."""
    ways = itertools.product(range(slots), repeat=len(costs))
    return min(
        max(sum(c for c, where in zip(costs, way, strict=True) if where == s) for s in range(slots))
        for way in ways
    )


@given(units=st.lists(st.floats(0.1, 100), min_size=1, max_size=6), slots=st.integers(1, 3))
def test_makespan_is_within_grahams_bound_of_the_best_schedule(
    units: list[float], slots: int
) -> None:
    plan = _invented(units, ["missing"] * len(units))
    best = _best([0.5 * u for u in units], slots)
    assert best - 1e-9 <= plan.makespan(slots) <= (4 / 3 - 1 / (3 * slots)) * best + 1e-9


@given(units=st.lists(st.floats(0.1, 100), min_size=1, max_size=8))
def test_makespan_at_its_ends_is_the_sum_and_the_longest(units: list[float]) -> None:
    plan = _invented(units, ["missing"] * len(units))
    assert plan.makespan(1) == pytest.approx(0.5 * sum(units))
    assert plan.makespan(len(units)) == pytest.approx(0.5 * max(units))
    assert plan.makespan(0) == plan.makespan(1)


def test_makespan_counts_training_that_is_left_alone() -> None:
    plan = _invented([8, 4, 2, 1, 16], ["missing", "done", "evaluate", "failed", "failed"])
    assert plan.makespan(1) == pytest.approx(0.5 * (8 + 2 + 1 + 16))
    # two are trained: one of the failed ones too, which failed while it was judged
    judged = [
        replace(trial, judge_units=6.0, left=Left(1, 2.0)) if trial.units in (2, 16) else trial
        for trial in plan.trials
    ]
    left = replace(plan, trials=tuple(judged))
    assert left.makespan(1) == pytest.approx(0.5 * (8 + 2 + 1 + 2))


def test_the_cost_of_finished_trials_is_measured(tiny: dict[str, Any], tmp_path: Path) -> None:
    one = {**tiny, "methods": [{"name": "pgd_at", "lam": [0, 1]}]}
    trial = plan_of(one, tmp_path).trials[0]
    folder = LocalFolder(tmp_path / "tiny" / "trials" / trial.run_key)
    outcome = run_trial(trial.job, folder, lambda _: None)
    plan = plan_of(one, tmp_path)
    assert plan.measured
    seconds = plan.device_seconds(plan.trials[0])
    assert seconds == pytest.approx(outcome["trained"]["device_seconds"])
