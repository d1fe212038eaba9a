from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import studies
from studies.comparison.comparing import compare
from studies.comparison.guards import MUST_AGREE
from studies.errors import ComparisonError
from studies.results.points import frame
from studies.statistics.frontier import hypervolume
from studies.statistics.intervals import paired_difference, wilson
from tests.studies.comparison.models import (
    Model,
    bare_points,
    first_of,
    only_of,
    pair_of,
    stored_points,
)


@pytest.mark.parametrize(
    ("column", "other"),
    [
        ("data_fingerprint", "ba9876543210"),
        ("images", 999),
        ("eps", 0.2),
        ("step_size", 0.02),
        ("attack_settings", "fedcba98765"),
        ("budget", "000000000000"),
        ("checkpoint_rule", "chosen"),
        ("results_version", 2),
    ],
)
def test_points_of_different_settings_are_refused_unless_forced(column: str, other: Any) -> None:
    table = bare_points(*pair_of(1000, (800, 400), (800, 400)))
    table.loc[0, column] = other
    with pytest.raises(ComparisonError, match=r"different .*`--force`") as caught:
        compare(table)
    assert str(other) in str(caught.value)
    assert MUST_AGREE[column] in str(caught.value)
    forced = compare(table, force=True)
    assert len(forced.table) == 1
    assert any("compared anyway" in note and str(other) in note for note in forced.notes)


def test_points_of_one_setting_need_no_force_and_get_no_such_note() -> None:
    notes = compare(bare_points(*pair_of(1000, (800, 400), (800, 400))), force=True).notes
    assert not any("different" in note for note in notes)


def test_no_points_are_no_comparison() -> None:
    with pytest.raises(ComparisonError, match="`oat run`"):
        compare(frame([]))


def test_the_attack_is_chosen_by_its_label(tmp_path: Path) -> None:
    strong = pair_of(1000, (900, 300), (900, 310))
    weak = [replace(m, attack="pgd5", robust=first_of(700, 1000)) for m in strong]
    table = stored_points(tmp_path, *strong, *weak)
    assert only_of(compare(table, attack="pgd20"))["ra_oat"] == 0.3
    assert only_of(compare(table, attack="pgd5"))["ra_oat"] == 0.7
    assert compare(table, attack="pgd5").attack == "pgd5"
    with pytest.raises(ComparisonError, match=r"'pgd9'.*pgd20, pgd5"):
        compare(table, attack="pgd9")


def _at_widths(images: int, right: dict[tuple[str, float], tuple[int, int]]) -> list[Model]:
    """Return a model of λ = 1 for each method and width with so many images right."""
    return [
        Model(method, first_of(sa, images), first_of(ra, images), lam=1.0, width=width)
        for (method, width), (sa, ra) in right.items()
    ]


def test_a_narrow_model_is_set_beside_the_same_width_of_oats(tmp_path: Path) -> None:
    right = {
        ("oats", 0.5): (700, 300),
        ("oats", 1.0): (800, 400),
        ("pgd_at", 0.5): (740, 360),
        ("pgd_at", 1.0): (820, 410),
    }
    result = compare(stored_points(tmp_path, *_at_widths(1000, right)))
    assert result.table["width_mult"].tolist() == [1.0, 0.5]
    assert result.table["sa_oat"].tolist() == [0.8, 0.7]
    assert result.table["sa_dedicated"].tolist() == [0.82, 0.74]
    ratios = {name: ratio.value for name, ratio in result.ratios.items()}
    expected = {
        "oats width=1": 800 * 400 / (820 * 410),
        "oats width=0.5": 700 * 300 / (740 * 360),
        "oats all widths": 800 * 400 / (820 * 410),
    }
    assert ratios == pytest.approx(expected)
    for name in expected:
        assert name in result.answer()
    assert result.fronts["front"].tolist() == [
        "oats width=1",
        "pgd_at width=1",
        "oats width=0.5",
        "pgd_at width=0.5",
        "oats all widths",
        "pgd_at all widths",
    ]
    # the one super-network is the price of each of its fronts, and of all of them
    assert result.fronts["models"].tolist() == [1, 1, 1, 1, 1, 2]
    assert result.fronts["device_seconds"].tolist() == [1, 1, 1, 1, 1, 2]


def test_a_width_that_oats_was_not_judged_at_is_left_out_with_a_note() -> None:
    right = dict.fromkeys([("oats", 1.0), ("pgd_at", 1.0), ("pgd_at", 0.25)], (80, 40))
    result = compare(bare_points(*_at_widths(100, right)))
    assert result.table["width_mult"].tolist() == [1.0]
    assert "OAT was not evaluated at λ=1 width=0.25." in result.notes
    assert np.isnan(result.fronts.set_index("front")["ratio"]["pgd_at width=0.25"])
    assert list(result.ratios) == ["oats width=1"]


def test_variants_are_set_beside_the_plainest_by_image(tmp_path: Path) -> None:
    images, lams = 1000, (0.0, 1.0)
    plain = [Model("oat", first_of(800, images), first_of(400, images), lam=lam) for lam in lams]
    odd = [replace(m, options=" dual_bn=False", robust=first_of(430, images)) for m in plain]
    wide = [
        Model("oats", first_of(790, images), first_of(400, images), lam=lam, width=width)
        for lam in (*lams, 0.5)
        for width in (0.5, 1.0)
    ]
    result = compare(stored_points(tmp_path, *odd, *wide, *plain))
    assert result.reference == "oat"
    table = result.variants.set_index(["variant", "lam", "width_mult"])
    assert len(table) == 2 + 6
    assert "no retrained model" in result.answer()
    expected = paired_difference(first_of(430, images), first_of(400, images))
    for lam in lams:
        row = table.loc[("oat dual_bn=False", lam, 1.0)]
        assert (row["d_sa"], row["d_ra"]) == (0, pytest.approx(0.03))
        assert (row["d_ra_low"], row["d_ra_high"]) == (expected.low, expected.high)
        assert table.loc[("oats", lam, 1.0)]["d_sa"] == pytest.approx(-0.01)
    # there is no plain OAT at half of the width, nor at a λ it was not judged at
    assert table.loc[("oats", 0.0, 0.5)].isna().sum() == 6
    assert table.loc[("oats", 0.5, 1.0)].isna().sum() == 6


def test_a_variant_is_named_by_what_tells_it_from_the_others() -> None:
    pair = pair_of(1000, (800, 400), (800, 400))
    lone = replace(pair[0], options=" encoding=dct")
    assert set(compare(bare_points(lone, pair[1])).cells["variant"]) == {"oat", "pgd_at"}
    pair = tuple(replace(m, options=" lambda_choices=(0.0,1.0)") for m in pair)
    lone = replace(lone, options=" lambda_choices=(0.0,1.0) encoding=dct")
    both = compare(bare_points(*pair, lone))
    assert both.reference == "oat"
    assert set(both.cells["variant"]) == {"oat", "oat encoding=dct", "pgd_at"}
    assert "'oat' stands for oat with lambda_choices=(0.0,1.0)." in both.notes
    assert len(both.table) == 2
    assert "in 2 comparisons" in both.answer()


def test_ratios_of_fronts_with_unequally_many_points_come_with_a_warning() -> None:
    pairs = [m for lam in (0.0, 1.0) for m in pair_of(100, (80, 40), (80, 40), lam)]
    more = replace(pairs[0], lam=0.5)
    said = "oat has 3 operating points, the retrained models have 2"
    told = [any(said in note for note in compare(bare_points(*models)).notes)
            for models in (pairs, [*pairs, more])]  # fmt: skip
    assert told == [False, True]


def _rules(*rules: str, robust: int) -> list[Model]:
    return [
        replace(model, rule=rule, robust=first_of(robust + i, 1000))
        for i, rule in enumerate(rules)
        for model in pair_of(1000, (800, 400), (800, 400))
    ]


def test_one_checkpoint_rule_is_compared_the_last_weights_unless_told() -> None:
    table = bare_points(*_rules("averaged", "chosen", "last", robust=400))
    assert (compare(table).checkpoint, only_of(compare(table))["ra_oat"]) == ("last", 0.402)
    averaged = compare(table, checkpoint="averaged")
    assert (averaged.checkpoint, only_of(averaged)["ra_oat"]) == ("averaged", 0.4)
    assert compare(bare_points(*_rules("chosen", robust=400))).checkpoint == "chosen"
    with pytest.raises(ComparisonError, match=r"'best' weights; known: averaged, chosen, last"):
        compare(table, checkpoint="best")


def test_models_without_the_weights_asked_for_are_named() -> None:
    both, lone = _rules("last", "averaged", robust=400), pair_of(9, (8, 4), (8, 4), 0.5)[1]
    lone = replace(lone, clean=first_of(800, 1000), robust=first_of(400, 1000))
    result = compare(bare_points(*both, lone), checkpoint="averaged")
    assert result.missing == ["pgd_at λ=0.5 seed 0 by the rule 'averaged'"]
    assert result.verdict != "free"
    assert len(compare(bare_points(*both, lone)).cells) == 3


def test_models_that_share_no_checkpoint_rule_are_refused() -> None:
    oat, dedicated = pair_of(1000, (800, 400), (800, 400))
    table = bare_points(replace(oat, rule="chosen"), dedicated)
    with pytest.raises(ComparisonError, match=r"different checkpoint rules: chosen, last.*--force"):
        compare(table)


@pytest.mark.parametrize("kept", ["oat", "pgd_at"])
def test_one_side_alone_is_nothing_to_compare(kept: str) -> None:
    models = [m for m in pair_of(1000, (800, 400), (800, 400)) if m.method == kept]
    result = compare(bare_points(*models))
    assert len(result.table) == 0
    assert result.ratios == {}
    assert "Nothing to compare" in result.answer()
    assert len(result.cells) == len(result.fronts) == 1


def test_a_dedicated_model_is_set_beside_oat_at_the_same_lam() -> None:
    models = [m for lam in (0.0, 0.3, 1.0) for m in pair_of(1000, (800, 400), (800, 400), lam)]
    result = compare(bare_points(*models[::-1]))
    assert result.table["lam"].tolist() == [0.0, 0.3, 1.0]
    assert result.table["oat_lam"].tolist() == [0.0, 0.3, 1.0]


def test_a_lam_that_oat_was_not_judged_at_is_left_out_with_a_note() -> None:
    pair, (_, lone) = pair_of(1000, (800, 400), (800, 400), 1.0), pair_of(1000, (9, 4), (8, 4), 0.5)
    result = compare(bare_points(*pair, lone))
    assert result.table["lam"].tolist() == [1.0]
    assert any("λ=0.5" in note for note in result.notes)


def test_without_held_out_points_trades_stands_beside_nothing() -> None:
    oat = [Model("oat", first_of(80, 100), first_of(n, 100), lam=n / 100) for n in (20, 50)]
    trades = Model("trades", first_of(78, 100), first_of(56, 100), beta=6.0)
    result = compare(bare_points(*oat, trades))
    assert result.table.empty
    assert any("no points on held-out images to choose λ by" in note for note in result.notes)


def test_the_nearest_dedicated_point_is_of_the_same_width_and_of_any_method(
    tmp_path: Path,
) -> None:
    once = [
        Model("oats", first_of(clean, 400), first_of(robust, 400), lam=lam, width=width)
        for width, lam, clean, robust in [
            (1.0, 0.0, 380, 40),
            (1.0, 1.0, 300, 200),
            (0.5, 0.0, 379, 41),
            (0.25, 0.0, 380, 40),
        ]
    ]
    dedicated = [
        Model("pgd_at", first_of(379, 400), first_of(60, 400), lam=0.0),
        Model("trades", first_of(306, 400), first_of(208, 400), beta=1.0),
        Model("pgd_at", first_of(290, 400), first_of(202, 400), lam=1.0),
        Model("pgd_at", first_of(310, 400), first_of(150, 400), lam=0.0, width=0.5),
    ]
    result = compare(stored_points(tmp_path, *once, *dedicated))
    rows = result.nearest.to_dict("records")
    found = []
    for row in rows:
        ours, theirs = result.cells.loc[row["once"]], result.cells.loc[row["dedicated"]]
        assert ours["width_mult"] == theirs["width_mult"]
        found.append((ours["width_mult"], ours["lam"], theirs["method"]))
    # nothing dedicated has width 0.25; 10 and 2 images away are farther than 6 and 8
    assert found == [(0.5, 0.0, "pgd_at"), (1.0, 0.0, "pgd_at"), (1.0, 1.0, "trades")]
    middle = rows[-1]
    for name, own, other in (("d_sa", 300, 306), ("d_ra", 200, 208)):
        expected = paired_difference(first_of(own, 400), first_of(other, 400))
        got = middle[name], middle[f"{name}_low"], middle[f"{name}_high"]
        assert got == (expected.value, expected.low, expected.high)


def test_without_dedicated_models_none_is_nearest() -> None:
    oat = [Model("oat", first_of(80, 100), first_of(40, 100), lam=lam) for lam in (0.0, 1.0)]
    assert compare(bare_points(*oat)).nearest.empty


def test_several_seeds_are_averaged(tmp_path: Path) -> None:
    models = []
    for seed, (ours, theirs) in enumerate([(900, 880), (870, 890), (900, 900)]):
        oat, dedicated = pair_of(1000, (ours, 500), (theirs, 510))
        models += [replace(oat, seed=seed), replace(dedicated, seed=seed)]
    result = compare(stored_points(tmp_path, *models))
    row = only_of(result)
    assert row["seeds"] == 3
    assert row["sa_oat"] == pytest.approx(0.89)
    assert row["d_sa"] == pytest.approx(0.0, abs=1e-12)
    assert row["d_ra"] == pytest.approx(-0.01)
    assert row["d_sa_low"] < 0 < row["d_sa_high"]
    # seeds 2 points apart: wider than the images alone, which differ on 2 in 100, would make it
    assert row["d_sa_high"] - row["d_sa_low"] > 0.015
    assert result.cells["seeds"].tolist() == [3, 3]
    assert not any(note.startswith("One seed") for note in result.notes)


def test_one_seed_is_named_as_such() -> None:
    assert any(
        note.startswith("One seed")
        for note in compare(bare_points(*pair_of(100, (80, 40), (80, 40)))).notes
    )


def test_settings_of_one_seed_each_are_named_as_such_though_the_seeds_differ() -> None:
    oat, dedicated = pair_of(100, (80, 40), (80, 40))
    result = compare(bare_points(oat, replace(dedicated, seed=1)))
    assert any(note.startswith("One seed per setting") for note in result.notes)
    assert not any(note.startswith("2 seeds") for note in result.notes)


def test_a_setting_of_one_seed_has_the_spread_that_others_tell() -> None:
    oat, dedicated = pair_of(1000, (900, 500), (880, 500))
    again = replace(oat, seed=1, clean=first_of(800, 1000))
    cells = compare(bare_points(oat, again, dedicated)).cells.set_index("variant")
    low, high = wilson(0.88, 1000)
    # two trainings of OAT lie 10 points apart: so may two of the other
    assert cells["sa_high"]["pgd_at"] - cells["sa_low"]["pgd_at"] > 2 * (high - low)


def test_a_seed_that_one_side_lacks_is_left_out_of_its_mean() -> None:
    oat, dedicated = pair_of(1000, (900, 500), (880, 500))
    again = replace(oat, seed=1, clean=first_of(800, 1000))
    row = only_of(compare(bare_points(oat, again, dedicated)))
    assert row["sa_oat"] == pytest.approx(0.85)
    assert row["sa_dedicated"] == pytest.approx(0.88)
    assert np.isfinite([row["d_sa_low"], row["d_sa_high"]]).all()


def test_fronts_have_their_area_and_their_price() -> None:
    oat = [
        Model("oat", first_of(900, 1000), first_of(100, 1000), lam=0.0, seconds=30),
        Model("oat", first_of(800, 1000), first_of(600, 1000), lam=1.0, seconds=30),
    ]
    dedicated = [
        Model("pgd_at", first_of(950, 1000), first_of(50, 1000), lam=0.0, seconds=5),
        Model("pgd_at", first_of(700, 1000), first_of(650, 1000), lam=1.0, seconds=11),
        Model("trades", first_of(850, 1000), first_of(550, 1000), beta=6.0, seconds=13),
    ]
    result = compare(bare_points(*oat, *dedicated))
    fronts = result.fronts.set_index("front")
    assert set(fronts.index) == {"oat", "pgd_at", "trades", "all retrained"}
    assert fronts["models"].to_dict() == {"oat": 1, "pgd_at": 2, "trades": 1, "all retrained": 3}
    assert fronts["device_seconds"].to_dict() == {
        "oat": 30, "pgd_at": 16, "trades": 13, "all retrained": 29,
    }  # fmt: skip
    assert fronts["network_bytes"]["all retrained"] == 3 * 500
    assert fronts["on_front"]["all retrained"] == 3
    ours, theirs = (
        hypervolume([(m.clean.mean(), m.robust.mean()) for m in side]) for side in (oat, dedicated)
    )
    assert fronts["hypervolume"]["oat"] == pytest.approx(ours)
    assert fronts["hypervolume"]["all retrained"] == pytest.approx(theirs)
    (ratio,) = result.ratios.values()
    assert ratio.value == pytest.approx(ours / theirs)
    assert ratio.low < ratio.value < ratio.high


def test_the_price_of_several_seeds_is_that_of_one() -> None:
    oat, dedicated = pair_of(1000, (900, 500), (880, 500))
    second = [replace(model, seed=1, seconds=3.0) for model in (oat, dedicated)]
    fronts = compare(bare_points(oat, dedicated, *second)).fronts.set_index("front")
    assert fronts["models"].to_dict() == {"oat": 1, "pgd_at": 1}
    assert fronts["device_seconds"].to_dict() == {"oat": 2, "pgd_at": 2}


def test_the_comparison_is_a_function_of_the_points_alone(tmp_path: Path) -> None:
    models = [m for lam in (0.0, 0.3, 1.0) for m in pair_of(300, (250, 120), (260, 110), lam)]
    table = stored_points(tmp_path, *models)
    first = compare(table)
    for again in (compare(table), compare(table.sample(frac=1, random_state=1))):
        pd.testing.assert_frame_equal(again.table, first.table)
        pd.testing.assert_frame_equal(again.cells, first.cells)
        pd.testing.assert_frame_equal(again.fronts, first.fronts)
        assert (again.ratios, again.notes) == (first.ratios, first.notes)


def test_models_that_no_attack_leaves_standing_have_fronts_without_area(tmp_path: Path) -> None:
    oat, dedicated = pair_of(1000, (900, 0), (880, 0))
    result = compare(stored_points(tmp_path, oat, dedicated))
    assert result.fronts["hypervolume"].tolist() == [0, 0]
    assert not any(np.isfinite(ratio.value) for ratio in result.ratios.values())
    assert only_of(result)["d_ra"] == 0
    assert "OAT matches 1" in result.answer()


def test_comparing_leaves_the_frame_alone(tmp_path: Path) -> None:
    table = stored_points(tmp_path, *pair_of(300, (250, 120), (260, 110)))
    before = table.copy()
    compare(table)
    pd.testing.assert_frame_equal(table, before)


def test_cells_have_wilsons_interval_of_one_seed() -> None:
    cells = compare(bare_points(*pair_of(300, (300, 0), (260, 110)))).cells
    for row in cells.to_dict("records"):
        for name in ("sa", "ra"):
            assert (row[f"{name}_low"], row[f"{name}_high"]) == wilson(row[name], 300)
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]


def test_real_points_are_compared_pairwise(tiny: dict[str, Any], finished: Path) -> None:
    table = studies.points(tiny, storage=finished)
    result = compare(table)
    assert result.table["dedicated"].tolist() == ["pgd_at", "pgd_at", "trades"]
    by = table.set_index(["method", "lam"])
    for row in result.table.to_dict("records"):
        ours = by.loc[("oat", row["oat_lam"])]
        assert row["d_sa"] == pytest.approx(ours["sa"] - row["sa_dedicated"], abs=1e-12)
        assert row["d_ra"] == pytest.approx(ours["ra"] - row["ra_dedicated"], abs=1e-12)
    for row in result.same_knob.to_dict("records"):
        ours, theirs = by.loc[("oat", row["lam"])], by.loc[("pgd_at", row["lam"])]
        assert row["d_sa"] == pytest.approx(ours["sa"] - theirs["sa"], abs=1e-12)
        assert row["d_ra"] == pytest.approx(ours["ra"] - theirs["ra"], abs=1e-12)
    assert not any("unpaired" in note for note in result.notes)
