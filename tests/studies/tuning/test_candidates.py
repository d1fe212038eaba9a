"""What tuning may try: distributions, where it starts, and the study of one candidate."""

import json
import math
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from studies.errors import StudyError, TuningError
from studies.planning.expand import make_plan
from studies.storage.local import LocalFolder
from studies.study_file.loading import load_study
from studies.tuning.candidates import Tunable, name_of, tuned_methods


def _tuned(source: dict[str, Any], method: str) -> Tunable:
    return {t.block.name: t for t in tuned_methods(load_study(source))}[method]


def _run_keys(source: Any, tmp_path: Path, split: Any = "test") -> list[str]:
    plan = make_plan(load_study(source), LocalFolder(tmp_path / "none"), split)
    return [trial.run_key for trial in plan.trials]


def test_every_entry_is_tuned_over_its_space_and_its_lists(tunable: dict[str, Any]) -> None:
    tunable["tune"]["space"]["trades"] = {"beta": {"low": 0.5, "high": 12, "log": True}}
    found = {tuned.name.split()[0]: tuned for tuned in tuned_methods(load_study(tunable))}
    lr = FloatDistribution(0.01, 1, log=True)
    assert {name: tuned.distributions() for name, tuned in found.items()} == {
        "oat": {"train.lr": lr},
        "pgd_at": {"train.lr": lr, "lam": CategoricalDistribution([0.0, 1.0])},
        "trades": {"train.lr": lr, "beta": FloatDistribution(0.5, 12, log=True)},
    }
    assert all(tuned.size() == math.inf for tuned in found.values())


def test_a_list_of_one_value_is_no_dimension(tunable: dict[str, Any]) -> None:
    tunable["tune"]["space"] = {}
    assert _tuned(tunable, "trades").dimensions == {}
    assert _tuned(tunable, "oat").dimensions == {}
    assert _tuned(tunable, "oat").size() == 1
    assert set(_tuned(tunable, "pgd_at").dimensions) == {"lam"}


def test_kinds_of_values_become_distributions_and_are_counted(tunable: dict[str, Any]) -> None:
    tunable["train"]["epochs"] = 3
    tunable["evaluate"]["lams"] = [0, 1]
    tunable["tune"]["space"] = {
        "train": {
            "eps_warmup": {"low": 0, "high": 3},
            "ema": {"choices": [None, 0.9]},
            "schedule": {"choices": ["cosine", "onecycle"]},
        },
        "oat": {"lambda_choices": {"choices": [[0, 1], [0, 0.5, 1]]}},
    }
    tuned = _tuned(tunable, "oat")
    assert tuned.distributions() == {
        "train.eps_warmup": IntDistribution(0, 3),
        "train.ema": CategoricalDistribution([None, 0.9]),
        "train.schedule": CategoricalDistribution(["cosine", "onecycle"]),
        "lambda_choices": CategoricalDistribution(["[0, 1]", "[0, 0.5, 1]"]),
    }
    assert tuned.size() == 4 * 2 * 2 * 2
    (start,) = tuned.starts()
    assert start == {
        "train.eps_warmup": 0,
        "train.ema": None,
        "train.schedule": "cosine",
        "lambda_choices": "[0, 1]",
    }
    entry = tuned.entry({**start, "lambda_choices": "[0, 0.5, 1]", "train.eps_warmup": 2})
    assert entry["lambda_choices"] == [0, 0.5, 1]
    assert entry["train"] == {"eps_warmup": 2, "ema": None, "schedule": "cosine"}


def test_starts_are_the_studys_own_trials(tunable: dict[str, Any], tmp_path: Path) -> None:
    own = _run_keys(tunable, tmp_path)
    started = [
        _run_keys(tuned.candidate(start), tmp_path, "val")
        for tuned in tuned_methods(load_study(tunable))
        for start in tuned.starts()
    ]
    assert [key for keys in started for key in keys] == own, "what was trained is used again"


def test_an_entrys_own_settings_are_its_start_and_are_never_lost(
    tunable: dict[str, Any], tmp_path: Path
) -> None:
    # 0.1 is the default of `lr`, and not what this study says
    tunable["train"]["lr"] = 0.3
    tunable["methods"][1]["train"] = {"lr": 0.1, "momentum": 0.9}
    tunable["methods"][1]["resources"] = {"cpu": 1}
    tunable["resources"] = {"cpu": 2}
    tunable["tune"]["space"] = {"train": {"weight_decay": {"low": 1e-5, "high": 1e-2}}}
    tuned = _tuned(tunable, "pgd_at")
    own = [e for e in load_study(tunable).entries() if e.method.name == "pgd_at"]
    for start, entry in zip(tuned.starts(), own, strict=True):
        (found,) = tuned.candidate(start).entries()
        assert (found.method, found.train, found.need) == (entry.method, entry.train, entry.need)
    assert tuned.entry(tuned.starts()[0])["train"] == {
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 5e-4,
    }
    tunable["tune"]["space"] = {"train": {"lr": {"low": 0.05, "high": 0.5}}}
    assert {start["train.lr"] for start in _tuned(tunable, "pgd_at").starts()} == {0.1}
    assert {start["train.lr"] for start in _tuned(tunable, "trades").starts()} == {0.3}


def test_a_candidate_is_one_trial_of_the_first_seed_on_held_out_images(
    tunable: dict[str, Any], tmp_path: Path
) -> None:
    tunable["seeds"] = [4, 5, 6]
    tunable["evaluate"]["masking_images"] = 10
    tunable["evaluate"]["attacks"] = [{"name": "autoattack"}, {"name": "square", "queries": 3}]
    tunable["tune"] |= {"images": 7, "attack": {"steps": 3, "restarts": 2}}
    tuned = _tuned(tunable, "oat")
    candidate = tuned.candidate(tuned.starts()[0])
    (trial,) = make_plan(candidate, LocalFolder(tmp_path), "val").trials
    assert trial.seed == 4
    assert {point["split"] for point in trial.job["points"]} == {"val"}
    assert {point["attack_label"] for point in trial.job["points"]} == {"pgd3x2"}
    assert {point["images"] for point in trial.job["points"]} == {7}
    assert {point["attack"]["eps"] for point in trial.job["points"]} == {0.1}
    assert trial.job["checks"] == []
    assert candidate.tune is None
    # no point of the search can be taken for one on test images
    (same,) = make_plan(candidate, LocalFolder(tmp_path), "test").trials
    assert same.run_key == trial.run_key
    held, test = ({p["point_key"] for p in t.job["points"]} for t in (trial, same))
    assert not held & test


@given(st.floats(0.01, 1), st.floats(0.5, 12))
def test_values_of_a_range_are_written_short_and_stay_in_it(lr: float, beta: float) -> None:
    source = {**_SOURCE, "tune": {"budget": "1s", "space": _RANGES}}
    tuned = _tuned(source, "trades")
    entry = tuned.entry({"train.lr": lr, "beta": beta})
    for value, wanted, (low, high) in (
        (entry["train"]["lr"], lr, (0.01, 1)),
        (entry["beta"], beta, (0.5, 12)),
    ):
        assert low <= value <= high
        assert math.isclose(value, wanted, rel_tol=5e-4)
    tuned.candidate({"train.lr": lr, "beta": beta})


_SOURCE: dict[str, Any] = {
    "name": "short",
    "data": {"name": "digits"},
    "train": {"epochs": 1, "lr": 0.123456789},
    "methods": [{"name": "trades", "beta": 1}],
}
_RANGES = {"train": {"lr": {"low": 0.01, "high": 1}}, "trades": {"beta": {"low": 0.5, "high": 12}}}


def test_the_studys_own_value_is_not_shortened() -> None:
    tuned = _tuned({**_SOURCE, "tune": {"budget": "1s", "space": _RANGES}}, "trades")
    (start,) = tuned.starts()
    assert tuned.entry(start)["train"]["lr"] == 0.123456789


def test_an_entry_is_plain_and_survives_optunas_database(
    tunable: dict[str, Any], tmp_path: Path
) -> None:
    tunable["evaluate"]["lams"] = [0, 1]
    tunable["tune"]["space"] |= {
        "oat": {
            "lambda_choices": {"choices": [[0, 1], [0, 0.5, 1]]},
            "zero_share": {"choices": [None, 0.5]},
            "dual_bn": {"choices": [True, False]},
        }
    }
    tuned = _tuned(tunable, "oat")
    study = optuna.create_study(
        storage=f"sqlite:///{tmp_path / 'optuna.db'}",
        directions=["maximize", "maximize"],
        sampler=optuna.samplers.RandomSampler(seed=0),
    )
    for _ in range(20):
        params = study.ask(tuned.distributions()).params
        entry = tuned.entry(params)
        assert json.loads(json.dumps(entry)) == entry
        known = study.trials[-1].params
        assert tuned.entry(known) == entry
        (found,) = tuned.candidate(known).entries()
        assert found.train.lr == entry["train"]["lr"]
        assert list(found.method.conditioning().lambda_choices) == entry["lambda_choices"]


def test_a_candidate_that_could_not_win_is_refused(tunable: dict[str, Any]) -> None:
    # the winners would be judged by the average of weights that this one does not keep
    tunable["train"]["ema"] = 0.9
    tunable["evaluate"]["checkpoints"] = ["last", "averaged"]
    tunable["tune"]["space"] = {"train": {"ema": {"choices": [0.9, None]}}}
    tuned = _tuned(tunable, "oat")
    tuned.candidate({"train.ema": 0.9})
    with pytest.raises(StudyError, match=r"needs `train\.ema`"):
        tuned.candidate({"train.ema": None})


def test_a_candidate_goes_with_the_other_methods_of_its_study(tunable: dict[str, Any]) -> None:
    # judged at the λ of both; an encoding of listed values does not know those of the other
    tunable["methods"][0]["encoding"] = "none"
    tunable["methods"].append(
        {"name": "oats", "lambda_choices": [0, 0.5, 1], "encoding": "none", "width_mults": [0.5, 1]}
    )
    tunable["tune"]["space"] = {"oat": {"encoding": {"choices": ["none", "random"]}}}
    tuned = _tuned(tunable, "oat")
    tuned.candidate({"encoding": "none"})
    with pytest.raises(StudyError, match=r"`evaluate\.lams` must be among"):
        tuned.candidate({"encoding": "random"})


def test_a_study_judged_by_transfer_can_be_tuned(tunable: dict[str, Any]) -> None:
    tunable["evaluate"]["attacks"].append({"name": "transfer"})
    for tuned in tuned_methods(load_study(tunable)):
        for start in tuned.starts():
            tuned.candidate(start)


def test_the_dearest_candidate_is_found_where_the_studys_own_are_cheap(
    tunable: dict[str, Any], tmp_path: Path
) -> None:
    # λ = 0 runs no attack: such a model is trained at a fraction of the price of all others
    tunable["methods"] = [{"name": "pgd_at", "lam": 0}]
    tunable["attack"]["steps"] = 7
    cheap = _tuned(tunable, "pgd_at").dearest_units()
    tunable["tune"]["space"]["pgd_at"] = {"lam": {"low": 0, "high": 1}}
    tuned = _tuned(tunable, "pgd_at")
    params = {**tuned.starts()[0], "lam": 0.5}
    (trial,) = make_plan(tuned.candidate(params), LocalFolder(tmp_path), "val").trials
    assert trial.units > 3 * cheap
    assert tuned.dearest_units() == trial.units


def test_a_study_without_a_block_cannot_be_tuned(tiny: dict[str, Any]) -> None:
    with pytest.raises(TuningError, match="`tune` is missing"):
        tuned_methods(load_study(tiny))


def test_two_entries_of_one_variant_would_have_twice_the_budget(tunable: dict[str, Any]) -> None:
    tunable["methods"].append({"name": "trades", "beta": 6})
    with pytest.raises(TuningError, match="two entries of trades"):
        tuned_methods(load_study(tunable))
    tunable["methods"][-1] = {"name": "trades", "beta": 1, "train": {"lr": 0.2}}
    with pytest.raises(TuningError, match="two entries of trades"):
        tuned_methods(load_study(tunable))


def test_variants_of_a_method_are_searched_apart(tunable: dict[str, Any]) -> None:
    tunable["methods"].append({**tunable["methods"][0], "dual_bn": False})
    study = load_study(tunable)
    names = [name_of(study, tuned) for tuned in tuned_methods(study)]
    assert len(set(names)) == 4
    assert all(name.startswith("tiny/") for name in names)


def test_what_decides_values_is_all_that_may_not_change_within_a_search(
    tunable: dict[str, Any],
) -> None:
    decided = _tuned(tunable, "oat").decides()

    def odd(**changes: Any) -> list[str]:
        found = _tuned({**tunable, **changes}, "oat").decides()
        return [key for key in decided if found[key] != decided[key]]

    assert odd() == []
    tune = tunable["tune"]
    for free in (
        {"tune": {**tune, "budget": "2h", "sampler": "nsga2", "select": "hypervolume"}},
        {"tune": {**tune, "early_stopping": {}}},
        {"resources": {"cpu": 2}},
        {"data": {**tunable["data"], "root": "elsewhere"}},
        {"methods": tunable["methods"][:2]},
        {"seeds": [0, 1]},
    ):
        assert odd(**free) == []
    assert odd(train={**tunable["train"], "momentum": 0.5}) == ["train"]
    assert odd(attack={"eps": 0.2, "steps": 1}) == ["attack"]
    assert odd(data={**tunable["data"], "train_images": 64}) == ["data"]
    assert odd(model={"name": "resnet8", "width": 8}) == ["model"]
    assert odd(seeds=[1]) == ["seed"]
    assert odd(tune={**tune, "images": 21}) == ["evaluation"]
    assert odd(tune={**tune, "attack": {"steps": 2}}) == ["evaluation"]
    wider = {"train": {"lr": {"low": 0.001, "high": 1, "log": True}}}
    assert odd(tune={**tune, "space": wider}) == ["space"]
    other = [{"name": "oat", "lambda_choices": [0, 1], "train": {"lr": 0.2}}]
    assert odd(methods=other) == ["method"]


def test_a_study_with_a_model_that_is_made_from_another_is_not_tuned(
    tunable: dict[str, Any],
) -> None:
    start = {"from": "pgd_at λ=1", "epochs": 1}
    tunable["methods"].append({"name": "pgd_at", "lam": 0.5, "start": start})
    with pytest.raises(TuningError, match=r"from scratch to be tuned, got pgd_at start=pgd_at:λ=1"):
        tuned_methods(load_study(tunable))


def test_a_narrow_range_near_one_keeps_many_values(tunable: dict[str, Any]) -> None:
    space = {"train": {"ema": {"low": 0.999, "high": 0.9999}}}
    methods = [{"name": "oat", "lambda_choices": [0, 1], "train": {"ema": 0.9995}}]
    tuned = _tuned({**tunable, "methods": methods, "tune": {"budget": "1s", "space": space}}, "oat")
    wanted = [0.999 + 0.0009 * i / 500 for i in range(1, 500)]
    found = [tuned.entry({"train.ema": value})["train"]["ema"] for value in wanted]
    assert len(set(found)) == len(wanted)
    assert all(abs(one - value) <= 1e-7 for one, value in zip(found, wanted, strict=True))


def test_other_code_of_a_users_method_is_another_search(
    tunable: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not any(key.startswith("code") for key in _tuned(tunable, "oat").decides())
    found = []
    for code in ("one", "other"):
        with monkeypatch.context() as patched:
            patched.setattr("studies.planning.run_keys.code_of", lambda _, code=code: code)
            found.append(_tuned(tunable, "oat").decides())
    assert [one["code of the method"] for one in found] == ["one", "other"]
