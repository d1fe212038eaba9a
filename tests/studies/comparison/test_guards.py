from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from oat.recipe import RULES
from studies.comparison.comparing import compare
from studies.comparison.guards import (
    MUST_AGREE,
    check_comparable,
    finite_points,
    one_checkpoint,
    precision_notes,
)
from studies.comparison.notes import missing_notes
from studies.errors import ComparisonError
from studies.naming import MANY, listed, name_point
from studies.results.masking import masking_table
from studies.results.points import frame

MakeRow = Callable[..., dict[str, Any]]
LAMS = (0.0, 0.5, 1.0)


@pytest.fixture
def grid(make_row: MakeRow) -> list[dict[str, Any]]:
    """OAT, PGD-AT and TRADES with two seeds each, of which nothing is missing."""
    return [
        row
        for seed in (0, 1)
        for row in (
            *(make_row("oat", lam=lam, seed=seed) for lam in LAMS),
            *(make_row("pgd_at", lam=lam, seed=seed) for lam in LAMS),
            *(make_row("trades", beta=beta, seed=seed) for beta in (1.0, 6.0)),
        )
    ]


def _without(rows: list[dict[str, Any]], **values: Any) -> pd.DataFrame:
    """Make a frame without the rows that have all of these values."""
    return frame(r for r in rows if any(r[name] != value for name, value in values.items()))


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("data_fingerprint", ("aaa", "bbb")),
        ("images", (1000, 500)),
        ("eps", (8 / 255, 4 / 255)),
        ("step_size", (0.01, 0.02)),
        ("attack_settings", ("aaa", "bbb")),
        ("budget", ("aaa", "bbb")),
        ("checkpoint_rule", ("last", "chosen")),
        ("results_version", (1, 2)),
    ],
)
def test_each_mix_is_refused_by_its_name_and_noted_if_forced(
    column: str, values: tuple[Any, Any], make_row: MakeRow
) -> None:
    points = frame([
        make_row("oat", lam=1.0, **{column: values[0]}),
        make_row("pgd_at", lam=1.0, **{column: values[1]}),
    ])  # fmt: skip
    with pytest.raises(ComparisonError) as refused:
        check_comparable(points, force=False)
    said = str(refused.value)
    assert said.startswith(f"The points come from different {MUST_AGREE[column]}: ")
    assert said.endswith("`--force`.")
    assert all(str(value) in said for value in values)
    (note,) = check_comparable(points, force=True)
    assert said.partition(";")[0] in note
    forced = compare(points, force=True)
    assert len(forced.table) == 1
    assert f"the points come from different {MUST_AGREE[column]}" in forced.answer()


def test_points_on_other_images_under_another_attack_are_a_mix(make_row: MakeRow) -> None:
    """The worst over attacks is one over attacks on the same images."""
    points = frame(
        make_row(method, lam=1.0, attack=attack, data_fingerprint=data)
        for method in ("oat", "pgd_at")
        for attack, data in (("pgd20", "aaa"), ("square", "bbb"))
    )
    for attack in (None, "pgd20"):
        with pytest.raises(ComparisonError, match="different data: aaa, bbb"):
            compare(points, attack=attack)
    assert "the points come from different data" in compare(points, force=True).answer()


def test_every_column_that_must_agree_is_tried_here() -> None:
    mark = test_each_mix_is_refused_by_its_name_and_noted_if_forced.pytestmark[0]  # type: ignore[attr-defined]
    assert {column for column, _ in mark.args[1]} == MUST_AGREE.keys()


def test_all_that_differs_is_noted_if_forced(make_row: MakeRow) -> None:
    one = make_row("oat", lam=1.0, eps=0.1, budget="aaa")
    other = make_row("pgd_at", lam=1.0, eps=0.2, budget="bbb")
    assert len(check_comparable(frame([one, other]), force=True)) == 2


def test_an_attack_without_steps_is_no_mix(make_row: MakeRow) -> None:
    rows = [make_row(method, lam=1.0, step_size=None) for method in ("oat", "pgd_at")]
    assert check_comparable(frame(rows), force=False) == []


@pytest.mark.parametrize("rule", ["test", "best", "", "Last"])
@pytest.mark.parametrize("asked", [None, "last"])
def test_a_checkpoint_that_may_have_seen_the_test_data_is_never_compared(
    rule: str, asked: str | None, make_row: MakeRow
) -> None:
    rows = [make_row("oat", lam=1.0), make_row("pgd_at", lam=1.0, checkpoint_rule=rule)]
    for force in (False, True):
        with pytest.raises(ComparisonError, match="test data") as refused:
            compare(frame(rows), force=force, checkpoint=asked)
        assert f"'{rule}'" in str(refused.value)
        assert all(known in str(refused.value) for known in RULES)
    # though another point of the same model would serve
    with pytest.raises(ComparisonError, match="never compared"):
        compare(frame([*rows, make_row("pgd_at", lam=1.0)]), force=True)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -0.1, 1.1, 40.0])
@pytest.mark.parametrize("column", ["sa", "ra"])
def test_accuracies_that_are_none_are_named_and_left_out(
    column: str, bad: float, grid: list[dict[str, Any]]
) -> None:
    for row in grid[6:8]:
        row[column] = bad
    points = frame(grid)
    kept, (note,) = finite_points(points)
    assert len(kept) == len(grid) - 2
    lams = kept.loc[kept["method"] == "pgd_at", "lam"].unique()
    assert kept[["sa", "ra"]].isin([bad]).sum().sum() == 0
    assert note.endswith("from 0 to 1: trades β=1 seed 0, trades β=6 seed 0.")
    result = compare(points)
    assert note in result.notes
    assert result.table["lam"].tolist() == sorted(lams)
    assert np.isfinite(result.fronts["hypervolume"]).all()


def test_a_front_whose_accuracies_are_all_bad_is_refused(grid: list[dict[str, Any]]) -> None:
    for row in grid:
        row["sa"] = np.nan
    for force in (False, True):
        with pytest.raises(ComparisonError, match="No point has an accuracy") as refused:
            compare(frame(grid), force=force)
        assert "oat λ=0 seed 0" in str(refused.value)
        assert f"and {len(grid) - MANY} more)" in str(refused.value)
    with pytest.raises(ComparisonError, match="`oat run`"):
        finite_points(frame([]))


def test_an_accuracy_of_0_or_1_is_one(make_row: MakeRow) -> None:
    points = frame([make_row("oat", lam=1.0, sa=1.0, ra=0.0)])
    kept, notes = finite_points(points)
    pd.testing.assert_frame_equal(kept, points)
    assert notes == []


def test_a_whole_grid_misses_nothing(grid: list[dict[str, Any]]) -> None:
    assert missing_notes(frame(grid), frame(grid)) == []
    assert not any("Without a point" in note for note in compare(frame(grid)).notes)


@pytest.mark.parametrize(
    ("gone", "named"),
    [
        ({"method": "trades", "beta": 6.0, "seed": 1}, "trades β=6 seed 1"),
        ({"method": "pgd_at", "lam": 0.0, "seed": 0}, "pgd_at λ=0 seed 0"),
        ({"method": "oat", "lam": 0.5, "seed": 1}, "oat λ=0.5 seed 1"),
    ],
)
def test_a_seed_that_one_point_lacks_is_named(
    gone: dict[str, Any], named: str, grid: list[dict[str, Any]]
) -> None:
    assert missing_notes(_without(grid, **gone), _without(grid, **gone)) == [
        f"Without a point under this attack: {named}."
    ]


def test_what_other_attacks_have_judged_is_missing_under_this_one(
    grid: list[dict[str, Any]],
) -> None:
    (note,) = missing_notes(_without(grid, method="pgd_at", lam=1.0, seed=1), frame(grid))
    assert note == "Without a point under this attack: pgd_at λ=1 seed 1."


def test_beta_and_lam_of_one_value_are_two_places(make_row: MakeRow) -> None:
    rows = [
        make_row("oat", lam=1.0, seed=0),
        make_row("pgd_at", lam=1.0, seed=0),
        make_row("trades", beta=1.0, seed=1),
        make_row("oat", lam=1.0, seed=1),
    ]
    (note,) = missing_notes(frame(rows), frame(rows))
    assert note == "Without a point under this attack: pgd_at λ=1 seed 1, trades β=1 seed 0."


def test_a_lam_that_oat_lacks_is_named(grid: list[dict[str, Any]]) -> None:
    left = _without(grid, method="oat", lam=0.5)
    found = missing_notes(left, left)
    assert found == ["OAT was not evaluated at λ=0.5."]


def test_a_lam_without_a_dedicated_model_is_named(grid: list[dict[str, Any]]) -> None:
    left = _without(grid, method="pgd_at", lam=0.5)
    found = missing_notes(left, left)
    assert found == ["No model was retrained by PGD-AT at λ=0.5, where OAT was evaluated."]


def test_lams_are_told_apart_but_not_by_rounding(make_row: MakeRow) -> None:
    rows = [make_row("oat", lam=0.1 + 0.2), make_row("pgd_at", lam=0.3)]
    assert missing_notes(frame(rows), frame(rows)) == []
    near = [make_row("oat", lam=0.301), make_row("pgd_at", lam=0.3)]
    assert len(missing_notes(frame(near), frame(near))) == 2


def test_a_width_that_oat_lacks_is_named_for_trades_as_well(make_row: MakeRow) -> None:
    rows = [
        make_row("oat", lam=1.0),
        make_row("pgd_at", lam=1.0),
        make_row("trades", beta=6.0),
        make_row("trades", beta=6.0, width_mult=0.5),
    ]
    result = compare(frame(rows))
    assert len(result.table) == 1
    assert "OAT was not evaluated at the width of trades β=6 width=0.5." in result.notes


def test_widths_are_said_where_there_are_several(make_row: MakeRow) -> None:
    rows = [
        make_row(method, lam=lam, width_mult=width)
        for method in ("oats", "pgd_at")
        for lam in LAMS
        for width in (0.5, 1.0)
    ]
    kept = [r for r in rows if (r["method"], r["lam"], r["width_mult"]) != ("pgd_at", 0.5, 0.5)]
    (note,) = missing_notes(frame(kept), frame(kept))
    assert note.endswith("at λ=0.5 width=0.5, where OAT was evaluated.")


def test_trials_that_are_not_done_are_named(grid: list[dict[str, Any]]) -> None:
    trials = ["pgd_at λ=0.7 seed 0 (missing)", "trades β=3 seed 1 (diverged)"]
    notes = compare(frame(grid), unfinished=trials).notes
    assert f"Without a whole result: {', '.join(trials)}." in notes


def test_of_many_the_first_are_named_and_the_rest_counted(grid: list[dict[str, Any]]) -> None:
    names = [f"pgd_at λ={i}" for i in range(MANY + 3)]
    assert listed(names[:MANY]) == ", ".join(names[:MANY])
    assert listed(names) == ", ".join(names[:MANY]) + " and 3 more"
    assert listed(names[: MANY + 1]) == ", ".join(names[:MANY]) + " and 1 more"
    # each once
    assert listed([*names, *names]) == listed(names)
    assert listed([]) == ""
    (note,) = missing_notes(frame(grid), frame(grid), names)
    assert note.endswith("λ=7 and 3 more.")


def test_a_point_has_a_name_for_people(make_row: MakeRow) -> None:
    rows = frame([
        make_row("pgd_at", lam=0.2, width_mult=0.5, seed=1),
        make_row("trades", beta=6.0),
    ])  # fmt: skip
    assert [name_point(row) for _, row in rows.iterrows()] == [
        "pgd_at λ=0.2 width=0.5 seed 1",
        "trades β=6 seed 0",
    ]
    assert name_point(rows.iloc[0], seed=False) == "pgd_at λ=0.2 width=0.5"


def test_variants_that_share_options_are_named_without_them(make_row: MakeRow) -> None:
    shared = "oat lambda_choices=(0.0,1.0)"
    rows = [
        make_row(method, variant=variant, lam=1.0, seed=seed)
        for seed in (0, 1)
        for method, variant in (
            ("oat", shared),
            ("oat", f"{shared} encoding=dct"),
            ("pgd_at", "pgd_at"),
        )
    ]
    result = compare(frame(rows[:-2]))
    assert set(result.cells["variant"]) == {"oat", "oat encoding=dct", "pgd_at"}
    assert "'oat' stands for oat with lambda_choices=(0.0,1.0)." in result.notes
    assert (
        "Without a point under this attack: oat encoding=dct λ=1 seed 1, pgd_at λ=1 seed 1."
        in result.notes
    )


def test_one_rule_is_kept_and_models_without_it_are_named(make_row: MakeRow) -> None:
    rows = [
        make_row(method, lam=1.0, checkpoint_rule=rule)
        for method in ("oat", "pgd_at")
        for rule in ("chosen", "averaged")
    ]
    kept, notes = one_checkpoint(frame(rows), None)
    assert set(kept["checkpoint_rule"]) == {"averaged"}
    assert notes == []
    # weights that one model of a variant lacks serve no comparison of all
    other = make_row("pgd_at", lam=0.0, checkpoint_rule="chosen")
    kept, notes = one_checkpoint(frame([*rows, other]), None)
    assert (set(kept["checkpoint_rule"]), notes) == ({"chosen"}, [])
    lone = make_row("trades", beta=6.0, checkpoint_rule="chosen")
    kept, lost = one_checkpoint(frame([*rows, lone]), "averaged")
    assert lost == ["trades β=6 seed 0 by the rule 'averaged'"]
    kept, notes = one_checkpoint(frame([*rows, lone]), None)
    assert set(kept["checkpoint_rule"]) == {"chosen"}


@pytest.mark.parametrize("other", ["autoattack", "pgd50"])
def test_fewer_images_under_another_attack_are_no_mix(other: str, make_row: MakeRow) -> None:
    rows = [
        make_row(method, lam=lam, attack=attack, images=images, attack_settings=attack)
        for method in ("oat", "pgd_at")
        for lam in LAMS
        for attack, images in (("pgd20", 1000), (other, 100))
    ]
    result = compare(frame(rows))
    assert result.attack == "pgd20"
    assert set(result.cells["images"]) == {1000}
    assert set(compare(frame(rows), attack=other).cells["images"]) == {100}


def test_the_masking_table_has_each_operating_point_once(grid: list[dict[str, Any]]) -> None:
    rows = [
        {**row, "attack": attack, "masking": "none" if row["seed"] else "zero gradients"}
        for row in grid
        for attack in ("pgd20", "fgsm")
    ]
    table = masking_table(frame(rows))
    assert len(table) == len(grid)
    assert (table["flags"] == "").sum() == len(grid) / 2
    assert set(table["flags"]) == {"", "zero gradients"}


def test_models_of_different_precision_are_named(grid: list[dict[str, Any]]) -> None:
    rows = [
        {
            **row,
            "precision": "bfloat16" if (row["method"], row["seed"]) == ("oat", 1) else "float32",
        }
        for row in grid
    ]
    (note,) = precision_notes(frame(rows))
    assert "different precisions: bfloat16 (oat seed 1); float32 (oat seed 0, pgd_at λ=0" in note
    assert note in compare(frame(rows)).notes
    assert precision_notes(frame([{**row, "precision": "float32"} for row in grid])) == []


def test_a_frame_without_precision_says_nothing_of_it(grid: list[dict[str, Any]]) -> None:
    assert precision_notes(frame(grid).drop(columns="precision")) == []


def test_a_start_stays_in_the_name_where_all_models_of_a_method_have_it(
    grid: list[dict[str, Any]],
) -> None:
    start = "pgd_at start=pgd_at:λ=1 epochs=2"
    rows = [{**row, "variant": start} if row["method"] == "pgd_at" else row for row in grid]
    result = compare(frame(rows))
    name = "pgd_at start=pgd_at:λ=1"
    assert any(note.startswith(f"The training time and cost of '{name}'") for note in result.notes)
    assert result.table["dedicated"].str.startswith(name).any()
