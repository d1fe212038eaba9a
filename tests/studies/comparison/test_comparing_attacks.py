from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from studies.comparison.comparing import compare, compare_all
from studies.errors import ComparisonError
from studies.storage.sealed import digest
from tests.studies.comparison.models import Model, bare_points, first_of, pair_of, stored_points


def _under(attack: str, right: int, images: int, *models: Model) -> list[Model]:
    """Return the models under another attack, on the first so many images."""
    clean = [model.clean[:images] for model in models]
    eps = float(attack.partition("@")[2] or models[0].eps)
    return [
        replace(model, attack=attack, eps=eps, clean=some, robust=first_of(right, images))
        for model, some in zip(models, clean, strict=True)
    ]


def test_ra_is_the_worst_over_the_attacks_at_the_own_radius_on_the_most_images() -> None:
    models = pair_of(1000, (900, 400), (900, 400))
    others = {
        "pgd50": (350, 1000),
        "fgsm": (500, 1000),
        "autoattack": (60, 200),
        "pgd20@0.2": (100, 1000),
    }
    rows = [m for name, (ra, n) in others.items() for m in _under(name, ra, n, *models)]
    found = compare(bare_points(*models, *rows))
    assert found.attack == "the worst of fgsm, pgd20, pgd50"
    assert found.cells["ra"].tolist() == [0.35, 0.35]
    # without results by image it may be lower, and that is said
    assert any("it is not known which images withstand each attack" in n for n in found.notes)
    # of radii of their own alone, those at the largest on the most images: never of two radii
    odd = [m for m in rows if m.attack == "pgd20@0.2"] + _under("fgsm@0.05", 0, 1000, *models)
    odd += _under("fgsm@0.2", 300, 1000, *models) + _under("square@0.2", 0, 100, *models)
    assert compare(bare_points(*odd)).attack == "the worst of fgsm@0.2, pgd20@0.2"
    assert compare(bare_points(*models, *rows), attack="autoattack").attack == "autoattack"


def test_an_image_is_robust_if_it_withstands_every_attack(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    masks = {name: rng.random((3, 1000)) < 0.6 for name in ("pgd20", "square", "fgsm")}
    places = (("oat", 0.0), ("oat", 1.0), ("pgd_at", 1.0))
    models = [
        Model(method, np.ones(1000, bool), robust, lam=lam, attack=name)
        for name, rows in masks.items()
        for (method, lam), robust in zip(places, rows, strict=True)
    ]
    cells = compare(stored_points(tmp_path, *models)).cells.set_index(["method", "lam"])
    for i, place in enumerate(places):
        together = masks["pgd20"][i] & masks["square"][i] & masks["fgsm"][i]
        assert cells.loc[place, "ra"] == together.mean()
    alone = compare(stored_points(tmp_path / "b", *models), attack="square").cells
    assert alone["ra"].tolist() == [masks["square"][i].mean() for i in range(3)]


def test_a_stronger_attack_on_fewer_images_is_said_with_its_number(tmp_path: Path) -> None:
    oat, dedicated = pair_of(1000, (900, 150), (900, 160))
    strong = _under("autoattack", 100, 200, oat) + _under("autoattack", 120, 200, dedicated)
    result = compare(stored_points(tmp_path, oat, dedicated, *strong))
    assert result.attack == "pgd20"
    # 150 to 100 and 160 to 120 of the same 200: 25 and 20 points; RA of all 1000 is 0.15 and 0.16
    assert (
        "Under 'autoattack', on the first 200 images of 2 points, RA is 22.5 points lower on "
        "average and 25.0 at most (oat λ=1 seed 0)."
    ) in result.notes


def test_an_attack_that_is_stronger_on_other_images_alone_is_nowhere_lower(tmp_path: Path) -> None:
    images = 1000
    late = np.arange(images) >= images - 400  # none of the first images withstands
    models = [replace(m, robust=late) for m in pair_of(images, (1000, 0), (1000, 0))]
    weak = _under("autoattack", 10, 200, *models)
    assert weak[0].robust.mean() < models[0].robust.mean()
    (said,) = [
        n for n in compare(stored_points(tmp_path / "a", *models, *weak)).notes if "Under '" in n
    ]
    assert said.endswith("of 2 points, RA is lower at none (on average 5.0 points higher).")
    # of which nothing is stored by image, nothing is said: the images may not be the same
    strong = _under("autoattack", 0, 200, *pair_of(images, (1000, 900), (1000, 900)))
    assert not any("Under '" in n for n in compare(bare_points(*models, *strong)).notes)


def test_an_attack_at_another_radius_is_not_called_stronger(tmp_path: Path) -> None:
    models = pair_of(1000, (900, 400), (900, 400))
    table = stored_points(tmp_path, *models, *_under("pgd20@0.2", 0, 1000, *models))
    assert not any("Under '" in note for note in compare(table).notes)


def test_what_cannot_be_compared_under_another_attack_is_noted() -> None:
    models = pair_of(1000, (900, 400), (900, 400))
    table = bare_points(
        *models, *_under("pgd5", 500, 1000, *models), *_under("fgsm", 600, 1000, *models)
    )
    odd = (table["attack"] == "pgd5") & (table["method"] == "oat")
    table.loc[odd, "attack_settings"] = "fedcba98765"
    first, others = compare_all(table)
    assert first.attack == "the worst of fgsm, pgd20"
    assert [other.attack for other in others] == ["fgsm", "pgd20"]
    (note,) = [note for note in first.notes if note.startswith("Not compared")]
    assert note.startswith("Not compared under 'pgd5': The points come from different settings")
    forced = compare_all(table, force=True)[1]
    assert {other.attack for other in forced} == {"fgsm", "pgd20", "pgd5"}
    with pytest.raises(ComparisonError, match="different settings"):
        compare_all(table, attack="pgd5")


def _with_recipes(table: pd.DataFrame, *recipes: str) -> pd.DataFrame:
    """Say of made-up models how they were trained; two of one place are then two models."""
    keys = [f"{key}{recipe}" for key, recipe in zip(table["run_key"], recipes, strict=True)]
    points = [digest([key, i]) for i, key in enumerate(keys)]
    return table.assign(recipe=list(recipes), run_key=keys, point_key=points)


def test_dedicated_models_of_two_recipes_at_one_place_are_two_models() -> None:
    table = bare_points(
        Model("oat", first_of(80, 100), first_of(40, 100), lam=0.5),
        Model("pgd_at", first_of(70, 100), first_of(30, 100), lam=0.5),
        Model("pgd_at", first_of(90, 100), first_of(50, 100), lam=0.5),
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
    assert not found.table["verdict"].isin({"free", "better"}).all()


def test_a_once_for_all_network_of_another_recipe_is_another_variant() -> None:
    table = bare_points(
        Model("oat", first_of(80, 100), first_of(40, 100), lam=0.0),
        Model("oat", first_of(60, 100), first_of(60, 100), lam=1.0),
        Model("pgd_at", first_of(70, 100), first_of(30, 100), lam=1.0),
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
    table = bare_points(
        Model("oat", first_of(80, 100), first_of(40, 100), lam=1.0),
        Model("pgd_at", first_of(70, 100), first_of(30, 100), lam=1.0),
    )
    found = compare(_with_recipes(table, "lr=0.5 momentum=0.8", "lr=0.5 momentum=0.8"))
    assert set(found.cells["variant"]) == {"oat", "pgd_at"}
    assert set(found.cells["recipe"]) == {""}
    other = compare(_with_recipes(table, "lr=0.5 momentum=0.8", "lr=0.2 momentum=0.8"))
    assert set(other.cells["recipe"]) == {"", "lr=0.2"}
    assert "'oat' stands for oat with lr=0.5." in other.notes


def test_seeds_of_one_recipe_are_one_cell() -> None:
    models = [
        Model(method, first_of(80 + seed, 100), first_of(40, 100), lam=1.0, seed=seed)
        for method in ("oat", "pgd_at")
        for seed in (0, 1)
    ]
    table = bare_points(*models)
    recipes = ["lr=0.3" if method == "pgd_at" else "" for method in table["method"]]
    found = compare(_with_recipes(table, *recipes))
    assert list(found.cells["seeds"]) == [2, 2]
    assert len(found.table) == 1
