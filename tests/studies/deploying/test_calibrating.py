"""The operating point that is chosen is the best of those that hold the constraints, by hand."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import studies
from oat.data import Split
from oat.operating import OperatingPoint
from studies.deploying.calibrating import (
    Candidate,
    Rate,
    choose,
    confirmed_by,
)
from studies.deploying.constraints import Constraints
from studies.deploying.model import TrainedModel
from studies.errors import ModelError
from studies.study_file.loading import load_study
from tests.studies.conftest import TrainAll


def test_the_chosen_point_is_the_best_that_storage_has_on_held_out_images(
    finished: Path, tiny: dict[str, Any]
) -> None:
    rows = studies.points(tiny, storage=finished, held_out=True)
    own = rows[rows["method"] == "oat"].set_index("lam")
    found = studies.calibrate(tiny, storage=finished)
    assert {one.lam for one in found.candidates} == set(own.index)
    for one in found.candidates:
        assert (one.sa, one.ra) == (own.loc[one.lam, "sa"], own.loc[one.lam, "ra"])
    assert found.met
    best = (own["sa"] + own["ra"]).max()
    assert found.chosen.sa + found.chosen.ra == best
    # and what is told is what test images say
    test = studies.points(tiny, storage=finished)
    test = test[(test["method"] == "oat") & (test["lam"] == found.chosen.lam)]
    assert found.sa.value == test["sa"].iloc[0]
    assert found.ra.value == test["ra"].min()
    assert found.sa.low < found.sa.value < found.sa.high
    assert found.test_images == test["images"].iloc[0]


@pytest.mark.parametrize(("images", "few"), [(99, True), (100, False)])
def test_a_choice_on_few_held_out_images_is_said_to_be_one(
    images: int, few: bool, finished: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    storage = shutil.copytree(finished, tmp_path / "s")
    held_out = [f"evaluate.held_out_images={images}"]
    found = studies.calibrate(tiny, storage=storage, overrides=held_out)
    assert found.held_out_images == images
    assert len(found.notes) == few
    assert all("Only 99 images are held out" in note and "1.0 %" in note for note in found.notes)


def test_points_that_storage_lacks_are_evaluated_and_are_the_same(
    finished: Path, storage: Path, tiny: dict[str, Any]
) -> None:
    known = studies.calibrate(tiny, storage=finished)
    plan = studies.plan(tiny, storage=storage)
    for trial in plan.trials:
        for name in ("points.jsonl", "correct.npz"):
            (storage / tiny["name"] / "trials" / trial.run_key / name).unlink()
    assert studies.points(tiny, storage=storage, held_out=True).empty
    assert studies.calibrate(tiny, storage=storage) == known


@pytest.mark.parametrize(
    ("bounds", "wanted"),
    [
        ({}, "0.5 SA + 0.5 RA"),
        ({"min_sa": 0.9}, "RA"),
        ({"min_ra": 0.1}, "SA"),
        ({"min_sa": 0.1, "min_ra": 0.1}, "0.5 SA + 0.5 RA"),
        ({"min_sa": 0.1, "weight_robust": 0.3}, "0.7 SA + 0.3 RA"),
    ],
)
def test_what_is_wanted_most_is_said(bounds: dict[str, float], wanted: str) -> None:
    assert Constraints(**bounds).wanted == wanted


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        ({"min_sa": 90}, r"`min_sa` must be a fraction in \[0, 1\], got 90; write 0.9 for 90 %"),
        ({"min_ra": -0.1}, r"`min_ra` must be a fraction in \[0, 1\], got -0.1\."),
        ({"weight_robust": float("nan")}, "`weight_robust` must be a fraction"),
        ({"max_flops": 0}, "`max_flops` must be above 0, got 0"),
        ({"max_latency_ms": -1}, "`max_latency_ms` must be above 0, got -1"),
    ],
)
def test_a_constraint_out_of_its_range_is_refused(bounds: dict[str, float], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        Constraints(**bounds)


def test_where_nothing_holds_the_nearest_is_told_and_what_it_lacks(
    finished: Path, tiny: dict[str, Any]
) -> None:
    found = studies.calibrate(tiny, storage=finished, min_ra=1.0, min_sa=1.0)
    assert not found.met
    lacks = {one.lam: max(one.short_of.values()) for one in found.candidates}
    assert lacks[found.chosen.lam] == min(lacks.values())
    assert found.chosen.short_of["min_ra"] == pytest.approx(1 - found.chosen.ra)
    costly = studies.calibrate(tiny, storage=finished, max_flops=1, max_latency_ms=1e-6)
    assert set(costly.chosen.short_of) == {"max_flops", "max_latency_ms"}
    assert costly.chosen.latency_ms is not None


def test_a_dedicated_model_is_one_candidate(finished: Path, tiny: dict[str, Any]) -> None:
    found = studies.calibrate(tiny, "pgd_at", lam=1, storage=finished)
    assert [(one.lam, one.width) for one in found.candidates] == [(None, 1.0)]


def _continuous(tiny: dict[str, Any]) -> dict[str, Any]:
    method = {
        "name": "oats",
        "lambda_choices": [0, 1],
        "width_mults": [0.5, 1],
        "encoding": "continuous",
    }
    return {**tiny, "name": "continuous", "methods": [method]}


def test_a_lam_whose_batch_norms_were_never_trained_is_neither_searched_nor_run(
    tiny: dict[str, Any], train_all: TrainAll, tmp_path: Path
) -> None:
    changed = _continuous(tiny)
    changed["methods"][0] |= {"lambda_choices": [0.5, 1], "width_mults": [1]}
    changed["evaluate"]["lams"] = [0.5, 1]
    study = load_study(changed)
    train_all(study, tmp_path)
    model = studies.load_model(study, storage=tmp_path)
    with pytest.raises(ModelError, match=r"never trained its batch norms of λ = 0, as it was"):
        model.at(lam=0)
    model.at(lam=0.25)
    attack = study.choosing_attacks()[0]
    _, every = choose(
        model, _nothing(model), attack, Constraints(), known=lambda _: (0.5, 0.5), batch_size=100
    )
    assert min(one.lam for one in every if one.lam is not None) > 0


def test_a_model_that_knows_any_lam_is_searched_between_and_narrow_ones_hold_a_cost(
    tiny: dict[str, Any], train_all: TrainAll, tmp_path: Path
) -> None:
    study = load_study(_continuous(tiny))
    train_all(study, tmp_path)
    model = studies.load_model(study, storage=tmp_path)
    best = 0.37  # lies between the λ of the grid

    def known(point: OperatingPoint) -> tuple[float, float]:
        assert point.lam is not None
        return 1 - 0.2 * (1 - point.width_mult), 1 - abs(point.lam - best)

    def chosen_under(bounds: Constraints) -> tuple[Candidate, tuple[Candidate, ...]]:
        attack = study.choosing_attacks()[0]
        return choose(model, _nothing(model), attack, bounds, known=known, batch_size=100)

    chosen, every = chosen_under(Constraints())
    assert chosen.width == 1.0
    assert chosen.lam == pytest.approx(best, abs=0.02)
    assert len(every) == len({(one.lam, one.width) for one in every})
    least = min(one.flops for one in every)
    narrow, _ = chosen_under(Constraints(max_flops=least))
    assert narrow.width == 0.5
    assert narrow.flops == least


def _nothing(model: TrainedModel) -> Split:
    images = torch.zeros(0, *model.image_shape, dtype=torch.uint8)
    return Split(images, torch.zeros(0, dtype=torch.long))


@pytest.mark.parametrize(
    ("low", "high", "said"), [(0.81, 0.9, "yes"), (0.7, 0.79, "no"), (0.75, 0.85, "open")]
)
def test_test_images_confirm_refute_or_leave_open(low: float, high: float, said: str) -> None:
    rate = Rate((low + high) / 2, low, high)
    bounds = Constraints(min_sa=0.8)
    assert confirmed_by(bounds, rate, Rate(0.1, 0, 0.2)) == {"min_sa": said}


def test_a_record_of_a_calibration_is_plain_values(finished: Path, tiny: dict[str, Any]) -> None:
    found = studies.calibrate(tiny, storage=finished, min_sa=0.1)
    record = json.loads(json.dumps(dataclasses.asdict(found)))
    assert record["chosen"]["lam"] == found.chosen.lam
    assert record["confirmed"].keys() == {"min_sa"}
    assert isinstance(found.chosen, Candidate)


def _judged_by(attacks: list[dict[str, Any]], tiny: dict[str, Any]) -> dict[str, Any]:
    return {**tiny, "evaluate": {**tiny["evaluate"], "attacks": attacks}}


def test_test_images_are_judged_by_what_a_point_is_judged_by(
    tiny: dict[str, Any], train_all: TrainAll, storage: Path
) -> None:
    every = {"name": "pgd", "steps": 3, "every_lam": True}
    few = {"name": "fgsm", "images": 10}
    study = load_study(_judged_by([every, few], tiny))
    train_all(study, storage)
    found = studies.calibrate(study, storage=storage)
    # the attack on the most images counts, and images are crafted at the other λ too
    assert found.attacks == ("pgd3-every-lam",)
    points = studies.points(study, storage=storage)
    own = points[(points["attack"] == "pgd3-every-lam") & (points["method"] == "oat")]
    (row,) = own[own["lam"] == found.chosen.lam].to_dict("records")
    assert (found.sa.value, found.ra.value) == (row["sa"], row["ra"])
    assert found.test_images == row["images"] == 50


def test_without_an_attack_at_the_radius_of_training_a_plain_pgd_judges(
    finished: Path, tiny: dict[str, Any]
) -> None:
    study = _judged_by([{"name": "pgd", "steps": 1, "eps": 0.02}], tiny)
    found = studies.calibrate(study, storage=finished)
    assert found.attacks == ("pgd20",)
    assert found.choosing_attack == "pgd20"
