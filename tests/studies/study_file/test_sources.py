"""Entries of a study file that name other entries, whose trained models they need."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from baselines import PgdAt
from studies.errors import StudyError
from studies.known_methods import RIVALS
from studies.study_file.loading import load_study
from tests.studies.planning.plans import plan_of
from tests.studies.study_file.faulty import fault_of, good_study, says, through_yaml_of

PLAIN: dict[str, Any] = {"name": "pgd_at", "lam": [0, 1]}


def _started(source: str, epochs: int = 5, **more: Any) -> dict[str, Any]:
    return {"name": "pgd_at", "lam": 0.5, "start": {"from": source, "epochs": epochs}, **more}


def _study(*methods: dict[str, Any]) -> dict[str, Any]:
    return {**good_study(), "methods": list(methods)}


def test_a_started_model_has_epochs_of_its_own_and_a_name_that_tells_it_apart() -> None:
    study = load_study(_study(PLAIN, _started("pgd_at λ=1", lam=[0.2, 0.4])))
    assert [entry.label for entry in study.entries()] == [
        "pgd_at λ=0",
        "pgd_at λ=1",
        "pgd_at start=pgd_at:λ=1 epochs=5 λ=0.2",
        "pgd_at start=pgd_at:λ=1 epochs=5 λ=0.4",
    ]
    plain, _, started, _ = study.entries()
    assert started.method == PgdAt(0.2)
    assert started.train == replace(study.train, epochs=5) == replace(plain.train, epochs=5)
    assert started.sources() == ("pgd_at λ=1",)
    assert plain.sources() == ()
    assert through_yaml_of(study) == study


def test_a_started_model_may_start_another_and_stand_before_it() -> None:
    first = "pgd_at start=pgd_at:λ=1 epochs=2 λ=0.5"
    study = load_study(
        _study(_started(first, 3, lam=0.2), _started("pgd_at λ=1", 2), {"name": "pgd_at", "lam": 1})
    )
    last = study.entries()[0]
    assert last.label == "pgd_at start=pgd_at:start=pgd_at:λ=1:epochs=2:λ=0.5 epochs=3 λ=0.2"
    assert last.sources() == (first,)


def test_one_value_started_in_two_ways_is_two_models() -> None:
    blocks = [_started("pgd_at λ=1", 5), _started("pgd_at λ=1", 6), _started("pgd_at λ=0", 5)]
    assert len(load_study(_study(PLAIN, {"name": "pgd_at", "lam": 0.5}, *blocks)).entries()) == 6
    said = fault_of(_study(PLAIN, blocks[0], blocks[0]))
    says(said, ("Duplicate trial: pgd_at start=pgd_at:λ=1 epochs=5 λ=0.5 is listed 2 times",))


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        (
            [PLAIN, _started("pgd_at λ=0.9")],
            ("`start.from` of pgd_at λ=0.5", "'pgd_at λ=0.9'", "Known: pgd_at λ=0, pgd_at λ=1."),
        ),
        (
            [PLAIN, {"name": "oat"}, _started("oat")],
            ("must be a retrained model", "got 'oat', which serves every λ"),
        ),
        (
            [PLAIN, _started("pgd_at λ=1", width_mults=[0.5])],
            ("must have its width, 0.5", "'pgd_at λ=1' of the width 1"),
        ),
        (
            [_started("pgd_at λ=0.5")],
            ("trained from scratch", "got pgd_at λ=0.5 from itself"),
        ),
        (
            [_started("pgd_at λ=1"), _started("pgd_at λ=0.5", lam=1)],
            ("trained from scratch", "got pgd_at λ=0.5 from pgd_at λ=1 from pgd_at λ=0.5"),
        ),
        ([PLAIN, _started("pgd_at λ=1", 0)], ("start.epochs`", "equal to 1")),
        (
            [PLAIN, _started("pgd_at λ=1", 5, train={"eps_warmup": 6})],
            ("In `start` of pgd_at: `eps_warmup` must be from 0 to `epochs` (5), got 6",),
        ),
        ([PLAIN, {"name": "pgd_at", "start": {"from": "pgd_at λ=1"}}], ("epochs` is required",)),
        ([PLAIN, {"name": "oat", "start": {"from": "oat", "epochs": 5}}], ("'methods.1.start'",)),
    ],
)  # fmt: skip
def test_a_start_that_cannot_be_is_refused(
    methods: list[dict[str, Any]], words: tuple[str, ...]
) -> None:
    says(fault_of(_study(*methods)), words)


def test_a_key_of_a_start_that_is_unknown_is_told_with_the_nearest() -> None:
    block = {"name": "pgd_at", "start": {"form": "pgd_at λ=1", "epochs": 5}}
    assert "did you mean 'methods.1.start.from'?" in fault_of(_study(PLAIN, block))


ENDS = ["pgd_at λ=0", "pgd_at λ=1"]
LABEL = "of=pgd_at:λ=0+pgd_at:λ=1"


def _paired(name: str, **keys: Any) -> dict[str, Any]:
    return {"name": name, "of": ENDS, **keys}


@pytest.mark.parametrize("name", RIVALS)
def test_a_pair_of_models_is_named_by_them_and_judged_at_its_own_weights(name: str) -> None:
    study = load_study(_study(PLAIN, _paired(name, alphas=[0, 0.3])))
    pair = study.entries()[-1]
    assert pair.label == f"{name} {LABEL}"
    assert pair.sources() == tuple(ENDS)
    assert [point.lam for point in pair.method.operating_points(study.lams())] == [0, 0.3]
    assert study.lams() == ()
    assert through_yaml_of(study) == study


def test_a_pair_may_hold_a_started_model_and_narrow_ones() -> None:
    narrow = {**PLAIN, "width_mults": [0.5]}
    started = _started("pgd_at λ=1 width=0.5", width_mults=[0.5])
    ends = ["pgd_at λ=0 width=0.5", "pgd_at start=pgd_at:λ=1:width=0.5 epochs=5 λ=0.5 width=0.5"]
    pair = {"name": "mix", "of": ends, "width_mult": 0.5}
    study = load_study(_study(pair, narrow, started))
    assert [entry.label for entry in study.entries()][-1] == ends[1]


@pytest.mark.parametrize("name", RIVALS)
@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"of": ENDS[:1]}, ("`of` must name two different retrained models", "got pgd_at λ=0.")),
        (
            {"of": [ENDS[0], "pgd_at λ=0.9"]},
            ("`of` of", "Unknown retrained model 'pgd_at λ=0.9'", "Known: pgd_at λ=0, pgd_at λ=1."),
        ),
        ({"of": [ENDS[0], "oat"]}, ("must be a retrained model", "'oat', which serves every λ")),
        ({"width_mult": 0.5}, ("must have its width, 0.5", "'pgd_at λ=0' of the width 1")),
        ({"alphas": [0, 1.5]}, ("`alphas` must be in [0, 1]", "got 1.5")),
        ({"train": {"lr": 0.1}}, ("`train` must be left out of", "trains nothing")),
    ],
)
def test_a_pair_that_cannot_be_is_refused(
    name: str, keys: dict[str, Any], words: tuple[str, ...]
) -> None:
    says(fault_of(_study(PLAIN, {"name": "oat"}, _paired(name, **keys))), words)


@pytest.mark.parametrize("name", RIVALS)
def test_two_models_are_paired_once(name: str) -> None:
    said = fault_of(_study(PLAIN, _paired(name), _paired(name, alphas=[0.3])))
    says(said, (f"Duplicate trial: {name} {LABEL}", "2 times", "all its `alphas` in one entry"))


@pytest.mark.parametrize("name", RIVALS)
def test_no_pair_is_the_source_of_another_model(name: str) -> None:
    label = f"{name} {LABEL}"
    said = fault_of(_study(PLAIN, _paired(name), _started(label)))
    says(said, ("`start.from` of pgd_at λ=0.5", f"got '{label}', which serves every λ"))


@pytest.mark.parametrize("name", RIVALS)
def test_a_pair_is_no_model_to_attack_others_from(name: str, tmp_path: Path) -> None:
    transfer, more = "evaluate.attacks=[{name: transfer}]", {"name": "trades", "beta": 6}
    plan = plan_of(_study(PLAIN, _paired(name), more), tmp_path, transfer)
    first, second, pair, third = plan.trials
    # from its own ends it would be a white box
    assert pair.job["points"][0]["sources"] == [third.run_key]
    assert first.job["points"][0]["sources"] == sorted([second.run_key, third.run_key])
    with pytest.raises(StudyError, match="'transfer' needs a retrained model that"):
        plan_of(_study(PLAIN, _paired(name)), tmp_path, transfer)
