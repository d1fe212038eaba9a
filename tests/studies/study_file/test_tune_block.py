"""The `tune` block of a study file: what it takes, and what it says of what it does not take."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oat.recipe import SHARED
from studies.errors import StudyError, TuningError
from studies.study_file.loading import load_study
from studies.study_file.plain_yaml import read_yaml
from studies.study_file.tune_block import SECONDS, Dimension, Select, Tune
from studies.tuning.candidates import tuned_methods

LR = {"low": 0.05, "high": 0.5}


def _refused(study: dict[str, Any]) -> str:
    with pytest.raises(StudyError) as caught:
        load_study(study)
    said = str(caught.value)
    assert "\n" not in said, "one fault, one sentence"
    return said


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("600s", 600),
        ("20h", 72_000),
        ("30min", 1800),
        ("30m", 1800),
        ("1.5h", 5400),
        ("2d", 172_800),
        (" 90 s ", 90),
    ],
)
def test_a_budget_is_a_time(written: str, seconds: float) -> None:
    assert Tune(budget=written).seconds == seconds


@given(st.integers(1, 10**6), st.sampled_from(sorted(SECONDS)))
def test_a_budget_in_any_unit_is_that_many_of_its_seconds(count: int, unit: str) -> None:
    assert Tune(budget=f"{count}{unit}").seconds == count * SECONDS[unit]


@pytest.mark.parametrize("wrong", ["600", 600, "0s", "0.0h", "-5s", "20 hours", "h", "", None, []])
def test_a_budget_that_is_no_time_is_refused_with_what_it_may_be(
    tunable: dict[str, Any], wrong: Any
) -> None:
    tunable["tune"]["budget"] = wrong
    said = _refused(tunable)
    assert "`tune.budget`" in said
    assert "600s" in said
    assert f"got '{wrong}'" in said


def test_the_budget_is_required(tunable: dict[str, Any]) -> None:
    del tunable["tune"]["budget"]
    assert _refused(tunable) == "`tune.budget` is required."


FAULTS: list[tuple[dict[str, Any], list[str]]] = [
    ({"pgd": {"lr": LR}}, ["`tune.space`", "method 'pgd'", "did you mean 'pgd_at'?", "train"]),
    ({"train": {"lrr": LR}}, ["`tune.space.train.lrr`", "'lrr'; did you mean 'lr'?"]),
    ({"oat": {"beta": LR}}, ["`tune.space.oat.beta`", "Unknown option of oat 'beta'"]),
    ({"pgd_at": {"beta": LR}}, ["`tune.space.pgd_at.beta`", "Known: lam, width_mult"]),
    ({"trades": {"lam": LR}}, ["`tune.space.trades.lam`"]),
    ({"train": {"lr": {"low": 0, "high": 1, "log": True}}}, ["log scale", "above 0, got 0"]),
    ({"train": {"lr": {"low": -1, "high": 1, "log": True}}}, ["log scale", "above 0, got -1"]),
    ({"train": {"lr": {"low": 1, "high": 0.1}}}, ["`low` must be below `high`", "1 and 0.1"]),
    ({"train": {"lr": {"low": 0.1, "high": 0.1}}}, ["`low` must be below `high`"]),
    ({"train": {"lr": {"low": 0.1, "high": float("inf")}}}, ["finite", "inf"]),
    ({"train": {"lr": {"low": float("nan"), "high": 1}}}, ["finite", "nan"]),
    ({"train": {"lr": {"low": 0.1}}}, ["`low` and `high`, or `choices`"]),
    ({"train": {"lr": {}}}, ["`low` and `high`, or `choices`"]),
    ({"train": {"lr": {"choices": []}}}, ["`choices` must name at least one value"]),
    ({"train": {"lr": {"choices": [0.1, 0.1]}}}, ["must not repeat"]),
    ({"train": {"weight_decay": {"choices": [1, 1.0, 5e-4]}}}, ["must not repeat"]),
    ({"train": {"lr": {"choices": [0.1], "low": 0.1}}}, ["either `choices` or `low`"]),
    ({"train": {"lr": {"choices": [0.1], "log": True}}}, ["either `choices` or `low`"]),
    ({"train": {"lr": {"choices": [0.1, "fast"]}}}, ["`tune.space.train.lr`", "'fast'"]),
    ({"train": {"lr": {"low": "fast", "high": 1}}}, ["`tune.space.train.lr.low`", "'fast'"]),
    ({"train": {"lr": {"low": -0.1, "high": 1}}}, ["may not be -0.1", "above 0"]),
    ({"train": {"lr": {"low": 0.2, "high": 1}}}, ["must hold the study's own value 0.1"]),
    ({"train": {"lr": {"choices": [0.2, 1]}}}, ["must hold the study's own value 0.1"]),
    ({"train": {"schedule": LR}}, ["`tune.space.train.schedule` is no number"]),
    ({"train": {"schedule": {"choices": ["cosine", "cosin"]}}}, ["may not be 'cosin'"]),
    ({"train": {"milestones": LR}}, ["is no number and needs `choices`"]),
    ({"train": {"eps_warmup": {"low": 0, "high": 5}}}, ["may not be 5", "`epochs` (1)"]),
    ({"train": {"eps_warmup": {"low": 0, "high": 0.5}}}, ["may not be 0.5", "integer"]),
    ({"train": {"label_smoothing": {"low": 0, "high": 1}}}, ["may not be 1", "[0, 1)"]),
    ({"pgd_at": {"lam": {"low": 0, "high": 1.5}}}, ["may not be 1.5", "[0, 1]"]),
    ({"trades": {"beta": {"low": 2, "high": 6}}}, ["must hold the study's own value 1"]),
    ({"pgd_at": {"lam": {"choices": [0, 0.5]}}}, ["must hold the study's own value 1"]),
    ({"oat": {"dual_bn": LR}}, ["is no number and needs `choices`"]),
    ({"oat": {"encoding": {"choices": ["random", "rnd"]}}}, ["may not be 'rnd'"]),
    ({"oat": {"name": {"choices": ["oat"]}}}, ["`tune.space.oat.name`"]),
    ({"oat": {"resources": {"choices": [1]}}}, ["`tune.space.oat.resources`"]),
    ({"train": {"lr": {"low": 0.05, "hihg": 0.5}}}, ["'tune.space.train.lr.hihg'", "lr.high'?"]),
    ({"train": {"lr": 0.1}}, ["`tune.space.train.lr`", "got 0.1"]),
    ({"train": [LR]}, ["`tune.space.train`"]),
]


@pytest.mark.parametrize(("space", "words"), FAULTS, ids=lambda value: str(value)[:60])
def test_a_faulty_space_is_refused_with_its_place_and_what_came(
    tunable: dict[str, Any], space: dict[str, Any], words: list[str]
) -> None:
    tunable["tune"]["space"] = space
    said = _refused(tunable)
    for word in words:
        assert word in said
    assert said.endswith((".", "?")) or "Known:" in said


@pytest.mark.parametrize("key", SHARED)
def test_what_all_models_share_cannot_be_searched_nor_be_an_entrys_own(
    tunable: dict[str, Any], key: str
) -> None:
    own = load_study(tunable).dump()["train"][key]
    tunable["tune"]["space"] = {"train": {key: {"choices": [own]}}}
    assert f"all models of a study share `train.{key}`" in _refused(tunable)
    tunable["tune"]["space"] = {}
    tunable["methods"][0]["train"] = {key: own}
    assert f"'methods.0.train.{key}'" in _refused(tunable)


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"sampler": "random"}, ["`tune.sampler`", "'tpe' or 'nsga2'", "'random'"]),
        ({"select": "best"}, ["`tune.select`", "'sa_at_ra'", "'best'"]),
        ({"select": "sa_at_ra"}, ["`ra` belongs to the rule 'sa_at_ra', which needs it"]),
        ({"select": "weighted"}, ["`weight` belongs to the rule 'weighted', which needs it"]),
        ({"select": {"rule": "sa_at_ra", "ra": 40}}, ["`tune.select.ra`", "40"]),
        ({"select": {"rule": "front", "ra": 0.4}}, ["`ra` belongs to the rule 'sa_at_ra', not"]),
        ({"select": {"rule": "weighted", "weight": -1}}, ["`tune.select.weight`", "-1"]),
        ({"attack": {"name": "square"}}, ["`tune.attack.name`", "'pgd'"]),
        ({"attack": {"stepps": 3}}, ["'tune.attack.stepps'; did you mean 'tune.attack.steps'?"]),
        ({"attack": {"steps": 0}}, ["`tune.attack", "steps"]),
        ({"images": 0}, ["`tune.images`", "got 0"]),
        ({"early_stopping": {"slack": 2}}, ["`tune.early_stopping.slack`", "got 2"]),
        ({"early_stopping": {"slak": 0}}, ["'tune.early_stopping.slak'"]),
        ({"trials": 30}, ["'tune.trials'"]),
    ],
    ids=str,
)
def test_a_fault_elsewhere_in_the_block_is_one_sentence(
    tunable: dict[str, Any], block: dict[str, Any], words: list[str]
) -> None:
    tunable["tune"] |= block
    said = _refused(tunable)
    for word in words:
        assert word in said


def test_fractions_and_numbers_with_an_exponent_are_numbers(
    tunable: dict[str, Any],
) -> None:
    text = """
    train:
      lr: {low: 1/20, high: 1/2, log: true}
      weight_decay: {low: 1e-5, high: 1e-2, log: true}
      clip_norm: {choices: [null, 1e+1]}
      gamma: {choices: [0.1, 1e-2]}
    trades: {beta: {choices: [1/2, 1]}}
    """
    tunable["tune"]["space"] = read_yaml(text)
    tune = load_study(tunable).tune
    assert tune is not None
    assert (tune.space["train"]["lr"].low, tune.space["train"]["lr"].high) == (0.05, 0.5)
    assert tune.space["train"]["weight_decay"].low == 1e-5
    assert tune.space["train"]["clip_norm"].choices == (None, 10.0)
    assert tune.space["train"]["gamma"].choices == (0.1, 0.01)
    assert tune.space["trades"]["beta"].choices == (0.5, 1)


def test_a_choice_in_the_clothes_of_text_is_refused(tunable: dict[str, Any]) -> None:
    for choices, value in ((["no", "yes"], "'no'"), ([True, "1_0"], "'1_0'")):
        tunable["tune"]["space"] = {"oat": {"dual_bn": {"choices": choices}}}
        assert f"`tune.space.oat.dual_bn` may not be {value}" in _refused(tunable)
    tunable["tune"]["space"] = {"oat": {"dual_bn": {"choices": ["yes", False]}}}
    assert "it would be taken for true; write that." in _refused(tunable)


def test_what_is_searched_for_a_method_that_is_left_out_matters_to_tuning_alone(
    tunable: dict[str, Any],
) -> None:
    tunable["tune"]["space"] = {
        "trades": {"beta": LR},
        "oat": {"lambda_choices": {"choices": [[0, 1]]}},
    }
    study = load_study(tunable, ["methods=[{name: pgd_at, lam: [0, 1]}]"])
    assert [method.name for method in study.all_methods()] == ["pgd_at", "pgd_at"]
    with pytest.raises(TuningError) as caught:
        tuned_methods(study)
    assert "`tune.space.trades`: the study has no method of this name" in str(caught.value)
    assert "train, pgd_at, or add the method." in str(caught.value)


def test_a_searched_set_of_lams_needs_the_lams_that_all_are_judged_at(
    tunable: dict[str, Any],
) -> None:
    space = {"lambda_choices": {"choices": [[0, 1], [0, 0.5, 1]]}}
    tunable["tune"]["space"] = {"oat": space}
    assert "`tune.space.oat.lambda_choices` needs `evaluate.lams`" in _refused(tunable)
    tunable["evaluate"]["lams"] = [0, 1]
    load_study(tunable)


@pytest.mark.parametrize(
    ("rule", "select"),
    [
        ("front", Select()),
        ("hypervolume", Select(rule="hypervolume")),
        ({"rule": "sa_at_ra", "ra": 0.4}, Select(rule="sa_at_ra", ra=0.4)),
        ({"rule": "weighted", "weight": 0.5}, Select(rule="weighted", weight=0.5)),
    ],
)
def test_a_rule_may_be_named_alone(rule: Any, select: Select) -> None:
    assert Tune(budget="1s", select=rule).select == select


@given(st.floats(1e-6, 1e3), st.floats(1.001, 1e3), st.floats(0, 1))
def test_a_range_holds_what_lies_between_its_ends(low: float, factor: float, share: float) -> None:
    dimension = Dimension(low=low, high=low * factor)
    assert dimension.ends() == (low, low * factor)
    for end in dimension.ends():
        assert dimension.holds(end)
    assert dimension.holds(min(low + share * (low * factor - low), low * factor))
    assert not dimension.holds(low * 0.999)
    assert not dimension.holds(low * factor * 1.001)
    assert not dimension.holds(None)
    assert not dimension.holds(True)


def test_a_choice_is_held_however_its_numbers_and_lists_are_written() -> None:
    dimension = Dimension(choices=(1, None, [0, 0.5], "cosine", True))
    for value in (1, 1.0, None, (0.0, 0.5), [0, 0.5], "cosine", True):
        assert dimension.holds(value)
    for value in (0, "1", (0.5, 0), [0], False, "none"):
        assert not dimension.holds(value)


def test_what_trains_nothing_has_no_training_settings_to_search(tunable: dict[str, Any]) -> None:
    mix = {"name": "mix", "of": ["pgd_at λ=0", "pgd_at λ=1"]}
    methods = [{"name": "oat"}, {"name": "pgd_at", "lam": [0, 1]}]
    space = {"train": {"lr": LR}}
    study = {**tunable, "methods": methods, "tune": {**tunable["tune"], "space": space}}
    load_study(study)
    with_rival = load_study({**study, "methods": [*methods, mix]})
    with pytest.raises(TuningError) as caught:
        tuned_methods(with_rival)
    assert "mix" in str(caught.value)
