"""What a comparison cannot use is always told, and never makes the answer better."""

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest

import studies
from studies.comparison.comparing import compare
from studies.statistics.intervals import wilson
from tests.studies.conftest import MakeRow

SEEDS = (0, 1)
BETTER = {"sa": 0.9, "ra": 0.8}
OURS: dict[str, Any] = {"method": "oat", "lam": 1.0, **BETTER}
BEATEN: dict[str, Any] = {"method": "pgd_at", "lam": 1.0, "sa": 0.8, "ra": 0.5}


def _frame(
    make_row: MakeRow, *models: dict[str, Any], attacks: tuple[str, ...] = ("pgd20",)
) -> Any:
    """Return a row of each model under each attack for each seed."""
    rows = [
        make_row(**{"images": 10_000, "attack": attack, "seed": seed, **model})
        for model, attack, seed in itertools.product(models, attacks, SEEDS)
    ]
    return pd.DataFrame(rows)


def test_a_retrained_model_without_a_point_under_the_attack_keeps_oat_from_being_free(
    make_row: MakeRow,
) -> None:
    trades = {"method": "trades", "beta": 6.0, "sa": 0.99, "ra": 0.9}
    both = _frame(make_row, OURS, BEATEN, attacks=("fgsm", "pgd20"))
    points = pd.concat([both, _frame(make_row, trades)], ignore_index=True)
    alone = studies.compare(both, attack="fgsm")
    assert (alone.verdict, alone.missing) == ("better", [])
    found = studies.compare(points, attack="fgsm")
    assert found.missing == ["trades β=6"]
    assert found.verdict == "undecided"
    assert "trades β=6" in found.answer()


def test_models_that_lack_one_of_the_attacks_each_are_missing_from_the_worst_case(
    make_row: MakeRow,
) -> None:
    others = [{"method": "trades", "beta": beta, "sa": 0.99, "ra": 0.9} for beta in (1.0, 6.0)]
    points = pd.concat(
        [
            _frame(make_row, OURS, BEATEN, attacks=("fgsm", "pgd20")),
            _frame(make_row, others[0], attacks=("fgsm",)),
            _frame(make_row, others[1], attacks=("pgd20",)),
        ],
        ignore_index=True,
    )
    found = studies.compare(points)
    assert found.attacks == ["fgsm", "pgd20"]
    assert found.missing == ["trades β=1", "trades β=6"]
    assert found.verdict == "undecided"


def test_a_variant_of_oat_without_a_point_under_the_attack_is_missing(make_row: MakeRow) -> None:
    worse = {**OURS, "variant": "oat encoding=dct", "sa": 0.3, "ra": 0.1}
    both = _frame(make_row, OURS, BEATEN, attacks=("autoattack", "pgd20"))
    points = pd.concat([both, _frame(make_row, worse)], ignore_index=True)
    assert studies.compare(points, attack="pgd20").verdict == "not free"
    found = studies.compare(points, attack="autoattack")
    assert found.missing == ["oat encoding=dct"]
    assert found.verdict == "undecided"


def test_points_that_are_no_numbers_make_their_model_a_missing_one(make_row: MakeRow) -> None:
    broken = {"method": "trades", "beta": 6.0, "sa": 0.99, "ra": np.nan}
    found = studies.compare(_frame(make_row, OURS, BEATEN, broken))
    assert found.missing == ["trades β=6 seed 0", "trades β=6 seed 1"]
    assert found.verdict == "undecided"


def test_an_attack_of_the_worst_case_that_cannot_be_compared_is_told_and_decides_nothing(
    make_row: MakeRow,
) -> None:
    weak = _frame(make_row, OURS, BEATEN, attacks=("fgsm",))
    strong = _frame(make_row, {**OURS, "ra": 0.1, "step_size": 0.01}, {**BEATEN, "step_size": 0.02})
    found = studies.compare(pd.concat([weak, strong], ignore_index=True))
    assert found.left_out == ["pgd20"]
    assert found.verdict == "undecided"
    assert "points under pgd20 are not comparable and left out" in found.answer()
    assert any(note.startswith("Not compared under 'pgd20': ") for note in found.notes)


@pytest.mark.parametrize("images", [200, 150])
def test_a_variant_of_oat_judged_on_other_held_out_images_keeps_its_rows(
    images: int, make_row: MakeRow
) -> None:
    worse = {**OURS, "variant": "oat encoding=dct", "sa": 0.6, "ra": 0.2}
    held_out = pd.concat(
        [
            _frame(make_row, {**OURS, "images": 200}, {**BEATEN, "images": 200}),
            _frame(make_row, {**worse, "images": images}),
        ]
    )
    found = compare(_frame(make_row, OURS, worse, BEATEN), held_out=held_out)
    assert found.question == "best λ"
    assert found.verdict == "not free"
    verdicts = found.table.set_index("once")["verdict"].to_dict()
    assert verdicts == {"oat": "better", "oat encoding=dct": "not free"}


def test_where_no_retrained_model_can_stand_beside_oat_the_answer_says_so_and_tells_the_areas(
    make_row: MakeRow,
) -> None:
    trades = {"method": "trades", "beta": 6.0, "sa": 0.8, "ra": 0.5}
    found = studies.compare(_frame(make_row, OURS, trades))
    assert found.table.empty
    assert found.without_row == ["trades β=6"]
    assert found.answer().startswith(
        "There is no verdict: nothing says at which λ OAT is set beside trades β=6. Its hypervolume"
    )


def test_with_several_seeds_no_accuracy_of_0_or_1_is_certain(make_row: MakeRow) -> None:
    broken = {"method": "pgd_at", "lam": 0.0, "sa": 1.0, "ra": 0.0}
    few = [{**model, "images": 200} for model in (OURS, BEATEN, broken)]
    cells = studies.compare(_frame(make_row, *few)).cells
    (cell,) = cells[cells["ra"] == 0].to_dict("records")
    assert cell["ra_low"] == 0
    assert cell["ra_high"] == pytest.approx(wilson(0.0, 200)[1])
    assert cell["sa_low"] == pytest.approx(wilson(1.0, 200)[0])


def test_fronts_of_different_sizes_are_told_in_numbers_at_all_widths_too(make_row: MakeRow) -> None:
    narrow = [
        {"method": "oats", "lam": lam, "width_mult": width, "sa": 0.8 + lam / 10, "ra": width / 2}
        for lam, width in itertools.product((0.0, 1.0), (0.5, 1.0))
    ]
    found = studies.compare(_frame(make_row, *narrow, BEATEN, {**BEATEN, "lam": 0.0, "sa": 0.9}))
    assert not any("nan" in note for note in found.told())


@pytest.mark.parametrize("ra", [0.9, np.nan])
def test_a_rival_that_is_not_known_under_the_attack_changes_no_verdict_on_oat(
    ra: float, make_row: MakeRow
) -> None:
    both = _frame(make_row, OURS, BEATEN, attacks=("fgsm", "pgd20"))
    rival = {"method": "mix", "variant": "mix of=a+b", "lam": 0.5, "sa": 0.99, "ra": ra}
    points = pd.concat([both, _frame(make_row, rival)], ignore_index=True)
    found = studies.compare(points, attack="fgsm")
    assert (found.verdict, found.missing) == ("better", [])
