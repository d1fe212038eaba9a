"""The comparison at each radius: which one decides, and what is put together with what."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import studies
from studies.comparison.answer import BEST, SAME
from studies.comparison.comparing import compare, compare_all
from studies.errors import ComparisonError
from studies.study_file.loading import load_study
from tests.studies.comparison.models import Model, bare_points, stored_points

IMAGES = 400
RA = {0.05: 300, 0.1: 200, 0.2: 50}
PLACES = [(method, lam) for method in ("oat", "pgd_at") for lam in (0.0, 1.0)]


def _label(attack: str, eps: float) -> str:
    return attack if eps == 0.1 else f"{attack}@{eps:g}"


def _models(*attacks: str, radii: tuple[float, ...] = (0.05, 0.1, 0.2)) -> list[Model]:
    """Return OAT and PGD-AT at two λ under each attack at each radius, drawn."""
    rng = np.random.default_rng(0)
    found = []
    for method, lam in PLACES:
        draw = rng.random(IMAGES)
        for attack in attacks:
            blur = draw + 0.05 * rng.random(IMAGES)
            for eps in radii:
                own = {"lam": lam, "attack": _label(attack, eps), "eps": eps}
                found.append(Model(method, draw < 0.9, blur * IMAGES < RA[eps] + 20 * lam, **own))
    return found


def test_the_radius_of_training_decides_and_else_the_largest(tmp_path: Path) -> None:
    found = compare(stored_points(tmp_path / "a", *_models("pgd20")))
    assert found.attack == "pgd20"
    assert found.radii is not None
    assert found.radii.decides == 0.1
    assert list(found.radii.at) == [0.05, 0.1, 0.2]
    assert found.by_radius["decides"].tolist() == [False, True, False]
    assert "(at ε=0.1, margin 1 point" in found.answer()
    (said,) = [note for note in found.notes if note.startswith("The answer is for")]
    assert "ε=0.1, the radius of training. The results at ε=0.05, ε=0.2 are descriptive" in said
    odd = compare(stored_points(tmp_path / "b", *_models("pgd20", radii=(0.05, 0.2))))
    assert odd.attack == "pgd20@0.2"
    assert any("ε=0.2, the largest, as none is that of training" in note for note in odd.notes)


def test_one_radius_says_nothing_of_radii(tmp_path: Path) -> None:
    found = compare(stored_points(tmp_path, *_models("pgd20", "fgsm", radii=(0.1,))))
    assert found.radii is None
    assert found.by_radius.empty
    assert found.under == found.attack
    assert "ε" not in str(found)
    assert found.record()["by_radius"] == found.record()["radii"] == found.record()["areas"] == []


def test_each_radius_is_compared_as_it_would_be_alone(tmp_path: Path) -> None:
    models = _models("pgd20", "fgsm")
    table = stored_points(tmp_path, *models)
    radii = compare(table).radii
    assert radii is not None
    for eps, one in radii.at.items():
        assert one.attacks == [_label("fgsm", eps), _label("pgd20", eps)]
        alone = compare(table[table["eps"] == eps])
        pd.testing.assert_frame_equal(one.table, alone.table)
        pd.testing.assert_frame_equal(one.fronts, alone.fronts)
        pd.testing.assert_frame_equal(one.cells, alone.cells)
        # an image is robust if it withstands both attacks of this radius, whatever others do
        for cell in one.cells.itertuples():
            place = (cell.method, cell.lam, eps)
            masks = [m.robust for m in models if (m.method, m.lam, m.eps) == place]
            assert len(masks) == 2
            assert cell.ra == np.logical_and(*masks).mean()
        (row,) = radii.table[radii.table["eps"] == eps].to_dict("records")
        counts = alone.table["verdict"].value_counts()
        for verdict in ("better", "free", "undecided", "not free"):
            assert row[verdict.replace(" ", "_")] == counts.get(verdict, 0)
        assert (row["models"], row["images"], row["attacks"]) == (2, IMAGES, "fgsm, pgd20")
        ratio = alone.ratios["oat"]
        assert [row["ratio"], row["ratio_low"], row["ratio_high"]] == [*vars(ratio).values()]


def test_the_order_of_the_points_changes_nothing(tmp_path: Path) -> None:
    table = stored_points(tmp_path, *_models("pgd20", "fgsm"))
    shuffled = table.sample(frac=1, random_state=0).reset_index(drop=True)
    one, other = compare(table), compare(shuffled)
    assert str(one) == str(other)
    assert one.record() == other.record()


def test_an_attack_that_was_asked_for_is_that_of_every_radius(tmp_path: Path) -> None:
    table = stored_points(tmp_path, *_models("pgd20"), *_models("fgsm", radii=(0.1,)))
    found = compare(table, attack="pgd20@0.2")
    assert found.radii is not None
    assert found.radii.decides == 0.2
    assert {eps: one.attacks for eps, one in found.radii.at.items()} == {
        eps: [_label("pgd20", eps)] for eps in RA
    }
    assert any("ε=0.2, as asked for. " in note for note in found.notes)
    assert compare(table, attack="fgsm").radii is None


def test_attacks_that_not_every_radius_has_are_named() -> None:
    found = compare(bare_points(*_models("pgd20"), *_models("fgsm", radii=(0.1,))))
    (said,) = [note for note in found.notes if "not the worst over the same attacks" in note]
    assert "(ε=0.05: pgd20; ε=0.1: fgsm, pgd20; ε=0.2: pgd20)" in said
    same = compare(bare_points(*_models("pgd20", "fgsm")))
    assert not any("the same attacks" in note for note in same.notes)


def test_the_other_comparisons_are_by_attack_and_by_radius_once_each() -> None:
    first, others = compare_all(bare_points(*_models("pgd20", "fgsm", radii=(0.1, 0.2))))
    assert first.attack == "the worst of fgsm, pgd20"
    worst = "the worst of fgsm@0.2, pgd20@0.2"
    assert [o.attack for o in others] == [worst, "fgsm", "fgsm@0.2", "pgd20", "pgd20@0.2"]
    _, others = compare_all(bare_points(*_models("pgd20")))
    assert [other.attack for other in others] == ["pgd20@0.05", "pgd20@0.2"]


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("results_version", 0, "different versions of the results: 0, 1"),
        ("budget", "fedcba", "different training settings"),
    ],
)
def test_points_of_other_settings_at_one_radius_are_left_out(
    column: str, value: Any, words: str
) -> None:
    table = bare_points(*_models("pgd20"))
    table[column] = table[column].where(table["eps"] != 0.2, value)
    found = compare(table)
    assert found.radii is not None
    assert list(found.radii.at) == [0.05, 0.1]
    (said,) = [note for note in found.notes if note.startswith("Not compared at ε=0.2: ")]
    assert words in said
    forced = compare(table, force=True)
    assert forced.radii is not None
    assert list(forced.radii.at) == [0.05, 0.1, 0.2]
    assert any(note.startswith(f"At ε=0.2: The points come from {words}") for note in forced.notes)


def test_points_that_differ_within_a_radius_leave_it_out_or_are_refused() -> None:
    table = bare_points(*_models("pgd20", radii=(0.1, 0.2)))
    odd = (table["method"] == "oat") & (table["eps"] == 0.2)
    table["images"] = table["images"].where(~odd, 100)
    found = compare(table)
    assert found.radii is None
    assert any(n.startswith("Not compared at ε=0.2: The points come from") for n in found.notes)
    with pytest.raises(ComparisonError, match="numbers of test images"):
        compare(table, attack="pgd20@0.2")


def test_studies_of_two_radii_of_training_have_no_radii_of_their_own() -> None:
    models = [replace(m, eps=0.2 if m.method == "oat" else 0.1) for m in _models("pgd20")[1::3]]
    with pytest.raises(ComparisonError, match="different ε of the evaluation"):
        compare(bare_points(*models))
    assert compare(bare_points(*models), force=True).radii is None


def test_attacks_that_no_operating_point_shares_are_refused_in_a_sentence() -> None:
    models = [
        replace(m, attack="pgd20" if m.method == "oat" else "pgd50")
        for m in _models("pgd20", radii=(0.1,))
    ]
    with pytest.raises(ComparisonError, match="evaluated under each of pgd20, pgd50; name one"):
        compare(bare_points(*models))


def test_rivals_do_not_count_among_the_rows_of_a_radius() -> None:
    models = _models("pgd20")
    mix = [replace(model, method="mix") for model in models if model.method == "oat"]
    table = compare(bare_points(*models, *mix)).by_radius
    counts = table[["better", "free", "undecided", "not_free"]].sum(axis=1)
    assert counts.tolist() == table["models"].tolist() == [2] * len(table)
    assert set(table["front"]) == {"oat", "mix"}


MakeUp = Callable[..., None]


def test_lambda_is_chosen_at_each_radius_and_where_it_cannot_be_that_is_said(
    tiny: dict[str, Any], tmp_path: Path, make_up: MakeUp
) -> None:
    tiny["evaluate"] |= {"attacks": [{"steps": 2, "eps": [0.05, 0.1]}], "held_out_images": 200}
    study = load_study(tiny)
    make_up(study, tmp_path / "all")
    found = studies.compare(study, storage=tmp_path / "all")
    assert found.by_radius["question"].tolist() == [BEST, BEST]
    make_up(
        study,
        tmp_path / "some",
        lambda point: "split" not in point or point["attack"]["eps"] == 0.1,
    )
    found = studies.compare(study, storage=tmp_path / "some")
    assert found.by_radius["question"].tolist() == [SAME, BEST]
    (said,) = [note for note in found.notes if note.startswith("At ε=0.05 there are no points")]
    assert "OAT runs at the λ of the retrained model there. `oat run` evaluates them" in said
