import io
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import studies
from studies.comparison.answer import Comparison
from studies.comparison.comparing import MARGIN, compare, compare_all
from studies.comparison.guards import MUST_AGREE
from studies.comparison.pairs import verdict_of
from studies.errors import ComparisonError
from studies.methods import ONCE
from studies.results.points import frame
from studies.statistics.frontier import hypervolume
from studies.statistics.intervals import Interval, paired_difference, wilson
from studies.storage.sealed import digest, seal

Bools = NDArray[np.bool_]
COMMON: dict[str, Any] = {
    "width_mult": 1.0,
    "attack": "pgd20",
    "eps": 0.1,
    "step_size": 0.01,
    "attack_settings": "0123456789a",
    "dataset": "digits",
    "data_fingerprint": "0123456789ab",
    "model": "resnet8",
    "epochs": 1,
    "budget": "abcdef012345",
    "checkpoint_rule": "last",
    "checkpoint_epoch": 1,
    "results_version": 1,
    "flops": 1000,
    "deployed_bytes": 400,
    "in_situ_flops": 1100,
    "in_situ_parameters": 110,
    "network_bytes": 500,
    "parameters": 100,
    "train_units": 10.0,
}


@dataclass(frozen=True)
class Model:
    """A made-up operating point: which of the test images it has right, clean and attacked."""

    method: str
    clean: Bools
    robust: Bools
    lam: float | None = None
    beta: float | None = None
    seed: int = 0
    seconds: float = 1.0
    attack: str = "pgd20"
    width: float = 1.0
    options: str = ""
    rule: str = "last"

    @property
    def run(self) -> str:
        """Name the network: the points of OAT and OATS share one."""
        place = None if self.method in ONCE else (self.lam, self.beta, self.width)
        return f"{self.method}{self.options}-{place}-{self.seed}"

    def row(self) -> dict[str, Any]:
        """Return its point as a trial would store it."""
        return {
            **COMMON,
            "point_key": digest(
                [self.run, self.lam, self.beta, self.attack, self.width, self.rule]
            ),
            "run_key": self.run,
            "training_id": f"training of {self.run}",
            "method": self.method,
            "variant": self.method + self.options,
            "width_mult": self.width,
            "checkpoint_rule": self.rule,
            "lam": self.lam,
            "beta": self.beta,
            "seed": self.seed,
            "attack": self.attack,
            "sa": float(self.clean.mean()),
            "ra": float(self.robust.mean()),
            "images": len(self.clean),
            "train_device_seconds": self.seconds,
        }


def _first(right: int, images: int) -> Bools:
    """Have the first so many images right."""
    return np.arange(images) < right


def _bare(*models: Model) -> pd.DataFrame:
    """Make a frame that knows accuracies alone."""
    return frame(model.row() for model in models)


def _stored(storage: Path, *models: Model) -> pd.DataFrame:
    """Store the models as trials store their results, and make the frame that points there."""
    for run in {model.run for model in models}:
        place = storage / run
        place.mkdir(parents=True)
        mine = [model for model in models if model.run == run]
        packed = {}
        for model in mine:
            key = model.row()["point_key"]
            packed[f"{key}.clean"] = np.packbits(model.clean)
            packed[f"{key}.robust"] = np.packbits(model.robust)
        buffer = io.BytesIO()
        np.savez(buffer, **packed)
        (place / "correct.npz").write_bytes(buffer.getvalue())
        (place / "points.jsonl").write_text("".join(json.dumps(seal(m.row())) + "\n" for m in mine))
        (place / "model.safetensors").write_bytes(b"weights")
        trained = {
            "training_id": f"training of {run}",
            "weights": {"last": {"bytes": 7}},
            "device_seconds": 1.0,
        }
        (place / "result.json").write_text(json.dumps(seal({"status": "done", "trained": trained})))
    table = _bare(*models)
    return table.assign(folder=[str(storage / key) for key in table["run_key"]])


def _only(comparison: Comparison) -> dict[str, Any]:
    (row,) = comparison.table.to_dict("records")
    return {str(key): value for key, value in row.items()}


def _pair(
    images: int, oat: tuple[int, int], dedicated: tuple[int, int], lam: float = 1.0
) -> tuple[Model, Model]:
    """Return OAT and a dedicated model of the same λ with so many images right, clean, robust."""
    return (
        Model("oat", _first(oat[0], images), _first(oat[1], images), lam=lam),
        Model("pgd_at", _first(dedicated[0], images), _first(dedicated[1], images), lam=lam),
    )


def test_identical_models_differ_by_nothing_and_are_free(tmp_path: Path) -> None:
    result = compare(_stored(tmp_path, *_pair(2000, (1800, 1000), (1800, 1000))))
    row = _only(result)
    assert row["d_sa"] == row["d_ra"] == 0
    assert row["verdict"] == result.verdict == "free"
    (ratio,) = result.ratios.values()
    assert ratio.value == 1
    assert ratio.low <= 1 <= ratio.high


@pytest.mark.parametrize(("images", "worse"), [(200, 10), (1000, 3), (1000, 200)])
def test_a_model_that_is_worse_on_some_images_differs_by_their_share(
    images: int, worse: int, tmp_path: Path
) -> None:
    oat, dedicated = _pair(images, (images - worse, 100 - worse // 2), (images, 100))
    row = _only(compare(_stored(tmp_path, oat, dedicated)))
    assert row["d_sa"] == pytest.approx(-worse / images, abs=1e-12)
    assert row["d_ra"] == pytest.approx(-(worse // 2) / images, abs=1e-12)
    assert row["sa_oat"] == pytest.approx(1 - worse / images)
    assert row["sa_dedicated"] == 1
    for name in ("d_sa", "d_ra"):
        low, high = row[f"{name}_low"], row[f"{name}_high"]
        assert low < high
        assert low <= row[name] <= high


def test_an_interval_never_claims_to_know_a_difference_exactly(tmp_path: Path) -> None:
    row = _only(compare(_stored(tmp_path, *_pair(100, (90, 50), (90, 50)))))
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
    row = _only(
        compare(_stored(tmp_path, Model("oat", oat, oat, lam=1), Model("pgd_at", other, other, 1)))
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
    models = _pair(1000, (795, 400), (800, 405))
    paired, unpaired = (
        _only(compare(table)) for table in (_stored(tmp_path, *models), _bare(*models))
    )
    assert paired["d_sa"] == pytest.approx(unpaired["d_sa"])
    wide = unpaired["d_sa_high"] - unpaired["d_sa_low"]
    assert paired["d_sa_high"] - paired["d_sa_low"] < wide / 3


def test_a_frame_without_results_by_image_says_that_intervals_are_unpaired(
    tmp_path: Path,
) -> None:
    models = _pair(1000, (795, 400), (800, 405))
    assert any("unpaired" in note for note in compare(_bare(*models)).notes)
    assert not any("unpaired" in note for note in compare(_stored(tmp_path, *models)).notes)


def test_points_whose_folder_is_gone_are_compared_unpaired(tmp_path: Path) -> None:
    table = _stored(tmp_path, *_pair(1000, (795, 400), (800, 405)))
    (tmp_path / "oat-None-0" / "correct.npz").unlink()
    result = compare(table)
    assert _only(result)["d_sa"] == pytest.approx(-0.005)
    assert (
        "No per-image results for 1 of 2 points (oat λ=1 seed 0): their intervals are unpaired."
        in result.notes
    )


def test_points_without_results_by_image_are_named_the_first_of_many() -> None:
    models = [m for i in range(6) for m in _pair(1000, (800, 400), (800, 400), i / 10)]
    narrow = Model("trades", _first(8, 1000), _first(4, 1000), beta=6.0, width=0.5, seed=1)
    (note,) = [n for n in compare(_bare(narrow, *models)).notes if "unpaired" in n]
    first = ", ".join(f"oat λ={lam} seed 0" for lam in ("0", "0.1", "0.2", "0.3", "0.4", "0.5"))
    assert (
        f"for 13 of 13 points ({first}, pgd_at λ=0 seed 0, pgd_at λ=0.1 seed 0 and 5 more)" in note
    )
    (note,) = [n for n in compare(_bare(narrow)).notes if "unpaired" in n]
    assert "for 1 of 1 points (trades β=6 width=0.5 seed 1)" in note


def test_to_trade_places_turns_the_sign(tmp_path: Path) -> None:
    ahead = _only(compare(_stored(tmp_path / "a", *_pair(500, (450, 200), (440, 230)))))
    behind = _only(compare(_stored(tmp_path / "b", *_pair(500, (440, 230), (450, 200)))))
    for name in ("d_sa", "d_ra"):
        assert ahead[name] == pytest.approx(-behind[name])
        assert ahead[f"{name}_low"] == pytest.approx(-behind[f"{name}_high"], rel=0.3)


HIGH, LOW, ZERO, WIDE, BELOW = (
    Interval(0.03, 0.02, 0.04),
    Interval(-0.03, -0.04, -0.02),
    Interval(0.0, -0.005, 0.005),
    Interval(0.0, -0.05, 0.05),
    Interval(-0.012, -0.02, -0.004),
)


@pytest.mark.parametrize(
    ("sa", "ra", "verdict"),
    [
        (HIGH, HIGH, "better"),
        (HIGH, ZERO, "free"),
        (ZERO, ZERO, "free"),
        (Interval(0.0, -0.01, 0.01), ZERO, "free"),
        (LOW, HIGH, "not free"),
        (HIGH, LOW, "not free"),
        (LOW, WIDE, "not free"),
        (WIDE, HIGH, "undecided"),
        (ZERO, WIDE, "undecided"),
        (BELOW, ZERO, "undecided"),
    ],
)
def test_a_pair_is_judged_by_its_intervals(sa: Interval, ra: Interval, verdict: str) -> None:
    assert verdict_of(sa, ra, 0.01) == verdict
    assert verdict_of(ra, sa, 0.01) == verdict


ENDS = st.tuples(st.floats(-0.1, 0.1), st.floats(0, 0.1)).map(
    lambda ends: Interval(ends[0], ends[0] - ends[1], ends[0] + ends[1])
)
RANK = {"not free": 0, "undecided": 1, "free": 2, "better": 3}


@given(sa=ENDS, ra=ENDS, gain=st.floats(0, 0.1), margin=st.floats(0, 0.05))
def test_a_better_model_never_gets_a_worse_verdict(
    sa: Interval, ra: Interval, gain: float, margin: float
) -> None:
    raised = Interval(sa.value + gain, sa.low + gain, sa.high + gain)
    assert RANK[verdict_of(raised, ra, margin)] >= RANK[verdict_of(sa, ra, margin)]
    assert RANK[verdict_of(sa, ra, 2 * margin)] >= RANK[verdict_of(sa, ra, margin)]


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
    result = compare(_stored(tmp_path, *_pair(images, oat, dedicated)))
    assert result.verdict == _only(result)["verdict"] == verdict
    assert verdict.upper() in result.answer()
    assert f"1 {verdict}" in result.answer()


def test_the_verdict_on_all_is_that_of_the_worst_pair(tmp_path: Path) -> None:
    free, lost = _pair(4000, (3800, 900), (3800, 900), 0.0), _pair(4000, (3400, 2000), (3800, 2000))
    result = compare(_stored(tmp_path, *free, *lost))
    assert sorted(result.table["verdict"]) == ["free", "not free"]
    assert result.verdict == "not free"
    assert "of 2 dedicated models, OAT is 1 free, 1 not free" in result.answer()


def test_a_wider_margin_frees(tmp_path: Path) -> None:
    table = _stored(tmp_path, *_pair(4000, (3720, 2000), (3800, 2000)))
    assert MARGIN == 0.01
    assert compare(table).verdict == "not free"
    assert compare(table, margin=0.05).verdict == "free"
    assert "margin 5 points" in compare(table, margin=0.05).answer()


def test_a_test_set_too_small_for_the_margin_is_named() -> None:
    notes = " ".join(compare(_bare(*_pair(50, (45, 20), (46, 21)))).notes)
    assert "50 test images" in notes
    assert "more test images" in notes


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
    table = _bare(*_pair(1000, (800, 400), (800, 400)))
    table.loc[0, column] = other
    with pytest.raises(ComparisonError, match=r"different .*`--force`") as caught:
        compare(table)
    assert str(other) in str(caught.value)
    assert MUST_AGREE[column] in str(caught.value)
    forced = compare(table, force=True)
    assert len(forced.table) == 1
    assert any("compared all the same" in note and str(other) in note for note in forced.notes)


def test_points_of_one_setting_need_no_force_and_get_no_such_note() -> None:
    notes = compare(_bare(*_pair(1000, (800, 400), (800, 400))), force=True).notes
    assert not any("different" in note for note in notes)


def test_no_points_are_no_comparison() -> None:
    with pytest.raises(ComparisonError, match="`oat run`"):
        compare(frame([]))


def test_the_attack_is_chosen_by_its_label(tmp_path: Path) -> None:
    strong = _pair(1000, (900, 300), (900, 310))
    weak = [replace(m, attack="pgd5", robust=_first(700, 1000)) for m in strong]
    table = _stored(tmp_path, *strong, *weak)
    assert _only(compare(table, attack="pgd20"))["ra_oat"] == 0.3
    assert _only(compare(table, attack="pgd5"))["ra_oat"] == 0.7
    assert compare(table, attack="pgd5").attack == "pgd5"
    with pytest.raises(ComparisonError, match=r"'pgd9'.*pgd20, pgd5"):
        compare(table, attack="pgd9")


def _at_widths(images: int, right: dict[tuple[str, float], tuple[int, int]]) -> list[Model]:
    """Return a model of λ = 1 for each method and width with so many images right."""
    return [
        Model(method, _first(sa, images), _first(ra, images), lam=1.0, width=width)
        for (method, width), (sa, ra) in right.items()
    ]


def test_a_narrow_model_is_set_beside_the_same_width_of_oats(tmp_path: Path) -> None:
    right = {
        ("oats", 0.5): (700, 300),
        ("oats", 1.0): (800, 400),
        ("pgd_at", 0.5): (740, 360),
        ("pgd_at", 1.0): (820, 410),
    }
    result = compare(_stored(tmp_path, *_at_widths(1000, right)))
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
    result = compare(_bare(*_at_widths(100, right)))
    assert result.table["width_mult"].tolist() == [1.0]
    assert "OAT was not judged at λ=1 width=0.25." in result.notes
    assert np.isnan(result.fronts.set_index("front")["ratio"]["pgd_at width=0.25"])
    assert list(result.ratios) == ["oats width=1"]


def test_variants_are_set_beside_the_plainest_by_image(tmp_path: Path) -> None:
    images, lams = 1000, (0.0, 1.0)
    plain = [Model("oat", _first(800, images), _first(400, images), lam=lam) for lam in lams]
    odd = [replace(m, options=" dual_bn=False", robust=_first(430, images)) for m in plain]
    wide = [
        Model("oats", _first(790, images), _first(400, images), lam=lam, width=width)
        for lam in (*lams, 0.5)
        for width in (0.5, 1.0)
    ]
    result = compare(_stored(tmp_path, *odd, *wide, *plain))
    assert result.reference == "oat"
    table = result.variants.set_index(["variant", "lam", "width_mult"])
    assert len(table) == 2 + 6
    assert "No dedicated model" in result.answer()
    expected = paired_difference(_first(430, images), _first(400, images))
    for lam in lams:
        row = table.loc[("oat dual_bn=False", lam, 1.0)]
        assert (row["d_sa"], row["d_ra"]) == (0, pytest.approx(0.03))
        assert (row["d_ra_low"], row["d_ra_high"]) == (expected.low, expected.high)
        assert table.loc[("oats", lam, 1.0)]["d_sa"] == pytest.approx(-0.01)
    # there is no plain OAT at half of the width, nor at a λ it was not judged at
    assert table.loc[("oats", 0.0, 0.5)].isna().sum() == 6
    assert table.loc[("oats", 0.5, 1.0)].isna().sum() == 6


def test_a_variant_is_named_by_what_tells_it_from_the_others() -> None:
    pair = _pair(1000, (800, 400), (800, 400))
    lone = replace(pair[0], options=" encoding=dct")
    assert set(compare(_bare(lone, pair[1])).cells["variant"]) == {"oat", "pgd_at"}
    pair = tuple(replace(m, options=" lambda_choices=(0.0,1.0)") for m in pair)
    lone = replace(lone, options=" lambda_choices=(0.0,1.0) encoding=dct")
    both = compare(_bare(*pair, lone))
    assert both.reference == "oat"
    assert set(both.cells["variant"]) == {"oat", "oat encoding=dct", "pgd_at"}
    assert "'oat' stands for oat with lambda_choices=(0.0,1.0)." in both.notes
    assert len(both.table) == 2
    assert "of 2 comparisons" in both.answer()


def test_ratios_of_fronts_with_unequally_many_points_come_with_a_warning() -> None:
    pairs = [m for lam in (0.0, 1.0) for m in _pair(100, (80, 40), (80, 40), lam)]
    more = replace(pairs[0], lam=0.5)
    told = [any("unequally many" in note for note in compare(_bare(*models)).notes)
            for models in (pairs, [*pairs, more])]  # fmt: skip
    assert told == [False, True]


def _rules(*rules: str, robust: int) -> list[Model]:
    return [
        replace(model, rule=rule, robust=_first(robust + i, 1000))
        for i, rule in enumerate(rules)
        for model in _pair(1000, (800, 400), (800, 400))
    ]


def test_one_checkpoint_rule_is_compared_the_last_weights_unless_told() -> None:
    table = _bare(*_rules("averaged", "chosen", "last", robust=400))
    assert (compare(table).checkpoint, _only(compare(table))["ra_oat"]) == ("last", 0.402)
    averaged = compare(table, checkpoint="averaged")
    assert (averaged.checkpoint, _only(averaged)["ra_oat"]) == ("averaged", 0.4)
    assert compare(_bare(*_rules("chosen", robust=400))).checkpoint == "chosen"
    with pytest.raises(ComparisonError, match=r"'best' weights; there are averaged, chosen, last"):
        compare(table, checkpoint="best")


def test_models_without_the_weights_asked_for_are_named() -> None:
    both, lone = _rules("last", "averaged", robust=400), _pair(9, (8, 4), (8, 4), 0.5)[1]
    lone = replace(lone, clean=_first(800, 1000), robust=_first(400, 1000))
    result = compare(_bare(*both, lone), checkpoint="averaged")
    assert "1 models (pgd_at) have no 'averaged' weights." in result.notes
    assert len(compare(_bare(*both, lone)).cells) == 3


def test_models_that_share_no_checkpoint_rule_are_refused() -> None:
    oat, dedicated = _pair(1000, (800, 400), (800, 400))
    table = _bare(replace(oat, rule="chosen"), dedicated)
    with pytest.raises(ComparisonError, match=r"different checkpoint rules: chosen, last.*--force"):
        compare(table)


@pytest.mark.parametrize("kept", ["oat", "pgd_at"])
def test_one_side_alone_is_nothing_to_compare(kept: str) -> None:
    models = [m for m in _pair(1000, (800, 400), (800, 400)) if m.method == kept]
    result = compare(_bare(*models))
    assert len(result.table) == 0
    assert result.ratios == {}
    assert "Nothing to compare" in result.answer()
    assert len(result.cells) == len(result.fronts) == 1


def test_a_dedicated_model_is_set_beside_oat_at_the_same_lam() -> None:
    models = [m for lam in (0.0, 0.3, 1.0) for m in _pair(1000, (800, 400), (800, 400), lam)]
    result = compare(_bare(*models[::-1]))
    assert result.table["lam"].tolist() == [0.0, 0.3, 1.0]
    assert result.table["oat_lam"].tolist() == [0.0, 0.3, 1.0]


def test_a_lam_that_oat_was_not_judged_at_is_left_out_with_a_note() -> None:
    pair, (_, lone) = _pair(1000, (800, 400), (800, 400), 1.0), _pair(1000, (9, 4), (8, 4), 0.5)
    result = compare(_bare(*pair, lone))
    assert result.table["lam"].tolist() == [1.0]
    assert any("λ=0.5" in note for note in result.notes)


@pytest.mark.parametrize(("right", "nearest"), [(950, 0.0), (890, 0.3), (760, 1.0), (100, 1.0)])
def test_trades_is_set_beside_the_oat_point_nearest_in_sa(right: int, nearest: float) -> None:
    oat = [
        Model("oat", _first(n, 1000), _first(300, 1000), lam=lam)
        for lam, n in [(0.0, 940), (0.3, 880), (1.0, 780)]
    ]
    trades = Model("trades", _first(right, 1000), _first(300, 1000), beta=6.0)
    row = _only(compare(_bare(*oat, trades)))
    assert row["oat_lam"] == nearest
    assert np.isnan(row["lam"])
    assert row["beta"] == 6
    assert row["d_sa"] == pytest.approx({0.0: 0.94, 0.3: 0.88, 1.0: 0.78}[nearest] - right / 1000)


def test_of_points_equally_near_in_sa_trades_is_set_beside_the_more_robust() -> None:
    oat = [
        Model("oat", _first(80, 100), _first(right, 100), lam=lam)
        for lam, right in [(0.0, 2), (0.3, 57), (1.0, 55)]
    ]
    trades = Model("trades", _first(78, 100), _first(56, 100), beta=6.0)
    assert _only(compare(_bare(*oat, trades)))["oat_lam"] == 0.3


def test_the_nearest_dedicated_point_is_of_the_same_width_and_of_any_method(
    tmp_path: Path,
) -> None:
    once = [
        Model("oats", _first(clean, 400), _first(robust, 400), lam=lam, width=width)
        for width, lam, clean, robust in [
            (1.0, 0.0, 380, 40),
            (1.0, 1.0, 300, 200),
            (0.5, 0.0, 379, 41),
            (0.25, 0.0, 380, 40),
        ]
    ]
    dedicated = [
        Model("pgd_at", _first(379, 400), _first(60, 400), lam=0.0),
        Model("trades", _first(306, 400), _first(208, 400), beta=1.0),
        Model("pgd_at", _first(290, 400), _first(202, 400), lam=1.0),
        Model("pgd_at", _first(310, 400), _first(150, 400), lam=0.0, width=0.5),
    ]
    result = compare(_stored(tmp_path, *once, *dedicated))
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
        expected = paired_difference(_first(own, 400), _first(other, 400))
        got = Interval(middle[name], middle[f"{name}_low"], middle[f"{name}_high"])
        assert got == expected


def test_without_dedicated_models_none_is_nearest() -> None:
    oat = [Model("oat", _first(80, 100), _first(40, 100), lam=lam) for lam in (0.0, 1.0)]
    assert compare(_bare(*oat)).nearest.empty


def test_several_seeds_are_averaged(tmp_path: Path) -> None:
    models = []
    for seed, (ours, theirs) in enumerate([(900, 880), (870, 890), (900, 900)]):
        oat, dedicated = _pair(1000, (ours, 500), (theirs, 510))
        models += [replace(oat, seed=seed), replace(dedicated, seed=seed)]
    result = compare(_stored(tmp_path, *models))
    row = _only(result)
    assert row["seeds"] == 3
    assert row["sa_oat"] == pytest.approx(0.89)
    assert row["d_sa"] == pytest.approx(0.0, abs=1e-12)
    assert row["d_ra"] == pytest.approx(-0.01)
    assert row["d_sa_low"] < 0 < row["d_sa_high"]
    # seeds 2 points apart: wider than the images alone, which differ on 2 in 100, would make it
    assert row["d_sa_high"] - row["d_sa_low"] > 0.015
    assert result.cells["seeds"].tolist() == [3, 3]
    assert not any(note.startswith("1 seed") for note in result.notes)


def test_one_seed_is_named_as_such() -> None:
    assert any(
        note.startswith("1 seed") for note in compare(_bare(*_pair(100, (80, 40), (80, 40)))).notes
    )


def test_settings_of_one_seed_each_are_named_as_such_though_the_seeds_differ() -> None:
    oat, dedicated = _pair(100, (80, 40), (80, 40))
    result = compare(_bare(oat, replace(dedicated, seed=1)))
    assert any(note.startswith("1 seed a setting") for note in result.notes)
    assert not any(note.startswith("2 seeds") for note in result.notes)


def test_a_setting_of_one_seed_has_the_spread_that_others_tell() -> None:
    oat, dedicated = _pair(1000, (900, 500), (880, 500))
    again = replace(oat, seed=1, clean=_first(800, 1000))
    cells = compare(_bare(oat, again, dedicated)).cells.set_index("variant")
    low, high = wilson(0.88, 1000)
    # two trainings of OAT lie 10 points apart: so may two of the other
    assert cells["sa_high"]["pgd_at"] - cells["sa_low"]["pgd_at"] > 2 * (high - low)


def test_a_seed_that_one_side_lacks_is_left_out_of_its_mean() -> None:
    oat, dedicated = _pair(1000, (900, 500), (880, 500))
    again = replace(oat, seed=1, clean=_first(800, 1000))
    row = _only(compare(_bare(oat, again, dedicated)))
    assert row["sa_oat"] == pytest.approx(0.85)
    assert row["sa_dedicated"] == pytest.approx(0.88)
    assert np.isfinite([row["d_sa_low"], row["d_sa_high"]]).all()


def test_fronts_have_their_area_and_their_price() -> None:
    oat = [
        Model("oat", _first(900, 1000), _first(100, 1000), lam=0.0, seconds=30),
        Model("oat", _first(800, 1000), _first(600, 1000), lam=1.0, seconds=30),
    ]
    dedicated = [
        Model("pgd_at", _first(950, 1000), _first(50, 1000), lam=0.0, seconds=5),
        Model("pgd_at", _first(700, 1000), _first(650, 1000), lam=1.0, seconds=11),
        Model("trades", _first(850, 1000), _first(550, 1000), beta=6.0, seconds=13),
    ]
    result = compare(_bare(*oat, *dedicated))
    fronts = result.fronts.set_index("front")
    assert set(fronts.index) == {"oat", "pgd_at", "trades", "all dedicated"}
    assert fronts["models"].to_dict() == {"oat": 1, "pgd_at": 2, "trades": 1, "all dedicated": 3}
    assert fronts["device_seconds"].to_dict() == {
        "oat": 30, "pgd_at": 16, "trades": 13, "all dedicated": 29,
    }  # fmt: skip
    assert fronts["network_bytes"]["all dedicated"] == 3 * 500
    assert fronts["on_front"]["all dedicated"] == 3
    ours, theirs = (
        hypervolume([(m.clean.mean(), m.robust.mean()) for m in side]) for side in (oat, dedicated)
    )
    assert fronts["hypervolume"]["oat"] == pytest.approx(ours)
    assert fronts["hypervolume"]["all dedicated"] == pytest.approx(theirs)
    (ratio,) = result.ratios.values()
    assert ratio.value == pytest.approx(ours / theirs)
    assert ratio.low < ratio.value < ratio.high


def test_the_price_of_several_seeds_is_that_of_one() -> None:
    oat, dedicated = _pair(1000, (900, 500), (880, 500))
    second = [replace(model, seed=1, seconds=3.0) for model in (oat, dedicated)]
    fronts = compare(_bare(oat, dedicated, *second)).fronts.set_index("front")
    assert fronts["models"].to_dict() == {"oat": 1, "pgd_at": 1}
    assert fronts["device_seconds"].to_dict() == {"oat": 2, "pgd_at": 2}


def test_the_comparison_is_a_function_of_the_points_alone(tmp_path: Path) -> None:
    models = [m for lam in (0.0, 0.3, 1.0) for m in _pair(300, (250, 120), (260, 110), lam)]
    table = _stored(tmp_path, *models)
    first = compare(table)
    for again in (compare(table), compare(table.sample(frac=1, random_state=1))):
        pd.testing.assert_frame_equal(again.table, first.table)
        pd.testing.assert_frame_equal(again.cells, first.cells)
        pd.testing.assert_frame_equal(again.fronts, first.fronts)
        assert (again.ratios, again.notes) == (first.ratios, first.notes)


def test_models_that_no_attack_leaves_standing_have_fronts_without_area(tmp_path: Path) -> None:
    oat, dedicated = _pair(1000, (900, 0), (880, 0))
    result = compare(_stored(tmp_path, oat, dedicated))
    assert result.fronts["hypervolume"].tolist() == [0, 0]
    assert not any(np.isfinite(ratio.value) for ratio in result.ratios.values())
    assert _only(result)["d_ra"] == 0
    assert result.verdict.upper() in result.answer()


def test_comparing_leaves_the_frame_alone(tmp_path: Path) -> None:
    table = _stored(tmp_path, *_pair(300, (250, 120), (260, 110)))
    before = table.copy()
    compare(table)
    pd.testing.assert_frame_equal(table, before)


def test_cells_have_wilsons_interval_of_one_seed() -> None:
    cells = compare(_bare(*_pair(300, (300, 0), (260, 110)))).cells
    for row in cells.to_dict("records"):
        for name in ("sa", "ra"):
            assert (row[f"{name}_low"], row[f"{name}_high"]) == wilson(row[name], 300)
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]


def test_real_points_are_compared_pairwise(tiny: dict[str, Any], finished: Path) -> None:
    table = studies.points(tiny, storage=finished)
    result = compare(table)
    assert result.table["dedicated"].tolist() == ["pgd_at", "pgd_at", "trades"]
    by = table.set_index(["method", "lam"])
    for row in result.table[result.table["lam"].notna()].to_dict("records"):
        ours, theirs = by.loc[("oat", row["lam"])], by.loc[("pgd_at", row["lam"])]
        assert row["d_sa"] == pytest.approx(ours["sa"] - theirs["sa"], abs=1e-12)
        assert row["d_ra"] == pytest.approx(ours["ra"] - theirs["ra"], abs=1e-12)
    assert not any("unpaired" in note for note in result.notes)


def _under(attack: str, right: int, images: int, *models: Model) -> list[Model]:
    """Return the models under another attack, on the first so many images."""
    clean = [model.clean[:images] for model in models]
    return [
        replace(model, attack=attack, clean=some, robust=_first(right, images))
        for model, some in zip(models, clean, strict=True)
    ]


def test_the_attack_is_the_strongest_at_the_own_radius_on_the_most_images() -> None:
    models = _pair(1000, (900, 400), (900, 400))
    others = {
        "pgd50": (350, 1000),
        "fgsm": (500, 1000),
        "autoattack": (60, 200),
        "pgd20@0.2": (100, 1000),
    }
    rows = [m for name, (ra, n) in others.items() for m in _under(name, ra, n, *models)]
    assert compare(_bare(*models, *rows)).attack == "pgd50"
    # of radii of their own alone, too, the strongest on the most images
    odd = [m for name in ("pgd20@0.2", "pgd20@0.1") for m in rows if m.attack == name]
    odd += _under("pgd20@0.1", 300, 1000, *models) + _under("square@0.1", 0, 100, *models)
    assert compare(_bare(*odd)).attack == "pgd20@0.2"
    assert compare(_bare(*models, *rows), attack="autoattack").attack == "autoattack"


def test_a_stronger_attack_on_fewer_images_is_said_with_its_number(tmp_path: Path) -> None:
    oat, dedicated = _pair(1000, (900, 150), (900, 160))
    strong = _under("autoattack", 100, 200, oat) + _under("autoattack", 120, 200, dedicated)
    result = compare(_stored(tmp_path, oat, dedicated, *strong))
    assert result.attack == "pgd20"
    # 150 to 100 and 160 to 120 of the same 200: 25 and 20 points; RA of all 1000 is 0.15 and 0.16
    assert (
        "Under 'autoattack', on the first 200 images, RA is 22.5 points lower than under 'pgd20' "
        "on the same (mean over 2 points)."
    ) in result.notes


def test_an_attack_that_is_stronger_on_other_images_alone_is_not_said(tmp_path: Path) -> None:
    images = 1000
    late = np.arange(images) >= images - 400  # none of the first images withstands
    models = [replace(m, robust=late) for m in _pair(images, (1000, 0), (1000, 0))]
    weak = _under("autoattack", 10, 200, *models)
    assert weak[0].robust.mean() < models[0].robust.mean()
    assert not any("Under '" in n for n in compare(_stored(tmp_path / "a", *models, *weak)).notes)
    # of which nothing is stored by image, nothing is said: the images may not be the same
    strong = _under("autoattack", 0, 200, *_pair(images, (1000, 900), (1000, 900)))
    assert not any("Under '" in n for n in compare(_bare(*models, *strong)).notes)


def test_an_attack_at_another_radius_is_not_called_stronger(tmp_path: Path) -> None:
    models = _pair(1000, (900, 400), (900, 400))
    table = _stored(tmp_path, *models, *_under("pgd20@0.2", 0, 1000, *models))
    table.loc[table["attack"] == "pgd20@0.2", "eps"] = 0.2
    assert not any("Under '" in note for note in compare(table).notes)


def test_what_cannot_be_compared_under_another_attack_is_noted() -> None:
    models = _pair(1000, (900, 400), (900, 400))
    table = _bare(*models, *_under("pgd5", 500, 1000, *models), *_under("fgsm", 600, 1000, *models))
    odd = (table["attack"] == "pgd5") & (table["method"] == "oat")
    table.loc[odd, "attack_settings"] = "fedcba98765"
    first, others = compare_all(table)
    assert (first.attack, [other.attack for other in others]) == ("pgd20", ["fgsm"])
    (note,) = [note for note in first.notes if note.startswith("Not compared")]
    assert note.startswith("Not compared under 'pgd5': The points come from different settings")
    assert {other.attack for other in compare_all(table, force=True)[1]} == {"fgsm", "pgd5"}
    with pytest.raises(ComparisonError, match="different settings"):
        compare_all(table, attack="pgd5")


def _with_recipes(table: pd.DataFrame, *recipes: str) -> pd.DataFrame:
    """Say of made-up models how they were trained; two of one place are then two models."""
    keys = [f"{key}{recipe}" for key, recipe in zip(table["run_key"], recipes, strict=True)]
    points = [digest([key, i]) for i, key in enumerate(keys)]
    return table.assign(recipe=list(recipes), run_key=keys, point_key=points)


def test_dedicated_models_of_two_recipes_at_one_place_are_two_models() -> None:
    table = _bare(
        Model("oat", _first(80, 100), _first(40, 100), lam=0.5),
        Model("pgd_at", _first(70, 100), _first(30, 100), lam=0.5),
        Model("pgd_at", _first(90, 100), _first(50, 100), lam=0.5),
    )
    # `frame` sorts by variant: OAT first, then as they were given or not
    recipes = ["lr=0.2" if sa == 0.9 else "" for sa in table["sa"]]
    found = compare(_with_recipes(table, *recipes))
    assert sorted(found.table["sa_dedicated"]) == [0.7, 0.9], "none is the mean of both"
    assert set(found.table["recipe"]) == {"", "lr=0.2"}
    assert set(found.table["dedicated"]) == {"pgd_at"}
    fronts = found.fronts.set_index("front")
    dedicated = [name for name in fronts.index if "oat" not in name]
    assert len(dedicated) == 1, "all dedicated models are one front"
    assert fronts.loc[dedicated[0], "models"] == 2
    assert fronts.loc[dedicated[0], "hypervolume"] == pytest.approx(0.45)
    # OAT is beaten by the better of the two, whatever it is like beside the other
    assert found.verdict in {"not free", "undecided"}


def test_a_once_for_all_network_of_another_recipe_is_another_variant() -> None:
    table = _bare(
        Model("oat", _first(80, 100), _first(40, 100), lam=0.0),
        Model("oat", _first(60, 100), _first(60, 100), lam=1.0),
        Model("pgd_at", _first(70, 100), _first(30, 100), lam=1.0),
    )
    tuned = table[table["method"] == "oat"].assign(sa=0.5, ra=0.5)
    both = pd.concat([table, tuned], ignore_index=True)
    recipes = [""] * len(table) + ["weight_decay=0.001"] * len(tuned)
    found = compare(_with_recipes(both, *recipes))
    cells = found.cells[found.cells["method"] == "oat"]
    assert set(cells["variant"]) == {"oat", "oat weight_decay=0.001"}
    assert sorted(cells["sa"]) == [0.5, 0.5, 0.6, 0.8], "the two are never averaged"
    assert found.reference == "oat"
    assert len(found.table) == 2, "the dedicated model stands beside each of them"


def test_a_recipe_that_all_models_share_is_not_named() -> None:
    table = _bare(
        Model("oat", _first(80, 100), _first(40, 100), lam=1.0),
        Model("pgd_at", _first(70, 100), _first(30, 100), lam=1.0),
    )
    found = compare(_with_recipes(table, "lr=0.5 momentum=0.8", "lr=0.5 momentum=0.8"))
    assert set(found.cells["variant"]) == {"oat", "pgd_at"}
    assert set(found.cells["recipe"]) == {""}
    other = compare(_with_recipes(table, "lr=0.5 momentum=0.8", "lr=0.2 momentum=0.8"))
    assert set(other.cells["recipe"]) == {"", "lr=0.2"}
    assert "'oat' stands for oat with lr=0.5." in other.notes


def test_seeds_of_one_recipe_are_one_cell() -> None:
    models = [
        Model(method, _first(80 + seed, 100), _first(40, 100), lam=1.0, seed=seed)
        for method in ("oat", "pgd_at")
        for seed in (0, 1)
    ]
    table = _bare(*models)
    recipes = ["lr=0.3" if method == "pgd_at" else "" for method in table["method"]]
    found = compare(_with_recipes(table, *recipes))
    assert list(found.cells["seeds"]) == [2, 2]
    assert len(found.table) == 1
