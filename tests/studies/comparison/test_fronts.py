from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from studies.comparison.comparing import compare
from studies.comparison.fronts import PRICE_COLUMNS, SUMMARIES, front_name, measure_fronts
from studies.comparison.resampling import Resampled
from studies.results.points import frame
from studies.statistics.frontier import hypervolume

MakeRow = Callable[..., dict[str, Any]]
Rows = list[dict[str, Any]]
OURS = {0.0: (0.9, 0.1), 0.5: (0.8, 0.4), 1.0: (0.7, 0.5)}
THEIRS = {0.0: (0.95, 0.05), 0.5: (0.8, 0.45), 1.0: (0.6, 0.6)}


def _at(
    make_row: MakeRow, method: str, places: dict[float, tuple[float, float]], **more: Any
) -> Rows:
    """Return a row for each λ with SA and RA."""
    return [
        make_row(method, lam=lam, sa=sa, ra=ra, **more) for lam, (sa, ra) in places.items()
    ]  # fmt: skip


def _fronts(rows: Rows, **options: Any) -> pd.DataFrame:
    return compare(frame(rows), **options).fronts.set_index("front")


@pytest.fixture
def plain(make_row: MakeRow) -> Rows:
    """OAT and PGD-AT at three λ."""
    return _at(make_row, "oat", OURS) + _at(make_row, "pgd_at", THEIRS)


def test_a_front_is_told_from_the_dedicated_one_by_known_numbers(plain: Rows) -> None:
    row = _fronts(plain).loc["oat"]
    # at SA 0.6 their curve is at 0.6 and ours at 0.5; at 0.8 by 0.05 above, at 0.95 by 0.05
    assert (row["gap"], row["gap_at"]) == (pytest.approx(0.1), 0.6)
    assert row["covered"] == 0
    assert row["ratio"] == pytest.approx(
        hypervolume([*OURS.values()]) / hypervolume([*THEIRS.values()])
    )
    assert row["matched"] == row["ratio"]


@pytest.mark.parametrize(("margin", "reached"), [(0.049, 0), (0.05, 2), (0.099, 2), (0.1, 3)])
def test_covered_counts_what_is_reached_within_the_margin(
    margin: float, reached: int, plain: Rows
) -> None:
    assert _fronts(plain, margin=margin)["covered"]["oat"] == pytest.approx(reached / 3)


def test_dedicated_fronts_have_no_other_to_be_told_from(plain: Rows, make_row: MakeRow) -> None:
    fronts = _fronts([*plain, make_row("trades", beta=6.0, sa=0.75, ra=0.5)])
    rest = fronts.drop("oat")
    assert set(rest.index) == {"pgd_at", "trades", "all retrained"}
    told = [*SUMMARIES, "ratio", "ratio_low", "ratio_high", "matched", "break_even"]
    assert rest[told].isna().all().all()
    # nothing says how long the made-up models took
    assert fronts.loc["oat", told].isna().to_dict() == {
        name: name == "break_even_seconds" for name in told
    }


def test_trades_is_of_the_front_that_is_told_from(plain: Rows, make_row: MakeRow) -> None:
    trades = make_row("trades", beta=6.0, sa=0.85, ra=0.55)
    row = _fronts([*plain, trades]).loc["oat"]
    # TRADES dominates PGD-AT's point of λ = 0.5 and stands 0.45 above ours at its SA
    assert (row["gap"], row["gap_at"]) == (pytest.approx(0.45), 0.85)
    theirs = [*THEIRS.values(), (0.85, 0.55)]
    assert row["ratio"] == pytest.approx(hypervolume([*OURS.values()]) / hypervolume(theirs))
    assert _fronts([*plain, trades], margin=0.1)["covered"]["oat"] == pytest.approx(2 / 3)
    # a model of TRADES has no λ to be matched by
    assert row["matched"] == pytest.approx(
        hypervolume([*OURS.values()]) / hypervolume([*THEIRS.values()])
    )


def test_matched_leaves_out_what_has_no_partner(plain: Rows, make_row: MakeRow) -> None:
    extra = make_row("oat", lam=0.25, sa=0.85, ra=0.35)
    lone = make_row("pgd_at", lam=0.75, sa=0.7, ra=0.58)
    row = _fronts([*plain, extra, lone]).loc["oat"]
    ours, theirs = hypervolume([*OURS.values()]), hypervolume([*THEIRS.values()])
    assert row["matched"] == pytest.approx(ours / theirs)
    assert row["ratio"] == pytest.approx(
        hypervolume([*OURS.values(), (0.85, 0.35)]) / hypervolume([*THEIRS.values(), (0.7, 0.58)])
    )


def test_matched_is_nan_where_nothing_is_paired(make_row: MakeRow) -> None:
    rows = [make_row("oat", lam=0.25), make_row("pgd_at", lam=0.75)]
    row = _fronts(rows).loc["oat"]
    assert row[["matched", "matched_low", "matched_high"]].isna().all()
    assert row["ratio"] == 1


def test_each_once_for_all_variant_is_told_by_itself(plain: Rows, make_row: MakeRow) -> None:
    better = {lam: (sa + 0.05, ra + 0.1) for lam, (sa, ra) in THEIRS.items()}
    dct = _at(make_row, "oat", better, variant="oat encoding=dct", train_units=25.0)
    fronts = _fronts([*plain, *dct])
    assert fronts["gap"]["oat"] == pytest.approx(0.1)
    assert fronts["gap"]["oat encoding=dct"] == pytest.approx(-0.1)
    assert fronts["covered"].dropna().to_dict() == {"oat": 0, "oat encoding=dct": 1}
    assert fronts["break_even"].dropna().to_dict() == {"oat": 2, "oat encoding=dct": 3}
    for name, places in (("oat", OURS), ("oat encoding=dct", better)):
        expected = hypervolume([*places.values()]) / hypervolume([*THEIRS.values()])
        assert fronts["matched"][name] == pytest.approx(expected)


def test_widths_are_told_apart_and_together(make_row: MakeRow) -> None:
    right = {
        ("oats", 1.0): (0.8, 0.4),
        ("oats", 0.5): (0.7, 0.3),
        ("pgd_at", 1.0): (0.82, 0.38),
        ("pgd_at", 0.5): (0.66, 0.42),
    }
    units = {("pgd_at", 1.0): 10.0, ("pgd_at", 0.5): 4.0}
    rows = [
        make_row(
            method,
            lam=1.0,
            width_mult=width,
            sa=sa,
            ra=ra,
            train_units=units.get((method, width), 21.0),
        )
        for (method, width), (sa, ra) in right.items()
    ]
    fronts = _fronts(rows, margin=0.03)
    ours = fronts.loc[[f"oats {place}" for place in ("width=1", "width=0.5", "all widths")]]
    # SA 0.8 counts as 0.82; over all widths, width 0.5: 0.42 against the full network's 0.4
    assert ours["gap"].tolist() == pytest.approx([-0.02, 0.12, 0.02])
    assert ours["gap_at"].tolist() == [0.82, 0.66, 0.66]
    assert ours["covered"].tolist() == [1, 0, 1]
    assert ours["break_even"].tolist() == [3, 6, 4]
    assert ours["models"].tolist() == [1, 1, 1]
    assert fronts["models"]["pgd_at all widths"] == 2
    assert fronts["train_cost"]["pgd_at all widths"] == 14
    assert np.isnan(fronts["width_mult"]["oats all widths"])


def test_a_front_of_one_point_is_a_rectangle(make_row: MakeRow) -> None:
    rows = [make_row("oat", lam=1.0, sa=0.8, ra=0.4), make_row("pgd_at", lam=1.0, sa=0.8, ra=0.5)]
    fronts = _fronts(rows)
    assert fronts["hypervolume"].tolist() == pytest.approx([0.32, 0.4])
    assert fronts["operating_points"].tolist() == fronts["on_front"].tolist() == [1, 1]
    row = fronts.loc["oat"]
    assert row["ratio"] == row["matched"] == pytest.approx(0.8)
    assert (row["gap"], row["gap_at"], row["covered"]) == (pytest.approx(0.1), 0.8, 0)


@pytest.mark.parametrize("axis", ["sa", "ra"])
def test_fronts_without_area_have_no_ratio_but_a_gap(axis: str, make_row: MakeRow) -> None:
    rows = [
        make_row("oat", lam=1.0, **{axis: 0.3}),
        make_row("pgd_at", lam=1.0, **{axis: 0.0}),
    ]
    row = _fronts(rows).loc["oat"]
    assert row[["ratio", "ratio_low", "ratio_high", "matched"]].isna().all()
    assert row["covered"] == 1
    assert np.isfinite(row["gap"])
    # the other way round there is a front to be told from
    rows = [make_row("oat", lam=1.0, **{axis: 0.0}), make_row("pgd_at", lam=1.0, **{axis: 0.3})]
    assert _fronts(rows).loc["oat"]["ratio"] == 0


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_intervals_hold_their_value_or_surround_it(seeds: int, make_row: MakeRow) -> None:
    rng = np.random.default_rng(seeds)
    rows = []
    for seed in range(seeds):
        for method, places in (("oat", OURS), ("pgd_at", THEIRS)):
            for row in _at(make_row, method, places, seed=seed):
                row["sa"] += rng.normal(0, 0.002)
                row["ra"] += rng.normal(0, 0.002)
                rows.append(row)
    fronts = _fronts(rows, margin=0.1)
    row = fronts.loc["oat"]
    for name in ("ratio", "matched", "hypervolume"):
        assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
    # they jump with SA, and no bootstrap knows by how much
    assert not {"gap_low", "gap_high", "covered_low", "covered_high"} & set(row.index)


def _paired(rows: Rows, margin: float = 0.0) -> "pd.Series[Any]":
    """Measure OAT's front where each model has the first so many of the same images right."""
    points = frame(rows)
    images = np.arange(int(points["images"].iloc[0])) + 0.5
    correct = {
        f"{row['point_key']}.{kind}": images < row[name] * len(images)
        for row in rows
        for name, kind in (("sa", "clean"), ("ra", "robust"))
    }
    draws = Resampled(points, correct)
    ours, theirs = np.flatnonzero(draws.once).tolist(), np.flatnonzero(~draws.once).tolist()
    pairs = list(zip(ours, theirs, strict=True))
    return measure_fronts(draws, points, pairs, margin).set_index("front").loc["oat"]


def test_models_that_agree_on_every_image_have_a_ratio_known_exactly(make_row: MakeRow) -> None:
    row = _paired(_at(make_row, "oat", THEIRS) + _at(make_row, "pgd_at", THEIRS))
    for name in ("ratio", "matched"):
        assert row[[name, f"{name}_low", f"{name}_high"]].tolist() == [1] * 3
    assert (row["gap"], row["covered"]) == (0, 1)
    # the area of each alone is not known exactly
    assert row["hypervolume_low"] < row["hypervolume"] < row["hypervolume_high"]


def test_intervals_of_the_same_images_are_those_of_their_differences(make_row: MakeRow) -> None:
    ours = {lam: (sa, ra - 0.04) for lam, (sa, ra) in THEIRS.items()}
    row = _paired(_at(make_row, "oat", ours) + _at(make_row, "pgd_at", THEIRS))
    assert (row["gap"], row["covered"]) == (pytest.approx(0.04), 0)
    better = _paired(_at(make_row, "oat", THEIRS) + _at(make_row, "pgd_at", ours))
    assert (better["gap"], better["covered"]) == (pytest.approx(-0.04), 1)
    assert better["ratio_low"] > 1 > row["ratio_high"]


@pytest.mark.parametrize(
    ("ours", "each", "cheaper_from"),
    [
        (20.0, 10.0, 3),  # two cost the same, three more
        (19.999, 10.0, 2),
        (20.001, 10.0, 3),
        (5.0, 10.0, 1),
        (10.0, 10.0, 2),
        (0.3, 0.1, 4),  # 0.3 / 0.1 < 3 in floating point
        (70.7, 10.1, 8),
        (4.35e9 * 3, 4.35e9, 4),
    ],
)
@pytest.mark.parametrize("models", [1, 3, 6])
def test_break_even_is_the_first_number_of_models_that_cost_more(
    ours: float, each: float, cheaper_from: int, models: int, make_row: MakeRow
) -> None:
    lams = [i / 10 for i in range(models)]
    rows = [make_row("oat", lam=lam, train_units=ours) for lam in lams]
    rows += [make_row("pgd_at", lam=lam, train_units=each) for lam in lams]
    assert _fronts(rows)["break_even"]["oat"] == cheaper_from


def test_break_even_takes_the_mean_over_all_dedicated_models(make_row: MakeRow) -> None:
    rows = [
        make_row("oat", lam=1.0, train_units=40.0),
        make_row("pgd_at", lam=0.0, train_units=4.0),
        make_row("pgd_at", lam=1.0, train_units=10.0),
        make_row("trades", beta=6.0, train_units=16.0),
    ]
    assert _fronts(rows)["break_even"]["oat"] == 5


def _price(row: Any) -> dict[str, float]:
    return {name: float(row[name]) for name in PRICE_COLUMNS}


def test_a_front_costs_the_sum_of_its_networks_each_once(make_row: MakeRow) -> None:
    once = {
        "train_device_seconds": 30.0,
        "train_units": 20.0,
        "train_gradients": 700.0,
        "parameters": 110,
        "network_bytes": 440,
    }
    each = {
        "train_device_seconds": 11.0,
        "train_units": 8.0,
        "train_gradients": 300.0,
        "parameters": 100,
        "network_bytes": 400,
    }
    rows = [
        row
        for seed in (0, 1)
        for row in (
            *_at(make_row, "oat", OURS, seed=seed, **once),
            *_at(make_row, "pgd_at", THEIRS, seed=seed, **each),
            make_row("trades", beta=6.0, seed=seed, **each),
        )
    ]
    fronts = _fronts(rows)
    for name, models, price in (("oat", 1, once), ("pgd_at", 3, each), ("trades", 1, each),
                                ("all retrained", 4, each)):  # fmt: skip
        assert fronts["models"][name] == models
        expected = {key: models * price[column] for key, column in PRICE_COLUMNS.items()}
        assert _price(fronts.loc[name]) == expected


def test_a_seed_that_one_model_lacks_makes_the_front_no_cheaper(make_row: MakeRow) -> None:
    rows = [make_row("oat", lam=lam, seed=seed) for lam in OURS for seed in (0, 1)]
    rows += [make_row("pgd_at", lam=lam, seed=seed, train_units=4.0 + seed)
             for lam in OURS for seed in (0, 1)]  # fmt: skip
    whole, lacking = _fronts(rows), _fronts(rows[:-1])
    assert lacking["models"].to_dict() == whole["models"].to_dict() == {"oat": 1, "pgd_at": 3}
    assert whole["train_cost"]["pgd_at"] == 13.5
    assert lacking["train_cost"]["pgd_at"] == 13
    assert lacking["parameters"].to_dict() == whole["parameters"].to_dict()


def test_a_price_that_a_model_does_not_tell_is_not_taken_for_nothing(plain: Rows) -> None:
    for row in plain[-2:]:
        row["train_gradients"] = np.nan  # judged before these were counted
    fronts = _fronts(plain)
    assert np.isnan(fronts["train_gradients"]["pgd_at"])
    assert fronts["train_gradients"]["oat"] == 0
    assert fronts["parameters"].notna().all()


def test_a_front_is_named_by_its_width_where_there_are_several() -> None:
    assert front_name("oats", 0.5, several=False) == "oats"
    assert front_name("oats", 0.5, several=True) == "oats width=0.5"
    assert front_name("oats", None, several=True) == "oats all widths"
