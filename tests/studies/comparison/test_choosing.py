"""Which operating point of OAT stands beside a dedicated model, and what that rests on."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import studies
from studies.comparison.choosing import LEAST_IMAGES, best_of
from studies.comparison.comparing import compare
from studies.planning.expand import make_plan
from studies.storage.local import LocalFolder
from studies.storage.opening import open_folder
from studies.study_file.loading import load_study
from studies.trial.records import read_points, read_result
from tests.studies.comparison.models import Model, bare_points, first_of, only_of

ACCURACY = st.sampled_from([0.2, 0.4, 0.5, 0.6, 0.8])
POINTS = st.lists(st.tuples(ACCURACY, ACCURACY), min_size=1, max_size=7)


def _by_hand(points: Sequence[tuple[float, float]], other: tuple[float, float]) -> int:
    """Choose as the rule says, by looking at every candidate and every rival of it."""
    best, rank = -1, (-np.inf, -np.inf)
    for i, (sa, ra) in enumerate(points):
        if any(s >= sa and r >= ra and (s, r) != (sa, ra) for s, r in points):
            continue
        ahead = round(sa - other[0], 9), round(ra - other[1], 9)
        if (min(ahead), round(sum(ahead), 9)) > rank:
            best, rank = i, (min(ahead), round(sum(ahead), 9))
    return best


@given(points=POINTS, other=st.tuples(ACCURACY, ACCURACY))
def test_the_choice_is_that_of_the_rule_by_hand(
    points: list[tuple[float, float]], other: tuple[float, float]
) -> None:
    values = np.array([*points, other])
    assert best_of(values, np.arange(len(points)), len(points)) == _by_hand(points, other)


IMAGES = 1000


def _models(*places: tuple[str, float, float, float], held: bool = False) -> list[Model]:
    """Return models of these methods, values, SA and RA."""
    images = 200 if held else IMAGES
    return [
        Model(
            method,
            first_of(round(sa * images), images),
            first_of(round(ra * images), images),
            **({"beta": value} if method == "trades" else {"lam": value}),
        )
        for method, value, sa, ra in places
    ]


TEST = (
    ("oat", 0.0, 0.90, 0.10),
    ("oat", 0.2, 0.92, 0.50),
    ("oat", 1.0, 0.80, 0.60),
    ("pgd_at", 0.0, 0.91, 0.02),
    ("pgd_at", 1.0, 0.79, 0.61),
    ("trades", 6.0, 0.90, 0.55),
)


def _chosen(result: Any) -> dict[tuple[str, float], float]:
    rows = result.table.to_dict("records")
    value = "lam"
    return {
        (row["dedicated"], row["beta"] if np.isnan(row[value]) else row[value]): row["oat_lam"]
        for row in rows
    }


def test_the_choice_looks_at_held_out_images_and_the_verdict_at_test_images() -> None:
    # on held-out images λ = 0.2 is beaten by nothing, and on test images it beats λ = 0
    held = bare_points(*_models(*TEST, held=True))
    result = compare(bare_points(*_models(*TEST)), held_out=held)
    assert result.question == "best λ"
    assert result.chosen_on == 200
    assert _chosen(result) == {("pgd_at", 0): 0.2, ("pgd_at", 1): 1.0, ("trades", 6): 0.2}
    assert result.table["d_sa"].tolist() == pytest.approx([0.01, 0.01, 0.02])
    # held-out images that say otherwise choose otherwise, whatever the test images say
    turned = tuple((m, v, 0.95 if (m, v) == ("oat", 0.0) else sa, ra) for m, v, sa, ra in TEST)
    other = compare(
        bare_points(*_models(*TEST)), held_out=bare_points(*_models(*turned, held=True))
    )
    assert _chosen(other)["pgd_at", 0] == 0.0
    # the other question stands beside: at the same λ, for which TRADES has none
    assert result.same_knob["oat_lam"].tolist() == [0, 1]
    pd.testing.assert_frame_equal(result.same_knob, other.same_knob)


def test_a_point_that_another_one_beats_is_never_chosen() -> None:
    held = bare_points(*_models(*TEST, held=True))
    result = compare(bare_points(*_models(*TEST)), held_out=held)
    assert 0.0 not in set(result.table["oat_lam"]), "λ = 0.2 beats it in both accuracies"


def test_without_held_out_points_the_answer_says_how_it_was_paired() -> None:
    result = compare(bare_points(*_models(*TEST)))
    assert result.question == "the same λ"
    assert result.chosen_on == 0
    assert result.table["dedicated"].tolist() == ["pgd_at", "pgd_at"]
    assert (
        "OAT runs at the same λ, as too few held-out images are evaluated to choose"
        in result.answer()
    )
    assert any("`oat run` evaluates them; it trains nothing for that" in n for n in result.notes)


def test_too_few_held_out_images_say_how_many_are_needed() -> None:
    few = [replace(m, clean=m.clean[:99], robust=m.robust[:99]) for m in _models(*TEST)]
    result = compare(bare_points(*_models(*TEST)), held_out=bare_points(*few))
    assert result.question == "the same λ"
    (note,) = [n for n in result.notes if "held out of training" in n]
    assert note.startswith("Only 99 images are held out of training.")
    assert f"At least {LEAST_IMAGES} are needed to choose λ (`data.val_fraction`" in note


def test_a_model_without_held_out_points_is_named_and_no_reason_for_a_better_verdict() -> None:
    held = _models(*TEST, held=True)[:-1]
    result = compare(bare_points(*_models(*TEST)), held_out=bare_points(*held))
    assert "trades" not in set(result.table["dedicated"])
    assert result.without_row == ["trades β=6"]
    said = "too few held-out images are evaluated for a row of trades β=6"
    assert said in result.answer()
    assert (
        "Not evaluated on held-out images, so λ was chosen without them: trades β=6."
        in result.notes
    )


def test_a_model_with_a_lam_and_without_held_out_points_stands_at_that_lam() -> None:
    """Else a retrained model that OAT loses to would leave the verdict unseen."""
    better = ("pgd_at", 1.0, 0.95, 0.9)
    models = [
        replace(m, seed=seed)
        for m in _models(("oat", 0.0, 0.9, 0.1), ("oat", 1.0, 0.8, 0.6), better)
        for seed in (0, 1)
    ]
    equal = [replace(m, seed=s) for m in _models(("pgd_at", 0.0, 0.9, 0.1)) for s in (0, 1)]
    held = [
        replace(m, clean=m.clean[:200], robust=m.robust[:200])
        for m in [*models, *equal]
        if (m.method, m.lam) != ("pgd_at", 1.0)
    ]
    result = compare(bare_points(*models, *equal), held_out=bare_points(*held))
    rows = {row["lam"]: row for row in result.table.to_dict("records")}
    assert rows[1.0]["verdict"] == "not free"
    assert rows[1.0]["oat_lam"] == 1.0
    assert result.verdict == "not free"
    assert result.without_row == []


def test_a_row_of_a_rival_stands_for_none_of_oats() -> None:
    mixed = (("mix", 0.0, 0.90, 0.10), ("mix", 1.0, 0.80, 0.60))
    held = [m for m in _models(*TEST, *mixed, held=True) if m.method != "oat"]
    result = compare(bare_points(*_models(*TEST, *mixed)), held_out=bare_points(*held))
    assert result.own_rows["oat_lam"].tolist() == [0, 1]
    assert result.without_row == ["trades β=6"]


def test_held_out_points_of_another_training_or_radius_do_not_count() -> None:
    held = bare_points(*_models(*TEST, held=True))
    points = bare_points(*_models(*TEST))
    for column, value in (("training_id", "another"), ("eps", 0.2), ("checkpoint_rule", "chosen")):
        odd = held.assign(**{column: value})
        assert compare(points, held_out=odd).question == "the same λ", column


def test_a_narrow_point_may_stand_beside_a_wide_model_but_no_wide_one_beside_a_narrow() -> None:
    def of(images: int) -> pd.DataFrame:
        def right(share: float) -> Any:
            return first_of(round(share * images), images)

        return bare_points(
            Model("oats", right(0.9), right(0.5), lam=0.0, width=0.5),
            Model("oats", right(0.8), right(0.4), lam=0.0),
            Model("pgd_at", right(0.9), right(0.5), lam=0.0),
            Model("pgd_at", right(0.7), right(0.3), lam=0.0, width=0.5),
        )

    table = compare(of(IMAGES), held_out=of(200)).table
    assert table["width_mult"].tolist() == [1.0, 0.5]
    assert table["oat_width_mult"].tolist() == [0.5, 0.5], "the better one costs less as well"
    swapped = of(200).assign(width_mult=[0.5, 1.0, 1.0, 0.5])
    assert only_wide(of(IMAGES), swapped)["width_mult"].tolist() == [1.0]


def only_wide(points: pd.DataFrame, held_out: pd.DataFrame) -> pd.DataFrame:
    """Compare models of full width alone."""
    full = points[points["width_mult"] == 1]
    return compare(full, held_out=held_out[held_out["width_mult"] == 1]).table


# real points


def test_a_run_evaluates_held_out_points_and_an_older_study_needs_no_training_for_them(
    tiny: dict[str, Any], tmp_path: Path, train_all: Any
) -> None:
    older = load_study(tiny, ["evaluate.held_out_images=0"])
    train_all(older, tmp_path)
    folder = LocalFolder(tmp_path / "tiny")
    study = load_study(tiny)
    plan = make_plan(study, folder)
    assert {trial.state for trial in plan.trials} == {"evaluate"}
    assert {trial.reason for trial in plan.trials} == {
        "2 points on held-out images are to be evaluated",
        "1 points on held-out images are to be evaluated",
    }
    trained = {t.run_key: read_result(folder.sub(f"trials/{t.run_key}")) for t in plan.trials}
    assert compare(studies.points(tiny, storage=tmp_path)).question == "the same λ"
    train_all(study, tmp_path)
    assert make_plan(study, folder).to_run() == []
    for trial in plan.trials:
        assert read_result(folder.sub(f"trials/{trial.run_key}")) == trained[trial.run_key]
    result = compare(studies.points(tiny, storage=tmp_path))
    assert (result.question, result.chosen_on) == ("best λ", 135)
    assert result.table["dedicated"].tolist() == ["pgd_at", "pgd_at", "trades"]


def test_pairing_and_verdict_are_those_of_brute_force_from_the_stored_images(
    tiny: dict[str, Any], finished: Path
) -> None:
    """Recompute the table from `correct.npz` with numpy alone."""
    table = studies.points(tiny, storage=finished)
    result = compare(table)
    clean, robust, held = {}, {}, {}
    for uri in table["folder"].unique():
        place = open_folder(uri)
        trained = read_result(place)
        assert trained is not None
        assert trained["status"] == "done"
        rows, correct = read_points(place, trained["trained"]["training_id"])
        for row in rows:
            name = row["method"], row["lam"] if row["lam"] is not None else row["beta"]
            arrays = [correct[f"{row['point_key']}.{kind}"] for kind in ("clean", "robust")]
            if "split" in row:
                held[name] = tuple(float(a.mean()) for a in arrays)
            else:
                clean[name], robust[name] = arrays
    ours = [name for name in clean if name[0] == "oat"]
    theirs = [name for name in clean if name[0] != "oat"]
    expected = {}
    for other in theirs:
        i = _by_hand([held[name] for name in ours], held[other])
        expected[other] = ours[i]
    found = {}
    for row in result.table.to_dict("records"):
        value = row["beta"] if np.isnan(row["lam"]) else row["lam"]
        found[row["dedicated"], value] = ("oat", row["oat_lam"])
    assert found == expected
    z, margin = 1.959963984540054, 0.01
    tests, intervals = [], {}
    for (other, mine), right in product(expected.items(), (clean, robust)):
        first, second = right[mine], right[other]
        gained, lost = int((first & ~second).sum()), int((second & ~first).sum())
        more = len(first) + 2
        centre = (gained - lost) / more
        error = np.sqrt(gained + lost + 1 - (gained - lost) ** 2 / more) / more
        intervals.setdefault(other, []).append((centre - z * error, centre + z * error))
        tests.append((_normal((centre + margin) / error), other))
    lost_to = set()
    for step, (p, other) in enumerate(sorted(tests)):
        if p > 0.05 / (len(tests) - step):
            break
        lost_to.add(other)
    for row in result.table.to_dict("records"):
        value = row["beta"] if np.isnan(row["lam"]) else row["lam"]
        other = row["dedicated"], value
        (sa, ra) = intervals[other]
        assert (row["d_sa_low"], row["d_sa_high"]) == pytest.approx(sa)
        assert (row["d_ra_low"], row["d_ra_high"]) == pytest.approx(ra)
        lowest = min(sa[0], ra[0])
        verdict = "better" if lowest > 0 else "free" if lowest >= -margin else "undecided"
        if verdict == "undecided" and other in lost_to:
            verdict = "not free"
        assert row["verdict"] == verdict


def _normal(value: float) -> float:
    """Return the normal distribution by numerical integration, which shares no code with ours."""
    grid = np.linspace(-40, value, 400_001)
    density = np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi)
    return float(((density[1:] + density[:-1]) / 2 * np.diff(grid)).sum())


def test_a_part_of_a_study_says_in_the_answer_what_is_missing(
    tiny: dict[str, Any], finished: Path
) -> None:
    table = studies.points(tiny, storage=finished)
    assert compare(table).missing == []
    result = compare(table[table["method"] != "trades"])
    assert result.missing == ["trades β=1 seed 0"]
    assert "1 model of the study is missing (trades β=1 seed 0)" in result.answer()
    bare = compare(table.drop(columns="folder"))
    assert "some results are not known by image" in bare.answer()
    assert only_of(compare(table[table["lam"] == 1]))["lam"] == 1
