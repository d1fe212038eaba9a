from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

import studies
from oat.adversaries import AutoAttack, Fgsm, Pgd, Square, Transfer
from studies.errors import StudyError
from studies.study_file.loading import load_study, presets
from tests.studies.study_file.faulty import fault_of, good_study, says, through_yaml_of


def _attacks(*blocks: str) -> str:
    return f"evaluate.attacks=[{', '.join(blocks)}]"


def test_every_attack_has_a_block_of_its_own_with_the_keys_of_its_config() -> None:
    study = load_study(
        good_study(),
        [
            _attacks(
                "{name: pgd, steps: 50, restarts: 10, loss: cw, momentum: 1, every_lam: true}",
                "{name: fgsm, eps: 4/255}",
                "{name: autoattack, images: 100, targets: 4}",
                "{name: square, queries: 100}",
                "{name: transfer, steps: 10, step_size: 0.01}",
            )
        ],
    )
    eps = 8 / 255
    assert study.attacks() == [
        Pgd(steps=50, restarts=10, loss="cw", momentum=1.0, every_lam=True, eps=eps),
        Fgsm(eps=4 / 255),
        AutoAttack(images=100, targets=4, eps=eps),
        Square(queries=100, eps=eps),
        Transfer(steps=10, step_size=0.01, eps=eps),
    ]
    assert [study.label_of(attack) for attack in study.attacks()] == [
        "pgd50x10-cw-momentum1-every-lam",
        "fgsm@0.01569",
        "autoattack-4targets",
        "square100",
        "transfer10-step0.01",
    ]
    assert through_yaml_of(study) == study


@pytest.mark.parametrize(
    "blocks",
    [
        ("{steps: 20, images: 10}", "{steps: 20, images: 20}"),
        ("{steps: 20}", "{steps: 20, images: 20}"),
        ("{steps: 20}", "{steps: 20, eps: 8/255}"),
        ("{steps: 20}", "{steps: 20, eps: 8/255, images: 10}"),
        ("{name: fgsm, eps: 0.05}", "{name: fgsm, eps: 0.0500001}"),
        ("{steps: 5, step_size: 0.01}", "{steps: 5, step_size: 0.01000001}"),
        ("{name: autoattack}", "{name: autoattack, images: 10}"),
    ],
)
def test_two_attacks_of_one_name_are_refused(blocks: tuple[str, str]) -> None:
    says(fault_of(good_study(), _attacks(*blocks)), ("`", "attacks", "named '", "keep one"))


def test_attacks_that_differ_in_what_their_names_tell_are_two() -> None:
    blocks = ("{steps: 20}", "{steps: 20, step_size: 0.01}", "{steps: 20, loss: cw}")
    study = load_study(good_study(), [_attacks(*blocks, "{steps: 20, eps: 0.05}", "{name: fgsm}")])
    labels = [study.label_of(attack) for attack in study.attacks()]
    assert labels == ["pgd20", "pgd20-step0.01", "pgd20-cw", "pgd20@0.05", "fgsm"]


def test_a_list_of_radii_makes_one_attack_of_each() -> None:
    blocks = ("{steps: 20, images: 10, eps: [4/255, 8/255, 0.1]}", "{name: fgsm, eps: [0.1]}")
    study = load_study(good_study(), [_attacks(*blocks)])
    radii = (4 / 255, 8 / 255, 0.1)
    assert study.attacks() == [
        *(Pgd(steps=20, images=10, eps=eps) for eps in radii),
        Fgsm(eps=0.1),
    ]
    labels = [study.label_of(attack) for attack in study.attacks()]
    assert labels == ["pgd20@0.01569", "pgd20", "pgd20@0.1", "fgsm@0.1"]
    # as the same written out, which has the same held-out points
    apart = [f"{{steps: 20, images: 10, eps: {eps!r}}}" for eps in radii]
    other = load_study(good_study(), [_attacks(*apart, "{name: fgsm, eps: 0.1}")])
    assert other.attacks() == study.attacks()
    assert other.choosing_attacks() == study.choosing_attacks()
    assert through_yaml_of(study) == study
    assert "eps: [4/255, 8/255, 0.1]" in studies.init(study)
    Draft202012Validator(studies.schema()).validate(study.dump())


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        (["{eps: []}"], ("In `evaluate.attacks.0`", "`eps` must name at least one radius")),
        (["{eps: [8/255, 8]}"], ("In `evaluate.attacks.0`", "got 8", "is written 8/255")),
        (["{eps: [0.1, -0.1]}"], ("In `evaluate.attacks.0`", "got -0.1")),
        (["{eps: [0.1, 0]}"], ("In `evaluate.attacks.0`", "above 0, got 0", "leave it out")),
        (["{name: square, eps: 0}"], ("In `evaluate.attacks.0`", "above 0, got 0")),
        (["{eps: [0.1, x]}"], ("`evaluate.attacks.0.eps.1` must be a valid number, got 'x'.",)),
        (["{eps: {low: 1}}"], ("`evaluate.attacks.0.eps` must be a valid number or a list",)),
        (["{eps: [0.1, 0.1]}"], ("2 attacks named 'pgd20' at `eps` 0.1; keep one",)),
        (["{eps: [0.1, 0.2]}", "{eps: 0.2}"], ("named 'pgd20' at `eps` 0.2; keep one",)),
        (["{eps: [4/255]}", "{eps: 4/255, images: 9}"], ("differ in `images` alone; keep one",)),
        (["{}", "{eps: [4/255, 8/255]}"], ("2 attacks named 'pgd20' once `eps`", "keep one")),
        # radii that are meant to be one would be compared with nothing
        (["{eps: 0.03137}"], ("0.03137", "0.0313725", "to four digits; write them alike")),
        (["{eps: 0.1}", "{name: fgsm, eps: 0.100001}"], ("0.1 and 0.100001", "write them alike")),
    ],
)
def test_radii_that_say_nothing_or_the_same_are_refused(
    blocks: list[str], words: tuple[str, ...]
) -> None:
    said = fault_of(good_study(), _attacks(*blocks))
    says(said, words)
    assert len(said.splitlines()) == 1, "one sentence"


def test_a_faulty_value_of_a_list_is_one_fault() -> None:
    assert fault_of(good_study(), "methods.1.lam=[0, x]") == (
        "`methods.1.lam.1` must be a valid number, got 'x'."
    )


@pytest.mark.parametrize(
    ("methods", "count"),
    [
        ("[{name: oat, lambda_choices: [0, 1]}]", 0),
        ("[{name: oat, lambda_choices: [0, 1]}, {name: pgd_at, lam: 1}]", 1),
        ("[{name: trades, beta: 6}]", 1),
    ],
)
def test_transfer_needs_another_dedicated_model(methods: str, count: int) -> None:
    said = fault_of(good_study(), f"methods={methods}", _attacks("{name: transfer}"))
    says(said, ("'transfer'", "at least two retrained models", f"got {count}"))
    # seeds are not other models: each is attacked from those of its own
    said = fault_of(
        good_study(), f"methods={methods}", _attacks("{name: transfer}"), "seeds=[0, 1]"
    )
    says(said, ("'transfer'", f"got {count}"))


def test_two_dedicated_models_are_enough_for_transfer() -> None:
    methods = "methods=[{name: pgd_at, lam: [1]}, {name: trades, beta: 6}]"
    (attack,) = load_study(good_study(), [methods, _attacks("{name: transfer}")]).attacks()
    assert attack.label == "transfer20"


def test_a_method_may_ask_for_more_than_the_study_says(tiny: dict[str, Any]) -> None:
    tiny["resources"] = {"cpu": 2, "gpu": 0.25}
    tiny["methods"][0]["resources"] = {"cpu": 4, "gpu": 1}
    study = load_study(tiny)
    asked = {e.method.name: (e.need.cpu, e.need.gpu) for e in study.entries()}
    assert asked == {"oat": (4, 1.0), "pgd_at": (2, 0.25), "trades": (2, 0.25)}
    assert [entry.method for entry in study.entries()] == study.all_methods()
    assert load_study(study.dump()) == study


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ({"gpu": 1.5}, "`gpu` must be 0, a share of a GPU from 0.0001 to 1, a whole number or"),
        ({"cpu": 0}, "methods.0.resources.cpu"),
        ({"gpus": 1}, "did you mean 'methods.0.resources.gpu'?"),
        ({"device": "tpu"}, "methods.0.resources.device"),
    ],
)
def test_what_a_method_asks_for_is_checked(
    resources: dict[str, Any], words: str, tiny: dict[str, Any]
) -> None:
    tiny["methods"][0]["resources"] = resources
    with pytest.raises(StudyError) as caught:
        load_study(tiny)
    assert words in str(caught.value)


@pytest.mark.parametrize("preset", presets())
def test_how_a_study_is_tuned_is_no_part_of_what_it_is(preset: str) -> None:
    study = load_study(preset)
    plain = study.without_tuning()
    assert "tune" not in plain
    assert all("train" not in block for block in plain["methods"])
    without = load_study(plain)
    assert without.dump() == plain, "a study without `tune` says nothing of it"
    assert without.entries() == study.entries()
    assert load_study(study.dump()) == study
    assert load_study(yaml.safe_load(yaml.safe_dump(study.dump()))) == study


def test_quickstart_can_be_tuned_as_the_readme_says() -> None:
    tune = load_study("quickstart", ["tune.budget=60s"]).tune
    assert tune is not None
    assert tune.seconds == 60
    assert set(tune.space["train"]) == {"lr", "weight_decay"}


def test_a_study_with_a_whole_tune_block_survives_its_dump(tunable: dict[str, Any]) -> None:
    tunable["tune"] |= {
        "sampler": "nsga2",
        "select": {"rule": "sa_at_ra", "ra": 0.4},
        "early_stopping": {"slack": 0.05},
        "space": {
            "train": {"lr": {"low": "1/20", "high": 1}, "ema": {"choices": [None, 0.9]}},
            "oat": {"zero_share": {"choices": [None, 0.5]}},
        },
    }
    study = load_study(tunable)
    assert load_study(yaml.safe_load(yaml.safe_dump(study.dump()))) == study
    changed = load_study(study, ["tune.space.train.lr.high=2", "tune.select=front"])
    assert changed.tune is not None
    assert changed.tune.space["train"]["lr"].high == 2
    assert changed.tune.select.rule == "front"


def test_settings_of_an_entrys_own_count_as_far_as_they_are_given(tiny: dict[str, Any]) -> None:
    tiny["train"] |= {"lr": 0.3, "momentum": 0.5}
    tiny["methods"][1]["train"] = {"lr": 0.1, "milestones": [0.5], "ema": None}
    study = load_study(tiny)
    by_name = {entry.method.name: entry for entry in study.entries()}
    assert (by_name["oat"].train.lr, by_name["pgd_at"].train.lr) == (0.3, 0.1)
    assert by_name["pgd_at"].train.momentum == 0.5
    assert by_name["pgd_at"].settings == {"lr": 0.1, "milestones": (0.5,), "ema": None}
    assert by_name["pgd_at"].label == "pgd_at λ=1 lr=0.1 milestones=(0.5,) ema=None"
    again = load_study(yaml.safe_load(yaml.safe_dump(study.dump())))
    assert again == study
    assert again.entries() == study.entries()
    entry = study.methods[1].entry()
    assert entry["train"] == {"lr": 0.1, "milestones": [0.5], "ema": None}
    assert load_study({**tiny, "methods": [entry]}).entries() == study.entries()[1:3]


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ({"lrr": 1}, ["'methods.1.train.lrr'; did you mean 'methods.1.train.lr'?"]),
        ({"epochs": 5}, ["'methods.1.train.epochs'"]),
        ({"lr": -1}, ["`methods.1.train`", "`lr` must be a finite number above 0, got -1"]),
        ({"lr": "fast"}, ["`methods.1.train.lr`", "'fast'"]),
        ({"eps_warmup": 3}, ["`train` of pgd_at", "from 0 to `epochs` (1), got 3"]),
        ([1], ["`methods.1.train`"]),
    ],
    ids=str,
)
def test_a_fault_in_an_entrys_own_settings_is_one_sentence(
    tiny: dict[str, Any], train: Any, words: list[str]
) -> None:
    tiny["methods"][1]["train"] = train
    with pytest.raises(StudyError) as caught:
        load_study(tiny)
    said = str(caught.value)
    assert "\n" not in said
    for word in words:
        assert word in said


@pytest.mark.parametrize("train", [{}, {"lr": 0.1}, {"momentum": 0.9, "lr": 0.1}])
def test_two_entries_of_one_training_are_one_trial_too_many(
    tiny: dict[str, Any], train: dict[str, Any]
) -> None:
    # written otherwise, they have one and the same run key
    tiny["methods"] = [{"name": "pgd_at", "lam": 1}, {"name": "pgd_at", "lam": 1, "train": train}]
    with pytest.raises(StudyError, match=r"Duplicate trial: pgd_at λ=1.* is listed 2 times"):
        load_study(tiny)
    tiny["methods"][1]["train"] = {"lr": 0.2}
    assert len(load_study(tiny).entries()) == 2


def test_averaged_weights_are_asked_of_every_entry(tiny: dict[str, Any]) -> None:
    tiny["train"]["ema"] = 0.9
    tiny["evaluate"]["checkpoints"] = ["averaged"]
    load_study(tiny)
    tiny["methods"][0]["train"] = {"ema": None}
    with pytest.raises(StudyError, match=r"`evaluate\.checkpoints` 'averaged' needs `train\.ema`"):
        load_study(tiny)
