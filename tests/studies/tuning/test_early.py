"""Early stopping: never before the learning rate has dropped, and only of what adds no area."""

import itertools
import pickle
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState, create_trial

from oat.recipe import TrainConfig
from studies.statistics.frontier import pareto_mask
from studies.tuning.early import VALIDATION, EarlyStop

SCHEDULES = get_args(get_type_hints(TrainConfig)["schedule"])


def _search(*front: tuple[float, float]) -> optuna.Study:
    search = optuna.create_study(directions=["maximize", "maximize"])
    for point in front:
        _add(search, TrialState.COMPLETE, {VALIDATION: list(point)})
    return search


def _add(search: optuna.Study, state: TrialState, attrs: dict[str, Any]) -> None:
    values = [0.0, 0.0] if state == TrialState.COMPLETE else None
    search.add_trial(create_trial(state=state, values=values, user_attrs=attrs))


def _stopped_after(stop: EarlyStop, train: TrainConfig) -> list[int]:
    """Report a hopeless trial's epochs; return those after which it would be stopped."""
    config = {
        "train": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(train).items()}
    }
    trial = SimpleNamespace(config={"trial": {"job": {"config": config}}})
    return [
        epoch
        for epoch in range(1, train.epochs + 1)
        if stop(trial, {"kind": "epoch", "epoch": epoch, "sa_val": 0.1, "ra_val": 0.1})
    ]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("epochs", [1, 2, 3, 5, 10, 30, 100])
def test_no_trial_is_stopped_before_an_epoch_at_a_lower_rate(schedule: Any, epochs: int) -> None:
    stop = EarlyStop(_search((0.9, 0.9)), slack=0.0)
    for milestones in ((0.5, 0.75), (0.9,), (0.34, 0.33), ()):
        train = TrainConfig(epochs=epochs, schedule=schedule, milestones=milestones)
        stopped = _stopped_after(stop, train)
        highest = max(train.lr_at(epoch) for epoch in range(epochs))
        for epoch in stopped:
            # the epoch that was validated, and all after it, are at less than half of the highest
            assert all(train.lr_at(e) < 0.5 * highest for e in range(epoch - 1, epochs))
            assert epoch < epochs, "there is nothing to gain from stopping what has ended"
        assert stopped == list(range(stopped[0], epochs)) if stopped else True


@pytest.mark.parametrize(
    ("schedule", "first"), [("cosine", 8), ("multistep", 7), ("onecycle", 9), ("constant", None)]
)
def test_a_hopeless_trial_is_stopped_at_the_first_chance(schedule: Any, first: int | None) -> None:
    # of 12 epochs, so many are trained before the first that the rate has dropped for
    train = TrainConfig(epochs=12, schedule=schedule, gamma=0.1)
    stopped = _stopped_after(EarlyStop(_search((0.9, 0.9)), slack=0.0), train)
    assert (stopped[0] if stopped else None) == first


def test_a_rate_that_hardly_drops_is_no_drop() -> None:
    train = TrainConfig(epochs=12, schedule="multistep", milestones=(0.2, 0.5), gamma=0.9)
    assert train.drop_epoch() == 3, "the first milestone is the user's word"


@pytest.mark.parametrize("kind", ["start", "point", "end"])
def test_reports_that_are_no_epochs_stop_nothing(kind: str) -> None:
    stop = EarlyStop(_search((0.9, 0.9)), slack=0.0)
    assert not stop(SimpleNamespace(config={}), {"kind": kind})


def test_an_epoch_without_validation_stops_nothing() -> None:
    stop = EarlyStop(_search((0.9, 0.9)), slack=0.0)
    assert not stop(SimpleNamespace(config={}), {"kind": "epoch", "epoch": 9, "sa_val": None})


def test_nothing_is_hopeless_until_a_trial_is_finished() -> None:
    search = _search()
    stop = EarlyStop(search, slack=0.0)
    assert not stop.hopeless(0.0, 0.0)
    # neither those that were stopped, nor those that diverged, make a front
    _add(search, TrialState.PRUNED, {VALIDATION: [0.9, 0.9]})
    _add(search, TrialState.FAIL, {VALIDATION: [0.9, 0.9]})
    _add(search, TrialState.COMPLETE, {"ended": "diverged"})
    assert not stop.hopeless(0.0, 0.0)
    _add(search, TrialState.COMPLETE, {VALIDATION: [0.5, 0.5]})
    assert stop.hopeless(0.4, 0.4)


SHARE = st.integers(0, 20).map(lambda n: n / 20)


@given(st.lists(st.tuples(SHARE, SHARE), min_size=1, max_size=6), SHARE, SHARE)
def test_hopeless_is_what_a_finished_trial_is_at_least_as_good_as(
    front: list[tuple[float, float]], sa: float, ra: float
) -> None:
    dominated = any(sa <= s and ra <= r for s, r in front) or sa == 0 or ra == 0
    assert EarlyStop(_search(*front), slack=0.0).hopeless(sa, ra) == dominated


def test_slack_is_what_a_trial_may_still_gain() -> None:
    stop = EarlyStop(_search((0.5, 0.5)), slack=0.1)
    assert stop.hopeless(0.39, 0.39)
    assert not stop.hopeless(0.41, 0.41)
    assert not stop.hopeless(0.41, 0.05), "one of the two is enough to add area"
    assert not stop.hopeless(1.0, 0.05), "no accuracy is above 1"
    assert EarlyStop(_search((1.0, 1.0)), slack=0.5).hopeless(0.9, 0.9)


def test_what_is_stopped_was_dominated_by_a_trial_that_is_done() -> None:
    finished = [(0.9, 0.2), (0.6, 0.5), (0.3, 0.6)]
    stop = EarlyStop(_search(*finished), slack=0.0)
    for sa, ra in itertools.product((0.1, 0.3, 0.5, 0.7, 0.95), repeat=2):
        if stop.hopeless(sa, ra):
            assert not pareto_mask([*finished, (sa, ra)])[-1]


def test_tune_may_pickle_it() -> None:
    assert isinstance(pickle.loads(pickle.dumps(EarlyStop(_search(), 0.1))), EarlyStop)
