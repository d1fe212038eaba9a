from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t

from studies.comparison.assumed import MARGIN
from studies.comparison.comparing import compare
from studies.comparison.verdict import to_decide, verdicts_of
from studies.statistics.intervals import Difference, difference_of
from tests.studies.comparison.models import (
    Model,
    bare_points,
    first_of,
    only_of,
    pair_of,
    stored_points,
)


def test_identical_models_differ_by_nothing_and_are_free(tmp_path: Path) -> None:
    result = compare(stored_points(tmp_path, *pair_of(2000, (1800, 1000), (1800, 1000))))
    row = only_of(result)
    assert row["d_sa"] == row["d_ra"] == 0
    assert row["verdict"] == "free"
    (ratio,) = result.ratios.values()
    assert ratio.value == 1
    assert ratio.low <= 1 <= ratio.high


@pytest.mark.parametrize(("images", "worse"), [(200, 10), (1000, 3), (1000, 200)])
def test_a_model_that_is_worse_on_some_images_differs_by_their_share(
    images: int, worse: int, tmp_path: Path
) -> None:
    oat, dedicated = pair_of(images, (images - worse, 100 - worse // 2), (images, 100))
    row = only_of(compare(stored_points(tmp_path, oat, dedicated)))
    assert row["d_sa"] == pytest.approx(-worse / images, abs=1e-12)
    assert row["d_ra"] == pytest.approx(-(worse // 2) / images, abs=1e-12)
    assert row["sa_oat"] == pytest.approx(1 - worse / images)
    assert row["sa_dedicated"] == 1
    for name in ("d_sa", "d_ra"):
        low, high = row[f"{name}_low"], row[f"{name}_high"]
        assert low < high
        assert low <= row[name] <= high


def test_an_interval_never_claims_to_know_a_difference_exactly(tmp_path: Path) -> None:
    row = only_of(compare(stored_points(tmp_path, *pair_of(100, (90, 50), (90, 50)))))
    assert row["d_sa_low"] < 0 < row["d_sa_high"]
    assert row["d_ra_low"] < 0 < row["d_ra_high"]


def _interval(tmp_path: Path, images: int, seed: int = 0) -> tuple[float, float, float]:
    """Compare two models that differ on a tenth of the images either way."""
    both = np.random.default_rng(seed).random(images) < 0.8
    oat, other = both.copy(), both.copy()
    oat[: images // 10] = True
    other[: images // 10] = False
    oat[images // 10 : images // 5] = False
    other[images // 10 : images // 5] = True
    row = only_of(
        compare(
            stored_points(tmp_path, Model("oat", oat, oat, lam=1), Model("pgd_at", other, other, 1))
        )
    )
    return row["d_sa_low"], row["d_sa"], row["d_sa_high"]


def test_intervals_are_about_symmetric_and_shrink_with_the_root_of_the_images(
    tmp_path: Path,
) -> None:
    few, many = _interval(tmp_path / "few", 400), _interval(tmp_path / "many", 6400)
    for low, value, high in (few, many):
        assert value == 0
        assert -low == pytest.approx(high, rel=0.2)
    assert (many[2] - many[0]) / (few[2] - few[0]) == pytest.approx(1 / 4, rel=0.2)


def test_a_paired_interval_is_far_narrower_than_an_unpaired_one(tmp_path: Path) -> None:
    models = pair_of(1000, (795, 400), (800, 405))
    paired, unpaired = (
        only_of(compare(table))
        for table in (stored_points(tmp_path, *models), bare_points(*models))
    )
    assert paired["d_sa"] == pytest.approx(unpaired["d_sa"])
    wide = unpaired["d_sa_high"] - unpaired["d_sa_low"]
    assert paired["d_sa_high"] - paired["d_sa_low"] < wide / 3


def test_a_frame_without_results_by_image_says_that_intervals_are_unpaired(
    tmp_path: Path,
) -> None:
    models = pair_of(1000, (795, 400), (800, 405))
    assert any("unpaired" in note for note in compare(bare_points(*models)).notes)
    assert not any("unpaired" in note for note in compare(stored_points(tmp_path, *models)).notes)


def test_points_whose_folder_is_gone_are_compared_unpaired(tmp_path: Path) -> None:
    table = stored_points(tmp_path, *pair_of(1000, (795, 400), (800, 405)))
    (tmp_path / "oat-None-0" / "correct.npz").unlink()
    result = compare(table)
    assert only_of(result)["d_sa"] == pytest.approx(-0.005)
    assert (
        "No per-image results for 1 of 2 points (oat λ=1 seed 0): their intervals are unpaired."
        in result.notes
    )


def test_points_without_results_by_image_are_named_the_first_of_many() -> None:
    models = [m for i in range(6) for m in pair_of(1000, (800, 400), (800, 400), i / 10)]
    narrow = Model("trades", first_of(8, 1000), first_of(4, 1000), beta=6.0, width=0.5, seed=1)
    (note,) = [n for n in compare(bare_points(narrow, *models)).notes if "unpaired" in n]
    first = ", ".join(f"oat λ={lam} seed 0" for lam in ("0", "0.1", "0.2", "0.3", "0.4", "0.5"))
    assert (
        f"for 13 of 13 points ({first}, pgd_at λ=0 seed 0, pgd_at λ=0.1 seed 0 and 5 more)" in note
    )
    (note,) = [n for n in compare(bare_points(narrow)).notes if "unpaired" in n]
    assert "for 1 of 1 points (trades β=6 width=0.5 seed 1)" in note


def test_to_trade_places_turns_the_sign(tmp_path: Path) -> None:
    ahead = only_of(compare(stored_points(tmp_path / "a", *pair_of(500, (450, 200), (440, 230)))))
    behind = only_of(compare(stored_points(tmp_path / "b", *pair_of(500, (440, 230), (450, 200)))))
    for name in ("d_sa", "d_ra"):
        assert ahead[name] == pytest.approx(-behind[name])
        assert ahead[f"{name}_low"] == pytest.approx(-behind[f"{name}_high"], rel=0.3)


Z = 1.959963984540054


def _known(value: float, half: float) -> Difference:
    """Return a difference with an interval of so much to each side."""
    return difference_of(value, value, (half / Z) ** 2)


HIGH, LOW, ZERO, WIDE, BELOW = (
    _known(0.03, 0.01),
    _known(-0.03, 0.01),
    _known(0.0, 0.005),
    _known(0.0, 0.05),
    _known(-0.012, 0.008),
)


@pytest.mark.parametrize(
    ("sa", "ra", "verdict"),
    [
        (HIGH, HIGH, "better"),
        (HIGH, ZERO, "free"),
        (ZERO, ZERO, "free"),
        (_known(0.0, 0.0099999), ZERO, "free"),
        (LOW, HIGH, "not free"),
        (HIGH, LOW, "not free"),
        (LOW, WIDE, "not free"),
        (WIDE, HIGH, "undecided"),
        (ZERO, WIDE, "undecided"),
        (BELOW, ZERO, "undecided"),
    ],
)
def test_a_pair_is_judged_by_its_intervals(sa: Difference, ra: Difference, verdict: str) -> None:
    assert verdicts_of([(sa, ra)], 0.01) == [verdict]
    assert verdicts_of([(ra, sa)], 0.01) == [verdict]


ENDS = st.tuples(st.floats(-0.1, 0.1), st.floats(0.0001, 0.1)).map(lambda ends: _known(*ends))

RANK = {"not free": 0, "undecided": 1, "free": 2, "better": 3}


@given(pairs=st.lists(st.tuples(ENDS, ENDS), min_size=1, max_size=6), gain=st.floats(0, 0.1))
def test_a_better_model_never_gets_a_worse_verdict(
    pairs: list[tuple[Difference, Difference]], gain: float
) -> None:
    before = verdicts_of(pairs, 0.01)
    sa, ra = pairs[0]
    raised = difference_of(sa.value + gain, sa.centre + gain, sa.sampling)
    after = verdicts_of([(raised, ra), *pairs[1:]], 0.01)
    assert RANK[after[0]] >= RANK[before[0]]
    wider = verdicts_of(pairs, 0.02)
    assert all(RANK[more] >= RANK[less] for more, less in zip(wider, before, strict=True))


@pytest.mark.parametrize("rows", [1, 2, 10])
def test_a_loss_counts_only_if_it_stands_among_all_rows(rows: int) -> None:
    # one-sided p is 0.02 in one accuracy of one row; all others are far above the margin
    loss = difference_of(-0.01 - 2.0537 * 0.004, -0.01 - 2.0537 * 0.004, 0.004**2)
    verdicts = verdicts_of([(loss, HIGH)] + [(HIGH, HIGH)] * (rows - 1), 0.01)
    assert verdicts[0] == ("not free" if rows == 1 else "undecided")
    assert verdicts[1:] == ["better"] * (rows - 1)


@pytest.mark.parametrize(
    ("images", "oat", "dedicated", "verdict"),
    [
        (4000, (3800, 2400), (3600, 2000), "better"),
        (4000, (3800, 2000), (3800, 2000), "free"),
        (4000, (3400, 2000), (3800, 2000), "not free"),
        (4000, (3800, 1600), (3800, 2000), "not free"),
        (50, (45, 20), (46, 21), "undecided"),
    ],
)
def test_the_verdict_follows_from_the_images(
    images: int, oat: tuple[int, int], dedicated: tuple[int, int], verdict: str, tmp_path: Path
) -> None:
    result = compare(stored_points(tmp_path, *pair_of(images, oat, dedicated)))
    assert only_of(result)["verdict"] == verdict
    said = {
        "better": "OAT beats 1 of 1 retrained model (",
        "free": "OAT matches 1 of 1 retrained model (",
        "not free": "OAT loses to 1 of 1 retrained model (",
        "undecided": "OAT is undecided against 1 retrained model (",
    }
    assert said[verdict] in result.answer()
    # one training of each compares these networks alone
    assert result.verdict == "one seed"
    assert "gives no verdict on the method" in result.answer()


def test_models_with_one_seed_beside_others_with_several_are_named(tmp_path: Path) -> None:
    models = [replace(model, seed=seed) for seed in range(2) for lam in (0.0, 1.0)
              for model in pair_of(500, (400, 200), (400, 200), lam)]  # fmt: skip
    lone = [m for m in models if not (m.method == "pgd_at" and m.lam == 1 and m.seed == 1)]
    result = compare(stored_points(tmp_path, *lone))
    assert result.verdict == "one seed"
    said = "There is no verdict on the method, as there is one seed alone of pgd_at λ=1: OAT"
    assert result.answer().startswith(said)


def _seeds(*pairs: tuple[Model, ...]) -> list[Model]:
    """Return models that three trainings of each setting have given alike."""
    return [replace(model, seed=seed) for seed in range(3) for pair in pairs for model in pair]


def test_the_verdict_on_all_is_that_of_the_worst_pair(tmp_path: Path) -> None:
    free, lost = (
        pair_of(4000, (3800, 900), (3800, 900), 0.0),
        pair_of(4000, (3400, 2000), (3800, 2000)),
    )
    result = compare(stored_points(tmp_path, *_seeds(free, lost)))
    assert sorted(result.table["verdict"]) == ["free", "not free"]
    assert result.verdict == "not free"
    assert result.answer().startswith(
        "OAT does not replace the retrained models here: OAT matches 1 of 2 retrained models "
        "and loses to 1 (margin 1 point in SA and RA, 95% intervals)"
    )
    alone = compare(stored_points(tmp_path / "alone", *_seeds(free)))
    assert alone.verdict == "free"
    assert alone.answer().startswith("OAT replaces the retrained models here: OAT matches 1 of 1 ")


def test_a_wider_margin_frees(tmp_path: Path) -> None:
    table = stored_points(tmp_path, *pair_of(4000, (3720, 2000), (3800, 2000)))
    assert MARGIN == 0.01
    assert only_of(compare(table))["verdict"] == "not free"
    assert only_of(compare(table, margin=0.05))["verdict"] == "free"
    assert "margin 5 points" in compare(table, margin=0.05).answer()


def _apart(images: int) -> list[Model]:
    """Return two models, equally good, that differ on a fifth of the images."""
    tenths = 10 * np.arange(images) // images
    oat, other = tenths != 1, tenths != 0
    return [Model("oat", oat, oat, lam=1), Model("pgd_at", other, other, 1)]


def test_an_undecided_row_says_how_many_images_would_decide_it(tmp_path: Path) -> None:
    row = only_of(compare(stored_points(tmp_path / "few", *_apart(400))))
    assert row["verdict"] == "undecided"
    assert np.isnan(row["seeds_to_decide"])
    images = int(row["images_to_decide"])
    assert images == pytest.approx(0.2 * (Z / 0.01) ** 2, rel=0.02)
    for name, count, verdict in (("enough", 1.01, "free"), ("fewer", 0.97, "undecided")):
        models = _apart(int(count * images))
        assert only_of(compare(stored_points(tmp_path / name, *models)))["verdict"] == verdict


@pytest.mark.parametrize(("centre", "probability"), [(-0.004, 0.975), (-0.024, 1 - 0.05 / 4)])
def test_the_seeds_that_would_decide_are_the_fewest_whose_error_is_small_enough(
    centre: float, probability: float
) -> None:
    spreads, seeds, margin = [(2e-5, 2), (1e-5, 8)], 3, 0.01
    loss = difference_of(centre, centre, 1e-6, spreads)
    images, wanted = to_decide((loss, HIGH), margin, 4000, seeds, 4)
    away = abs(centre + margin)

    def enough(count: int) -> bool:
        luck = [(v * seeds / count, df * (count - 1) / (seeds - 1)) for v, df in spreads]
        found = difference_of(centre, centre, 1e-6, luck)
        return float(t.ppf(probability, found.freedom)) * found.error <= away

    assert enough(int(wanted))
    assert not enough(int(wanted) - 1)
    # no number of images makes up for the luck of three trainings
    assert np.isinf(images)
    near = difference_of(-0.01, -0.01, 1e-6, spreads)
    assert to_decide((near, HIGH), margin, 4000, seeds, 4) == (np.inf, np.inf)
