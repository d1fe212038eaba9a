"""Trials that need the weights of others: their keys, and what a plan says of them."""

from pathlib import Path
from typing import Any

import pytest

from studies.known_methods import RIVALS
from studies.planning.plan import Plan, PlannedTrial
from studies.storage.local import LocalFolder
from studies.storage.sealed import unseal, write_sealed
from tests.studies.conftest import FinishTrial
from tests.studies.planning.plans import keys_of, plan_of

FIRST, SECOND = "pgd_at start=pgd_at:λ=1 epochs=2 λ=0.5", "pgd_at λ=1"
CHAIN = [
    {
        "name": "pgd_at",
        "lam": 0.2,
        "start": {"from": FIRST, "epochs": 1},
    },
    {"name": "pgd_at", "lam": 0.5, "start": {"from": SECOND, "epochs": 2}},
    {"name": "pgd_at", "lam": [1, 0]},
]
"""The last of a chain of three stands first; a fourth has nothing to do with it."""


@pytest.fixture
def chained(tiny: dict[str, Any]) -> dict[str, Any]:
    return {**tiny, "methods": CHAIN, "seeds": [0, 1]}


def _place(storage: Path, trial: PlannedTrial) -> LocalFolder:
    return LocalFolder(storage / "tiny" / "trials" / trial.run_key)


def _states(plan: Plan) -> list[tuple[str, str | None]]:
    return [(trial.state, trial.reason) for trial in plan.trials if trial.seed == 0]


def test_what_a_model_starts_from_is_in_its_key_and_in_no_other(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    def keys(**start: Any) -> list[str]:
        block = {"name": "pgd_at", "lam": 0.5, "start": {"from": SECOND, "epochs": 1, **start}}
        methods = [*tiny["methods"], {"name": "pgd_at", "lam": 0.5}, block]
        return keys_of({**tiny, "methods": methods}, tmp_path)

    before, now = keys_of(tiny, tmp_path), keys()
    assert now[:-2] == before
    assert len({now[-1], now[-2], keys(epochs=2)[-1], keys(**{"from": "pgd_at λ=0"})[-1]}) == 4


def test_a_source_of_other_settings_makes_another_key(
    chained: dict[str, Any], tmp_path: Path
) -> None:
    last, first, *_ = keys_of(chained, tmp_path)
    other = keys_of(chained, tmp_path, "methods.1.start.epochs=3",
                    f"methods.0.start.from={FIRST.replace('epochs=2', 'epochs=3')}")  # fmt: skip
    assert not {last, first} & set(other)
    assert keys_of(chained, tmp_path)[2:4] == other[2:4]


def test_started_models_are_of_the_budget_of_their_study_and_of_their_own_seed(
    chained: dict[str, Any], tmp_path: Path
) -> None:
    trials = plan_of(chained, tmp_path).trials
    assert len({trial.job["budget"] for trial in trials}) == 1
    assert len({trial.kind for trial in trials}) == 4
    by_key = {trial.run_key: trial for trial in trials}
    for trial in trials:
        for label, run_key in trial.sources.items():
            assert (by_key[run_key].label, by_key[run_key].seed) == (label, trial.seed)
    first = trials[1]
    assert first.job["config"]["train"]["epochs"] == 2
    assert first.job["config"]["start"] == {
        "source": SECOND,
        "run_key": trials[2].run_key,
        "epochs": 2,
    }


def test_a_plan_says_who_waits_for_whom_and_in_which_order_they_run(
    chained: dict[str, Any], tmp_path: Path
) -> None:
    plan = plan_of(chained, tmp_path)
    assert _states(plan) == [
        ("waiting", f"It waits for {FIRST} seed 0, which is not trained yet."),
        ("waiting", f"It waits for {SECOND} seed 0, which is not trained yet."),
        ("missing", None),
        ("missing", None),
    ]
    assert {t.label for t in plan.ready()} == {"pgd_at λ=0", "pgd_at λ=1"}
    assert [{t.label for t in wave} for wave in plan.waves()] == [
        {"pgd_at λ=0", "pgd_at λ=1"},
        {FIRST},
        {plan.trials[0].label},
    ]
    assert len(plan.to_run()) == 8
    longest = [max(plan.seconds_left(trial) for trial in wave) for wave in plan.waves()]
    assert plan.makespan(8) == pytest.approx(sum(longest))
    assert plan.records()[0]["sources"] == {FIRST: plan.trials[1].run_key}


def test_a_trial_waits_no_more_once_its_source_is_trained(
    chained: dict[str, Any], tmp_path: Path, finish_trial: FinishTrial
) -> None:
    plan = plan_of(chained, tmp_path)
    finish_trial(LocalFolder(tmp_path / "tiny"), plan.trials[2])
    states = _states(plan_of(chained, tmp_path))
    assert [state for state, _ in states] == ["waiting", "missing", "done", "missing"]


@pytest.mark.parametrize("state", ["diverged", "failed"])
def test_a_trial_whose_source_came_to_nothing_says_so(
    state: str, chained: dict[str, Any], tmp_path: Path
) -> None:
    source = plan_of(chained, tmp_path).trials[2]
    name = "result.json" if state == "diverged" else "failure.json"
    record = {"status": state, "epoch": 1, "error": "The loss is nan."}
    write_sealed(_place(tmp_path, source), name, record)
    plan = plan_of(chained, tmp_path)
    assert _states(plan)[:3] == [
        ("waiting", f"It cannot start: {FIRST} seed 0 cannot start either."),
        ("waiting", f"It cannot start: {SECOND} seed 0 has {state}."),
        (state, "The loss is nan."),
    ]
    assert len(plan.ready()) == (3 if state == "diverged" else 4)


def test_a_trial_with_a_checkpoint_goes_on_without_its_source(
    chained: dict[str, Any], tmp_path: Path
) -> None:
    first = plan_of(chained, tmp_path).trials[1]
    _place(tmp_path, first).write("checkpoint", b"some state")
    assert _states(plan_of(chained, tmp_path))[1] == ("unfinished", None)


def test_a_trial_is_redone_if_its_source_was_trained_anew(
    chained: dict[str, Any], tmp_path: Path, finish_trial: FinishTrial
) -> None:
    folder = LocalFolder(tmp_path / "tiny")
    for trial in plan_of(chained, tmp_path).trials:
        finish_trial(folder, trial)

    def record(trial: PlannedTrial, **news: Any) -> None:
        place = _place(tmp_path, trial)
        result = unseal(place.read("result.json"))
        result["trained"] |= news
        write_sealed(place, "result.json", result)

    last, first, source, _ = plan_of(chained, tmp_path).trials[:4]
    record(first, sources={source.run_key: f"training of {source.run_key}"})
    record(last, sources={first.run_key: f"training of {first.run_key}"})
    assert {state for state, _ in _states(plan_of(chained, tmp_path))} == {"done"}
    record(first, sources={source.run_key: "another"})
    plan = plan_of(chained, tmp_path)
    assert _states(plan)[:3] == [
        ("waiting", f"It waits for {FIRST} seed 0, which is not trained yet."),
        ("damaged", "its source was trained anew"),
        ("done", None),
    ]
    assert [trial.run_key for trial in plan.ready()] == [first.run_key]
    # also one that is outdated itself waits for a source that is to be trained anew
    record(last, sources={source.run_key: "another", first.run_key: f"training of {first.run_key}"})
    plan = plan_of(chained, tmp_path)
    assert [trial.run_key for trial in plan.ready()] == [first.run_key]
    assert [[trial.run_key for trial in wave] for wave in plan.waves()] == [
        [first.run_key],
        [last.run_key],
    ]


def _with_pair(tiny: dict[str, Any], name: str, *ends: str, **keys: Any) -> dict[str, Any]:
    methods = [{"name": name, "of": list(ends), **keys}, {"name": "pgd_at", "lam": [0, 0.5, 1]}]
    return {**tiny, "methods": methods}


@pytest.mark.parametrize("name", RIVALS)
def test_the_models_of_a_pair_are_in_its_key_in_their_order_and_its_weights_are_not(
    name: str, tiny: dict[str, Any], tmp_path: Path
) -> None:
    ends = ("pgd_at λ=0", "pgd_at λ=1")
    plan = plan_of(_with_pair(tiny, name, *ends), tmp_path)
    pair, first, _, second = plan.trials
    assert pair.sources == {ends[0]: first.run_key, ends[1]: second.run_key}
    assert "alphas" not in pair.job["config"]["method"]
    assert [t.label for t in plan.waves()[1]] == [pair.label]

    def key(*others: str, **keys: Any) -> str:
        return keys_of(_with_pair(tiny, name, *others, **keys), tmp_path)[0]

    assert key(*ends, alphas=[0.3]) == pair.run_key
    assert len({pair.run_key, key(*ends[::-1]), key(ends[0], "pgd_at λ=0.5")}) == 3
    points = {p["point_key"] for p in pair.job["points"]}
    more = plan_of(_with_pair(tiny, name, *ends, alphas=[0, 0.25, 0.5, 0.75, 1, 0.1]), tmp_path)
    assert points < {p["point_key"] for p in more.trials[0].job["points"]}
    assert {t.job["budget"] for t in plan.trials} == {pair.job["budget"]}


@pytest.mark.parametrize("name", RIVALS)
def test_a_pair_takes_no_training_and_the_time_of_what_runs(
    name: str, tiny: dict[str, Any], tmp_path: Path
) -> None:
    ends = ("pgd_at λ=0", "pgd_at λ=1")

    def units(alpha: float) -> float:
        pair = plan_of(_with_pair(tiny, name, *ends, alphas=[alpha]), tmp_path).trials[0]
        assert pair.units == 0
        assert pair.estimate is not None
        assert (pair.estimate.training, pair.estimate.validation) == (0, 0)
        return pair.judge_units

    single = plan_of(_with_pair(tiny, name, *ends), tmp_path).trials[1].judge_units
    assert units(0) == units(1) == single
    assert units(0.5) == 2 * single if name == "mix" else units(0.5) > single
