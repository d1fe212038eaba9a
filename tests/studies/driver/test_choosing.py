"""Which trials a condition chooses, and what is added to them."""

from pathlib import Path
from typing import Any

import pytest

from studies.driver.choosing import COLUMNS, choose
from studies.errors import QueryError
from studies.planning.expand import make_plan
from studies.planning.plan import Plan
from studies.storage.local import LocalFolder
from studies.study_file.loading import load_study


@pytest.fixture
def plan(tiny: dict[str, Any], storage: Path) -> Plan:
    """The finished tiny study with two seeds, a second TRADES, and a chain of warm starts."""
    tiny["seeds"] = [0, 1]
    tiny["methods"] += [
        {"name": "oats", "lambda_choices": [0, 1], "width_mults": [0.5, 1]},
        {"name": "pgd_at", "lam": 0.5, "start": {"from": "pgd_at λ=1", "epochs": 1}},
        {"name": "mix", "of": ["pgd_at λ=0", "pgd_at start=pgd_at:λ=1 epochs=1 λ=0.5"]},
    ]
    return make_plan(load_study(tiny), LocalFolder(storage / "tiny"))


def _names(plan: Plan) -> list[str]:
    return [f"{trial.label} seed {trial.seed}" for trial in plan.trials]


@pytest.mark.parametrize(
    ("condition", "method", "seeds", "count"),
    [
        ("method == 'trades'", "trades", {0, 1}, 2),
        ("beta > 0.5 and seed == 1", "trades", {1}, 1),
        ("label == 'pgd_at λ=0'", "pgd_at", {0, 1}, 2),
        ("lam in [0, 1]", "pgd_at", {0, 1}, 4),
        ("width_mult.isna()", "oats", {0, 1}, 2),
        ("state == 'done' and method == 'oat'", "oat", {0}, 1),
        ("variant.str.startswith('oats')", "oats", {0, 1}, 2),
    ],
)
def test_a_condition_is_over_the_columns_of_the_plan(
    condition: str, method: str, seeds: set[int], count: int, plan: Plan
) -> None:
    choice = choose(plan, condition)
    chosen = choice.plan.trials
    assert {trial.job["config"]["method"]["name"] for trial in chosen} == {method}
    assert {trial.seed for trial in chosen} == seeds
    assert (len(chosen), choice.added) == (count, ())
    assert choice.left_out == {t.run_key for t in plan.trials} - {t.run_key for t in chosen}


def test_without_a_condition_all_are_chosen(plan: Plan) -> None:
    assert choose(plan, None) == (plan, (), frozenset())


def test_what_a_chosen_trial_is_made_from_is_added_unless_it_is_trained(plan: Plan) -> None:
    first = choose(plan, "method == 'mix' and seed == 0")
    assert first.added == ("pgd_at start=pgd_at:λ=1 epochs=1 λ=0.5 seed 0",)
    second = choose(plan, "method == 'mix' and seed == 1")
    started = "pgd_at start=pgd_at:λ=1 epochs=1 λ=0.5 seed 1"
    assert set(second.added) == {"pgd_at λ=0 seed 1", "pgd_at λ=1 seed 1", started}
    assert _names(second.plan) == [name for name in _names(plan) if name in _names(second.plan)]
    assert choose(plan, "seed == 1").added == ()


def test_one_run_key_chooses_one_trial(plan: Plan) -> None:
    for trial in plan.trials:
        found = choose(plan, f"run_key == '{trial.run_key}'")
        assert trial in found.plan.trials
        assert len(found.plan.trials) == 1 + len(found.added)


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("method == 'trade'", "must choose at least one of the 14 trials"),
        ("", "must be a condition such as \"method == 'trades'"),
        ("seed", "must be a condition such as"),
        ("method = 'trades'", "must compare with `==`"),
        ("ra > 0.4", "Unknown column 'ra'"),
        ("sed == 1", "did you mean 'seed'"),
        ("method == trades", "must have text in quotes"),
        ("seed == '1'", "cannot compare"),
        ("lam > 5", "never reaches"),
        ("label.str.contains('(')", "cannot be applied"),
        ("__import__('os')", "knows `abs"),
    ],
)
def test_a_faulty_condition_is_one_sentence(condition: str, words: str, plan: Plan) -> None:
    with pytest.raises(QueryError) as caught:
        choose(plan, condition)
    said = str(caught.value)
    assert said.startswith("`--only`")
    assert words in said
    assert "--where" not in said


def test_every_column_can_be_asked_for(plan: Plan) -> None:
    for name, kind in COLUMNS.items():
        none = f"{name} == 'none'" if kind == "str" else f"{name} < -1"
        with pytest.raises(QueryError, match="at least one"):
            choose(plan, none)
