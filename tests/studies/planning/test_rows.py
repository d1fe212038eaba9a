"""A plan as rows of text, and how it shows itself in a notebook."""

from pathlib import Path
from typing import Any

import pytest

from studies.naming import time_range
from studies.planning.rows import MEANINGS, seeds_text
from tests.studies.planning.plans import plan_of


@pytest.mark.parametrize(
    ("seeds", "text"),
    [
        ([0], "0"),
        ([0, 1, 2], "0-2"),
        ([2, 0, 1], "0-2"),
        ([0, 1, 2, 7], "0-2, 7"),
        ([3, 5, 6], "3, 5-6"),
    ],
)
def test_neighbouring_seeds_stand_together(seeds: list[int], text: str) -> None:
    assert seeds_text(seeds) == text


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (0, 0, "none"),
        (0.1, 0.4, "under 1 s"),
        (0.2, 2, "up to 2 s"),
        (5, 5, "~5 s"),
        (2, 18, "2 to 18 s"),
        (50, 180, "50 s to 3 min"),
        (6000, 60_000, "1.7 to 16.7 h"),
    ],
)
def test_a_range_of_times_is_said_as_short_as_it_can_be(low: float, high: float, text: str) -> None:
    assert time_range(low, high) == text


def test_the_basis_of_times_has_a_column_where_trials_differ_in_it(
    tiny: dict[str, Any], tmp_path: Path, finished: Path
) -> None:
    assert "basis" not in plan_of(tiny, tmp_path).rows()[0]
    partly = plan_of(tiny, finished, "methods.1.lam=[0, 0.5]").rows()
    assert [row["basis"] for row in partly] == [
        "measured", "measured", "measured on others", "measured",
    ]  # fmt: skip
    assert partly[0]["training"].startswith(("~", "under"))


def test_seeds_that_wait_are_told_once(tiny: dict[str, Any], tmp_path: Path) -> None:
    start = {"from": "pgd_at λ=1", "epochs": 1}
    tiny["methods"] = [{"name": "pgd_at", "lam": 0.5, "start": start}, {"name": "pgd_at"}]
    plan = plan_of(tiny, tmp_path, "seeds=[0, 1, 2]")
    label = plan.trials[0].label
    assert plan.sentences()[2:] == [
        f"{label} seed 0: It waits for pgd_at λ=1 seed 0, which is not trained yet. "
        "So do 2 more of its seeds."
    ]


def test_a_notebook_shows_a_plan_with_what_each_column_means(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    plan = plan_of(tiny, tmp_path)
    page = plan._repr_html_()
    assert plan.title in page
    for name in plan.rows()[0]:
        assert f"<th>{name}</th>" in page
        assert MEANINGS[name] in page
    for sentence in plan.sentences():
        assert sentence in page
