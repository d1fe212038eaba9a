"""Which trials of a plan a run works on, where it is told a condition."""

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import pandas as pd

from studies.errors import QueryError
from studies.known_methods import variant_of
from studies.planning.plan import Plan, PlannedTrial, State
from studies.tracking.conditions import parse_condition

COLUMNS = {
    "method": "str",
    "variant": "str",
    "label": "str",
    "lam": "float64",
    "beta": "float64",
    "width_mult": "float64",
    "seed": "int64",
    "state": "str",
    "run_key": "str",
}
"""Columns of the trials of a plan. λ is missing where a model has several or none, β likewise, and
the width of OATS."""

EXAMPLE = "method == 'trades' and seed == 0"
NEEDS_SOURCES: frozenset[State] = frozenset({"missing", "waiting", "failed", "damaged"})
TRAINED: frozenset[State] = frozenset({"done", "evaluate"})


class Choice(NamedTuple):
    """What a run works on.

    Attributes:
        plan: The chosen trials, and those that they start from.
        added: Names of the latter.
        left_out: Run keys of all others.
    """

    plan: Plan
    added: tuple[str, ...]
    left_out: frozenset[str]


def choose(current: Plan, condition: str | None) -> Choice:
    """Choose the trials of a plan for which a condition holds, and what they need.

    Models that a chosen one is made from are added where they are not trained.

    Args:
        current: The plan of the study.
        condition: Over `COLUMNS`, as `studies.tracking.conditions.parse_condition` reads it; None
            chooses all.

    Raises:
        QueryError: It is not such a condition, or holds for no trial.
    """
    if condition is None:
        return Choice(current, (), frozenset())
    parsed = parse_condition(condition, COLUMNS, "--only", EXAMPLE)
    chosen = set(parsed.apply(_table(current.trials))["run_key"])
    if not chosen:
        raise QueryError(
            f'`--only` must choose at least one of the {len(current.trials)} trials, got "'
            f'{condition}"; `oat plan` lists them, with their labels and states.'
        )
    by_key = {trial.run_key: trial for trial in current.trials}
    needed = _with_sources(chosen, by_key)
    kept = tuple(trial for trial in current.trials if trial.run_key in needed)
    added = tuple(f"{t.label} seed {t.seed}" for t in kept if t.run_key not in chosen)
    return Choice(replace(current, trials=kept), added, frozenset(by_key.keys() - needed))


def _table(trials: Iterable[PlannedTrial]) -> pd.DataFrame:
    rows = []
    for trial in trials:
        config = trial.job["config"]
        method = config["method"]
        full = None if "width_mults" in method else 1.0
        rows.append(
            {
                "method": method["name"],
                "variant": variant_of(config),
                "label": trial.label,
                "lam": method.get("lam"),
                "beta": method.get("beta"),
                "width_mult": method.get("width_mult", full),
                "seed": trial.seed,
                "state": trial.state,
                "run_key": trial.run_key,
            }
        )
    return pd.DataFrame(rows).astype(COLUMNS)


def _with_sources(chosen: set[str], by_key: dict[str, PlannedTrial]) -> set[str]:
    """Add the models that are not trained and that the chosen ones are made from, and so on."""
    found, left = set[str](), set(chosen)
    while left:
        found |= left
        waiting = [by_key[key] for key in left if by_key[key].state in NEEDS_SOURCES]
        sources = {key for trial in waiting for key in trial.sources.values()}
        left = {key for key in sources - found if by_key[key].state not in TRAINED}
    return found
