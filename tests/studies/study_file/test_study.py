import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines import PgdAt, Trades
from oat.method import Oat, Oats
from studies.errors import StudyError
from studies.study_file.loading import load_study
from studies.study_file.study import parse_fractions
from tests.studies.study_file.faulty import GOOD, fault_of, good_study, says

UNKNOWN = [
    ("tarin={}", ("key 'tarin'", "did you mean 'train'", "methods")),
    ("train.epoch=3", ("key 'train.epoch'", "did you mean 'train.epochs'")),
    ("data.rot=x", ("key 'data.rot'", "did you mean 'data.root'")),
    ("model.widht=4", ("key 'model.widht'", "did you mean 'model.width'")),
    ("attack.stepsize=0.1", ("key 'attack.stepsize'", "did you mean 'attack.step_size'")),
    ("methods.0.lambda_choice=[0]", ("'methods.0.lambda_choice'", "lambda_choices")),
    ("methods.1.lamb=1", ("key 'methods.1.lamb'", "did you mean 'methods.1.lam'")),
    ("evaluate.lam=[0]", ("key 'evaluate.lam'", "did you mean 'evaluate.lams'")),
    ("evaluate.attacks.0.step=1", ("'evaluate.attacks.0.step'", "'evaluate.attacks.0.steps'")),
    ("resources.gpus=1", ("key 'resources.gpus'", "did you mean 'resources.gpu'")),
    ("methods.0.name=ota", ("methods.0", "method 'ota'", "did you mean 'oat'", "trades")),
    ("methods.2.name=trade", ("methods.2", "method 'trade'", "did you mean 'trades'")),
    ("model.name=resnet9", ("model", "'resnet9'", "did you mean 'resnet", "resnet8")),
    ("data.name=digit", ("data set 'digit'", "did you mean 'digits'", "cifar10")),
    ("evaluate.attacks.0.name=autoatack", ("evaluate.attacks.0.name", "attack", "'autoattack'")),
    ("evaluate.attacks.0={name: square, steps: 5}", ("evaluate.attacks.0.steps", "queries")),
    ("evaluate.attacks.0={name: pgd, loss: hinge}", ("evaluate.attacks.0.loss", "'cw'", "hinge")),
    ("evaluate.attacks.0={name: pgd, eps: 8}", ("evaluate.attacks.0", "8/255", "got 8")),
    ("evaluate.attacks.0={name: pgd, restarts: 0}", ("evaluate.attacks.0", "at least 1", "got 0")),
    ("evaluate.attacks.0={name: pgd, momentum: 2}", ("evaluate.attacks.0", "[0, 1]", "got 2")),
    ("evaluate.attacks.0={name: autoattack, targets: 10}", ("from 3 to 9", "got 10")),
    ("evaluate.attacks.0={step: 5}", ("'evaluate.attacks.0.step'", "'evaluate.attacks.0.steps'")),
    ("evaluate.attacks.0={step_size: .inf}", ("`step_size`", "finite", "got inf")),
    ("evaluate.masking_images=-1", ("evaluate.masking_images", "0", "-1")),
]

OUT_OF_RANGE = [
    ("methods.1.lam=1.5", ("methods.1", "`lam`", "[0, 1]", "got 1.5")),
    ("methods.1.lam=[0, 1.5]", ("methods.1", "`lam`", "[0, 1]", "got 1.5")),
    ("methods.1.lam=-0.1", ("methods.1", "`lam`", "[0, 1]", "got -0.1")),
    ("methods.1.lam=.nan", ("methods.1", "`lam`", "[0, 1]", "got nan")),
    ("methods.0.lambda_choices=[0, 2]", ("methods.0", "lambda_choices", "[0, 1]", "got 2")),
    ("methods.0.lambda_choices=[0, 0]", ("methods.0", "lambda_choices", "repeat")),
    ("evaluate.lams=[0, 1.5]", ("evaluate", "lams", "[0, 1]", "got 1.5")),
    ("methods.2.beta=-1", ("methods.2", "`beta`", "at least 0", "got -1")),
    ("methods.2.beta=[1, -1]", ("methods.2", "`beta`", "at least 0", "got -1")),
    ("methods.2.beta=.inf", ("methods.2", "`beta`", "finite", "got inf")),
    ("attack.eps=8", ("attack", "`eps`", "[0, 1]", "got 8", "8/255")),
    ("attack.eps=-0.1", ("attack", "`eps`", "[0, 1]", "got -0.1")),
    ("evaluate.attacks.0.eps=8", ("evaluate.attacks.0", "`eps`", "got 8", "8/255")),
    ("attack.step_size=0.9", ("attack", "`step_size`", "got 0.9")),
    ("attack.steps=0", ("attack", "`steps`", "at least 1", "got 0")),
    ("train.epochs=0", ("train", "`epochs`", "at least 1", "got 0")),
    ("train.epochs=-3", ("train", "`epochs`", "at least 1", "got -3")),
    ("train.batch_size=0", ("train", "`batch_size`", "at least 2", "got 0")),
    ("train.lr=0", ("train", "`lr`", "above 0", "got 0")),
    ("train.lr=.inf", ("train", "`lr`", "finite", "got inf")),
    ("model.width=0", ("model", "`width`", "at least 1", "got 0")),
    ("data.val_fraction=1", ("data", "`val_fraction`", "(0, 1)", "got 1")),
    ("data.train_images=0", ("data", "`train_images`", "at least 1", "got 0")),
    ("seeds=[-1]", ("`seeds`", "got -1")),
    ("tracking.log_model=true", ("key 'tracking.log_model'", "did you mean 'tracking.log_models'")),
    ("tracking.log_models=maybe", ("`tracking.log_models`", "boolean", "got 'maybe'")),
    ("resources.cpu=0", ("`resources.cpu`", "1", "got 0")),
    ("resources.gpu=-1", ("`resources.gpu`", "0", "got -1")),
    ("resources.gpu=.inf", ("`resources.gpu`", "finite", "got inf")),
    ("resources.gpu=all", ("`resources.gpu`", "number", "'auto'", "got 'all'")),
    ("resources.gpu=.nan", ("`resources.gpu`", "finite", "got nan")),
    ("resources.gpu=1.5", ("resources", "`gpu`", "0.0001 to 1, a whole number or", "got 1.5")),
    ("resources.gpu=0.00001", ("resources", "`gpu`", "0.0001 to 1", "got 1e-05")),
    ("evaluate.images=0", ("`evaluate.images`", "1", "got 0")),
    ("name=../away", ("`name`", "'../away'")),
    ("name=''", ("`name`", "''")),
]

EMPTY_OR_TWICE = [
    ("methods=[]", ("`methods`", "at least one", "oat, oats, pgd_at, trades")),
    ("methods.1.lam=[]", ("methods.1", "`lam`", "at least one", "empty")),
    ("methods.2.beta=[]", ("methods.2", "`beta`", "at least one", "empty")),
    ("methods.0.lambda_choices=[]", ("methods.0", "lambda_choices", "empty")),
    ("seeds=[]", ("`seeds`", "at least one", "empty")),
    ("evaluate.attacks=[{name: pdg}]", ("evaluate.attacks", "'pdg'", "did you mean 'pgd'")),
    ("evaluate.attacks=[{name: fgsm, eps: 8}]", ("evaluate.attacks", "`eps`", "8/255")),
    ("evaluate.attacks=[]", ("evaluate", "`attacks`", "at least one", "empty")),
    ("evaluate.lams=[]", ("evaluate", "`lams`", "at least one", "empty")),
    ("methods.1.lam=[0, 0.5, 0]", ("Duplicate trial", "pgd_at λ=0", "2 times")),
    ("methods.1={name: trades, beta: 6}", ("Duplicate trial", "trades β=6", "2 times")),
    ("seeds=[3, 3]", ("Duplicate", "seed 3", "2 times")),
]

WRONG_TYPE = [
    ("train.epochs=many", ("`train.epochs`", "integer", "'many'")),
    ("train.epochs=1.5", ("`train.epochs`", "integer", "1.5")),
    ("train.schedule=linear", ("`train.schedule`", "cosine", "constant", "'linear'")),
    ("train=5", ("`train`", "5")),
    ("data=digits", ("`data`", "'digits'")),
    ("methods=oat", ("`methods`", "'oat'")),
    ("methods=[oat]", ("methods.0", "'oat'")),
    ("seeds=3", ("`seeds`", "3")),
    ("attack.eps=8/0", ("`attack.eps`", "number", "'8/0'")),
    ("attack.eps=eight", ("`attack.eps`", "number", "'eight'")),
    ("methods.1.lam=high", ("`methods.1.lam`", "number", "'high'")),
    ("methods.0.dual_bn=perhaps", ("`methods.0.dual_bn`", "'perhaps'")),
    ("methods.0.encoding=fourier", ("`methods.0.encoding`", "dct", "'fourier'")),
    ("name=5", ("`name`", "5")),
    ("train.epochs=true", ("`train.epochs`", "a number", "True")),
    ("methods.1.lam=[0, true]", ("`methods.1.lam.1`", "a number", "True")),
    ("seeds=[false]", ("`seeds.0`", "a number", "False")),
    ("resources.gpu=true", ("`resources.gpu`", "a number", "True")),
]


@pytest.mark.parametrize(
    ("override", "words"), [*UNKNOWN, *OUT_OF_RANGE, *EMPTY_OR_TWICE, *WRONG_TYPE]
)
def test_a_faulty_value_gets_one_sentence_with_its_place_and_the_cure(
    override: str, words: tuple[str, ...]
) -> None:
    says(fault_of(good_study(), override), words)


@pytest.mark.parametrize("place", ["name", "data", "methods", "data.name", "methods.0.name"])
def test_what_is_left_out_is_asked_for_by_its_place(place: str) -> None:
    source: Any = good_study()
    block = source
    *parents, last = place.split(".")
    for key in parents:
        block = block[int(key) if isinstance(block, list) else key]
    del block[last]
    says(fault_of(source), (f"`{place}` is required",))


def test_each_of_several_faults_gets_its_own_line() -> None:
    said = fault_of(good_study(), "train.epoch=3", "attack.eps=8", "methods.1.lam=7").splitlines()
    assert len(said) == 3
    for word in ("train.epoch", "8/255", "methods.1"):
        assert sum(word in line for line in said) == 1


@pytest.mark.parametrize(
    ("block", "faults"),
    [
        ("train", {"epochs": 0, "lr": -1, "momentum": 2}),
        ("data", {"val_fraction": 2, "train_images": 0, "crop": -1}),
        ("attack", {"eps": 8, "steps": 0}),
        ("evaluate.attacks.0", {"eps": 8, "steps": 0, "momentum": 3}),
    ],
)
def test_each_fault_of_one_block_gets_its_own_line(block: str, faults: dict[str, Any]) -> None:
    overrides = [f"{block}.{key}={value}" for key, value in faults.items()]
    said = fault_of(good_study(), *overrides).splitlines()
    assert len(said) == len(faults)
    for key in faults:
        assert sum(f"In `{block}`: `{key}`" in line for line in said) == 1


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.epochs", ("`--set`", "train.epochs", "=")),
        ("=3", ("`--set`", "=3")),
        ("methods.9.lam=1", ("`--set methods.9.lam`", "no such place")),
        ("methods.first.lam=1", ("`--set methods.first.lam`", "no such place")),
        ("name.part=1", ("`--set name.part`", "no such place")),
        ("train.epochs=[", ("`--set train.epochs`", "YAML")),
        ("train.epochs.more=1", ("`--set train.epochs.more`", "no such place")),
    ],
)
def test_a_faulty_override_is_refused(override: str, words: tuple[str, ...]) -> None:
    says(fault_of(good_study(), override), words)


def test_overrides_reach_keys_list_items_and_blocks_that_were_left_out() -> None:
    changed = load_study(
        good_study(), ["train.epochs=30", "methods.2.beta=[3]", "data.root=/there"]
    )
    assert changed.train.epochs == 30
    assert changed.all_methods()[-1] == Trades(beta=3)
    assert changed.data.root == "/there"
    small = {key: GOOD[key] for key in ("name", "data", "methods")}
    assert load_study(small, ["train.epochs=7"]).train.epochs == 7


def test_overrides_do_not_change_the_source() -> None:
    source = good_study()
    load_study(source, ["train.epochs=30", "methods.0.lambda_choices=[0, 1]"])
    assert source == GOOD
    study = load_study(source)
    load_study(study, ["train.epochs=30"])
    assert study.train.epochs == 2


def test_a_key_is_compared_with_those_of_its_block_and_not_with_the_block() -> None:
    assert "did you mean" not in fault_of(good_study(), "model.channels=3")
    near = "did you mean 'methods.0.lambda_choices'?"
    assert near in fault_of(good_study(), "methods.0.lam=[0, 1]")


def test_an_unknown_preset_is_answered_with_the_nearest() -> None:
    words = ("preset 'quikstart'", "did you mean 'quickstart'", "fashion-mnist-small", ".yaml")
    assert all(word in fault_of("quikstart") for word in words)


def test_files_that_are_no_studies_are_refused(tmp_path: Path) -> None:
    missing = tmp_path / "missing.yaml"
    says(fault_of(missing), (str(missing), "cannot be read"))
    says(fault_of(f"{tmp_path}/"), (str(tmp_path), "cannot be read"))
    pipe = tmp_path / "pipe.yaml"  # nobody writes into it
    os.mkfifo(pipe)
    says(fault_of(str(pipe)), (str(pipe), "must be a file, got a named pipe"))
    faulty = tmp_path / "faulty.yaml"
    for text, word in [
        ("name: [", "not valid YAML"),
        ("- a\n- b\n", "mapping"),
        ("", "a mapping of keys to values, got nothing"),
        ("just words", "mapping"),
    ]:
        faulty.write_text(text)
        says(fault_of(faulty), (word,))
    faulty.write_bytes(b"\xff\xfe\x00name")
    says(fault_of(faulty), (str(faulty),))


def test_yaml_cannot_run_anything(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    attack = f"!!python/object/apply:os.mkdir ['{ran}']"
    path = tmp_path / "study.yaml"
    path.write_text(f"name: {attack}\n")
    fault_of(path)
    fault_of(good_study(), f"name={attack}")
    assert not ran.exists()


def test_fractions_are_numbers_wherever_they_stand() -> None:
    study = load_study(
        {
            **good_study(),
            "evaluate": {"attacks": [{"eps": "4/255"}, {"eps": " 1 / 4 ", "steps": 2}]},
        },
        ["methods.1.lam=[0, 1/2]", "train.lr=1/10"],
    )
    assert study.attack.eps == 8 / 255
    assert [attack.eps for attack in study.attacks()] == [4 / 255, 0.25]
    assert study.all_methods()[2] == PgdAt(lam=0.5)
    assert study.train.lr == 0.1


@given(top=st.integers(0, 1000), rest=st.integers(1, 1000))
def test_any_fraction_is_its_quotient(top: int, rest: int) -> None:
    study = load_study(good_study(), [f"attack.eps={top}/{top + rest}"])
    assert study.attack.eps == top / (top + rest)


def test_the_attacks_of_the_evaluation_take_the_radius_of_training_unless_they_name_one() -> None:
    study = load_study(good_study(), ["evaluate.attacks=[{steps: 3}, {steps: 4, eps: 0.5}]"])
    assert [attack.eps for attack in study.attacks()] == [8 / 255, 0.5]


def test_a_list_makes_one_trial_of_each_value() -> None:
    expected = [
        Oat(lambda_choices=(0.0, 0.5, 1.0)),
        PgdAt(lam=0.0),
        PgdAt(lam=1.0),
        Trades(beta=1.0),
        Trades(beta=6.0),
    ]
    assert load_study(good_study()).all_methods() == expected
    assert load_study(good_study(), ["methods=[{name: pgd_at, lam: 0.3}]"]).all_methods() == [
        PgdAt(0.3)
    ]
    assert load_study(good_study(), ["methods=[{name: trades}]"]).all_methods() == [Trades()]


def test_a_list_of_widths_makes_a_narrow_network_of_each_value_at_each_width() -> None:
    block = (
        "methods=[{name: pgd_at, lam: [0, 1], width_mults: [0.5, 1]}, "
        "{name: trades, beta: 6, width_mults: 0.5}]"
    )
    assert load_study(good_study(), [block]).all_methods() == [
        PgdAt(0.0, 0.5),
        PgdAt(1.0, 0.5),
        PgdAt(0.0),
        PgdAt(1.0),
        Trades(6.0, 0.5),
    ]


def test_oats_is_a_block_of_its_own_with_the_keys_of_oat() -> None:
    block = "methods=[{name: oats, width_mults: [1, 1/2], encoding: dct, head_per_width: true}]"
    (method,) = load_study(good_study(), [block]).all_methods()
    assert method == Oats(width_mults=(1.0, 0.5), encoding="dct", head_per_width=True)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("methods.1.width_mults=[]",), ("`width_mults`", "at least one", "methods.1")),
        (("methods.1.width_mults=[1.5]",), ("`width_mult`", "(0, 1]", "1.5")),
        (("methods.1.width_mults=[0.3]",), ("`width_mult` 0.3 of 4 channels", "whole number")),
        (("methods.1.width_mults=[0.5, 0.5]",), ("Duplicate trial", "width=0.5")),
        (("methods.0={name: oats, width_mults: []}",), ("`width_mults`", "at least one")),
        (("methods.0={name: oats, width_mults: [1, 0]}",), ("`width_mults`", "(0, 1]")),
        (("methods.0={name: oats, width_mults: [1, 1]}",), ("`width_mults`", "repeat")),
        (("methods.0={name: oats, width_mults: [0.3]}",), ("`width_mult` 0.3", "whole number")),
        (("methods.0.width_mults=[1]",), ("key 'methods.0.width_mults'",)),
        (("methods.0.lambda_sampling=steep",), ("`lambda_sampling`", "continuous", "random")),
        (("methods.0.lambda_sampling=stepe",), ("lambda_sampling", "steep", "stepe")),
        (("methods.0.zero_share=1",), ("`zero_share`", "(0, 1)")),
        (
            (
                "methods.0={name: oat, lambda_choices: [0.1, 1], encoding: continuous}",
                "evaluate.lams=[0, 1]",
            ),
            ("`evaluate.lams` has 0,", "oat never trains its batch norm of λ = 0"),
        ),
        (
            ("methods.0={name: oat, lambda_choices: [0], encoding: none}", "evaluate.lams=[0, 1]"),
            ("`evaluate.lams` has 1,", "never trains its batch norm of λ above 0"),
        ),
        (
            ("methods.1={name: oats, width_mults: [1]}",),
            ("got 0.1 (the union of all λ sets, as `evaluate.lams` is not given)",),
        ),
        (("evaluate.lams=[0, 1e-9, 1]",), ("`lams`", "closer than 1e-06")),
        (
            ("methods.0={name: oat, lambda_choices: [0], encoding: none, lambda_sampling: steep}",),
            ("`lambda_sampling` 'steep'", "above 0"),
        ),
        (
            ("methods.0={name: oat, lambda_choices: [1], zero_share: 0.2}", "evaluate.lams=[1]"),
            ("`zero_share`", "0 among"),
        ),
        (
            ("methods.0.encoding=continuous", "methods.0.encoding_dim=7"),
            ("`encoding_dim`", "even", "7"),
        ),
        (("evaluate.checkpoints=[averaged]",), ("`evaluate.checkpoints`", "`train.ema`")),
        (("evaluate.checkpoints=[]",), ("`checkpoints`", "at least one")),
        (("evaluate.checkpoints=[last, last]",), ("`checkpoints`", "once each")),
        (("evaluate.checkpoints=[best]",), ("evaluate.checkpoints", "chosen", "best")),
        (("train.batch_size=3",), ("`train.batch_size` 3", "1 row with λ = 0", "dual_bn")),
        (("train.batch_size=2", "methods.0.lambda_choices=[0, 1]"), ("1 row with λ = 0",)),
        (("train.ema=1",), ("`ema`", "(0, 1)")),
        (("train.eps_warmup=3",), ("`eps_warmup`", "`epochs` (2)")),
        (("train.clip_norm=0",), ("`clip_norm`", "above 0")),
        (("train.label_smoothing=1",), ("`label_smoothing`", "[0, 1)")),
        (("train.schedule=step",), ("train.schedule", "multistep", "step")),
        (("train.milestones=[0.5, 2]",), ("`milestones`", "(0, 1)")),
        (("train.gamma=0",), ("`gamma`", "(0, 1)")),
    ],
)
def test_a_faulty_value_of_the_whole_method_gets_one_sentence(
    overrides: tuple[str, ...], words: tuple[str, ...]
) -> None:
    says(fault_of(good_study(), *overrides), words)


def test_values_that_only_look_the_same_are_no_duplicates() -> None:
    study = load_study(good_study(), ["methods.1.lam=[0.12345671, 0.12345672]"])
    assert len(study.all_methods()) == 5


def test_one_batch_norm_serves_a_lam_that_was_not_trained() -> None:
    block = "methods.0={name: oat, lambda_choices: [0.1, 1], encoding: continuous, dual_bn: false}"
    assert load_study(good_study(), [block, "evaluate.lams=[0, 1]"]).lams() == (0.0, 1.0)


def test_conditional_networks_are_judged_at_all_their_choices_unless_told() -> None:
    assert load_study(good_study()).lams() == (0.0, 0.5, 1.0)
    assert load_study(good_study(), ["evaluate.lams=[1, 0]"]).lams() == (0.0, 1.0)


def test_a_network_with_a_table_of_codes_is_not_judged_between_its_choices() -> None:
    said = fault_of(good_study(), "evaluate.lams=[0, 0.25]", "methods.0.encoding=onehot")
    says(said, ("`evaluate.lams`", "lambda_choices", "onehot", "got 0.25"))
    for encoding in ("none", "continuous"):
        override = f"methods.0.encoding={encoding}"
        free = load_study(good_study(), ["evaluate.lams=[0, 0.25]", override])
        assert free.lams() == (0.0, 0.25)


@pytest.mark.parametrize("gpu", [0, 1e-4, 0.2, 0.3, 1 / 7, 0.99, 1, 2])
def test_any_share_of_a_gpu_may_be_asked_for(gpu: float) -> None:
    assert load_study(good_study(), [f"resources.gpu={gpu!r}"]).resources.gpu == gpu


def test_the_share_of_a_gpu_may_be_left_to_a_measurement() -> None:
    study = load_study(good_study(), ["resources.gpu=auto"])
    assert (study.resources.gpu, study.resources.share) == ("auto", 1)
    assert load_study(study.dump()) == study


def test_a_third_of_a_gpu_may_be_written_as_a_fraction() -> None:
    assert load_study(good_study(), ["resources.gpu=1/3"]).resources.gpu == pytest.approx(1 / 3)
    assert load_study(good_study(), ["resources.gpu=2"]).resources.gpu == 2


def _places(value: Any, place: str = "") -> list[str]:
    """List every place of a study, blocks and list items among them."""
    items: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    below = [p for key, item in items for p in _places(item, f"{place}{key}.")]
    return [f"{place}{key}" for key, _ in items] + below


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "lam", "eps", "x", 1, None]), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(place=st.sampled_from(_places(GOOD)), junk=JUNK)
@settings(max_examples=300)
def test_junk_anywhere_is_loaded_or_refused_but_never_breaks_the_reader(
    place: str, junk: Any
) -> None:
    source: Any = good_study()
    block = source
    *parents, last = place.split(".")
    for key in parents:
        block = block[int(key) if isinstance(block, list) else key]
    block[int(last) if isinstance(block, list) else last] = junk
    with suppress(StudyError):
        load_study(source)


@pytest.mark.parametrize("name", ["mlflow.db", "mlflow-artifacts", "optuna.db"])
def test_no_study_is_called_as_what_lies_beside_it_in_storage(
    name: str, tiny: dict[str, Any]
) -> None:
    with pytest.raises(StudyError, match=f"`name` must not be '{name}'"):
        load_study({**tiny, "name": name})


def test_a_text_that_looks_like_a_fraction_stays_a_text_where_a_text_is_meant(
    tiny: dict[str, Any],
) -> None:
    data = {"name": "imagefolder", "root": "2024/11"}
    study = load_study({**tiny, "data": data, "attack": {"eps": "8/255", "steps": 1}})
    assert study.data.root == "2024/11"
    assert study.attack.eps == 8 / 255
    assert parse_fractions({"args": {"session": "11/28"}, "lr": "1/4"}) == {
        "args": {"session": "11/28"},
        "lr": 0.25,
    }
