from contextlib import suppress
from copy import deepcopy
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines import PgdAt, Trades
from oat.adversaries import AutoAttack, Fgsm, Pgd, Square, Transfer
from oat.encodings import ENCODINGS
from oat.method import Oat, Oats
from studies.errors import StudyError
from studies.planning.expand import make_plan
from studies.storage.local import LocalFolder
from studies.study_file.loading import load_study, presets
from studies.study_file.study import Study

GOOD: dict[str, Any] = {
    "name": "good",
    "data": {"name": "digits"},
    "model": {"name": "resnet8", "width": 4},
    "train": {"epochs": 2},
    "attack": {"eps": "8/255"},
    "methods": [
        {"name": "oat", "lambda_choices": [0, 0.5, 1]},
        {"name": "pgd_at", "lam": [0, 1]},
        {"name": "trades", "beta": [1, 6]},
    ],
    "evaluate": {"attacks": [{"name": "pgd", "steps": 20}]},
    "resources": {"cpu": 1},
}


def _good() -> dict[str, Any]:
    return deepcopy(GOOD)


def _fault(source: Any, *overrides: str) -> str:
    """Load what is faulty and return what is said of it."""
    with pytest.raises(StudyError) as caught:
        load_study(source, overrides)
    return str(caught.value)


def _says(message: str, words: tuple[str, ...]) -> None:
    """Check that a message is one sentence for people and holds the words."""
    assert "\n" not in message
    assert message.endswith(".")
    for jargon in ("pydantic", "Traceback", "validation error", "Input should"):
        assert jargon not in message
    for word in words:
        assert word in message


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
    ("methods.1.lam=[0, yes]", ("`methods.1.lam.1`", "a number", "True")),
    ("seeds=[off]", ("`seeds.0`", "a number", "False")),
    ("resources.gpu=true", ("`resources.gpu`", "a number", "True")),
]


@pytest.mark.parametrize(
    ("override", "words"), [*UNKNOWN, *OUT_OF_RANGE, *EMPTY_OR_TWICE, *WRONG_TYPE]
)
def test_a_faulty_value_gets_one_sentence_with_its_place_and_the_cure(
    override: str, words: tuple[str, ...]
) -> None:
    _says(_fault(_good(), override), words)


@pytest.mark.parametrize("place", ["name", "data", "methods", "data.name", "methods.0.name"])
def test_what_is_left_out_is_asked_for_by_its_place(place: str) -> None:
    source: Any = _good()
    block = source
    *parents, last = place.split(".")
    for key in parents:
        block = block[int(key) if isinstance(block, list) else key]
    del block[last]
    _says(_fault(source), (f"`{place}` is required",))


def test_each_of_several_faults_gets_its_own_line() -> None:
    said = _fault(_good(), "train.epoch=3", "attack.eps=8", "methods.1.lam=7").splitlines()
    assert len(said) == 3
    for word in ("train.epoch", "8/255", "methods.1"):
        assert sum(word in line for line in said) == 1


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
    _says(_fault(_good(), override), words)


def test_overrides_reach_keys_list_items_and_blocks_that_were_left_out() -> None:
    changed = load_study(_good(), ["train.epochs=30", "methods.2.beta=[3]", "data.root=/there"])
    assert changed.train.epochs == 30
    assert changed.all_methods()[-1] == Trades(beta=3)
    assert changed.data.root == "/there"
    small = {key: GOOD[key] for key in ("name", "data", "methods")}
    assert load_study(small, ["train.epochs=7"]).train.epochs == 7


def test_overrides_do_not_change_the_source() -> None:
    source = _good()
    load_study(source, ["train.epochs=30", "methods.0.lambda_choices=[0, 1]"])
    assert source == GOOD
    study = load_study(source)
    load_study(study, ["train.epochs=30"])
    assert study.train.epochs == 2


def test_an_unknown_preset_is_answered_with_the_nearest() -> None:
    words = ("preset 'quikstart'", "did you mean 'quickstart'", "fashion-mnist-small", ".yaml")
    assert all(word in _fault("quikstart") for word in words)


def test_files_that_are_no_studies_are_refused(tmp_path: Path) -> None:
    missing = tmp_path / "missing.yaml"
    _says(_fault(missing), (str(missing), "cannot be read"))
    _says(_fault(f"{tmp_path}/"), (str(tmp_path), "cannot be read"))
    faulty = tmp_path / "faulty.yaml"
    for text, word in [
        ("name: [", "not valid YAML"),
        ("- a\n- b\n", "mapping"),
        ("", "a mapping of keys to values, got nothing"),
        ("just words", "mapping"),
    ]:
        faulty.write_text(text)
        _says(_fault(faulty), (word,))
    faulty.write_bytes(b"\xff\xfe\x00name")
    _says(_fault(faulty), (str(faulty),))


def test_yaml_cannot_run_anything(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    attack = f"!!python/object/apply:os.mkdir ['{ran}']"
    path = tmp_path / "study.yaml"
    path.write_text(f"name: {attack}\n")
    _fault(path)
    _fault(_good(), f"name={attack}")
    assert not ran.exists()


def test_fractions_are_numbers_wherever_they_stand() -> None:
    study = load_study(
        {**_good(), "evaluate": {"attacks": [{"eps": "4/255"}, {"eps": " 1 / 4 ", "steps": 2}]}},
        ["methods.1.lam=[0, 1/2]", "train.lr=1/10"],
    )
    assert study.attack.eps == 8 / 255
    assert [attack.eps for attack in study.attacks()] == [4 / 255, 0.25]
    assert study.all_methods()[2] == PgdAt(lam=0.5)
    assert study.train.lr == 0.1


@given(top=st.integers(0, 1000), rest=st.integers(1, 1000))
def test_any_fraction_is_its_quotient(top: int, rest: int) -> None:
    study = load_study(_good(), [f"attack.eps={top}/{top + rest}"])
    assert study.attack.eps == top / (top + rest)


def test_the_attacks_of_the_evaluation_take_the_radius_of_training_unless_they_name_one() -> None:
    study = load_study(_good(), ["evaluate.attacks=[{steps: 3}, {steps: 4, eps: 0.5}]"])
    assert [attack.eps for attack in study.attacks()] == [8 / 255, 0.5]


def test_a_list_makes_one_trial_of_each_value() -> None:
    expected = [
        Oat(lambda_choices=(0.0, 0.5, 1.0)),
        PgdAt(lam=0.0),
        PgdAt(lam=1.0),
        Trades(beta=1.0),
        Trades(beta=6.0),
    ]
    assert load_study(_good()).all_methods() == expected
    assert load_study(_good(), ["methods=[{name: pgd_at, lam: 0.3}]"]).all_methods() == [PgdAt(0.3)]
    assert load_study(_good(), ["methods=[{name: trades}]"]).all_methods() == [Trades()]


def test_a_list_of_widths_makes_a_narrow_network_of_each_value_at_each_width() -> None:
    block = (
        "methods=[{name: pgd_at, lam: [0, 1], width_mults: [0.5, 1]}, "
        "{name: trades, beta: 6, width_mults: 0.5}]"
    )
    assert load_study(_good(), [block]).all_methods() == [
        PgdAt(0.0, 0.5),
        PgdAt(1.0, 0.5),
        PgdAt(0.0),
        PgdAt(1.0),
        Trades(6.0, 0.5),
    ]


def test_oats_is_a_block_of_its_own_with_the_keys_of_oat() -> None:
    block = "methods=[{name: oats, width_mults: [1, 1/2], encoding: dct, head_per_width: true}]"
    (method,) = load_study(_good(), [block]).all_methods()
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
    _says(_fault(_good(), *overrides), words)


def test_values_that_only_look_the_same_are_no_duplicates() -> None:
    study = load_study(_good(), ["methods.1.lam=[0.12345671, 0.12345672]"])
    assert len(study.all_methods()) == 5


def test_one_batch_norm_serves_a_lam_that_was_not_trained() -> None:
    block = "methods.0={name: oat, lambda_choices: [0.1, 1], encoding: continuous, dual_bn: false}"
    assert load_study(_good(), [block, "evaluate.lams=[0, 1]"]).lams() == (0.0, 1.0)


def test_conditional_networks_are_judged_at_all_their_choices_unless_told() -> None:
    assert load_study(_good()).lams() == (0.0, 0.5, 1.0)
    assert load_study(_good(), ["evaluate.lams=[1, 0]"]).lams() == (0.0, 1.0)


def test_a_network_with_a_table_of_codes_is_not_judged_between_its_choices() -> None:
    said = _fault(_good(), "evaluate.lams=[0, 0.25]", "methods.0.encoding=onehot")
    _says(said, ("`evaluate.lams`", "lambda_choices", "onehot", "got 0.25"))
    for encoding in ("none", "continuous"):
        override = f"methods.0.encoding={encoding}"
        free = load_study(_good(), ["evaluate.lams=[0, 0.25]", override])
        assert free.lams() == (0.0, 0.25)


@pytest.mark.parametrize("gpu", [0, 1e-4, 0.2, 0.3, 1 / 7, 0.99, 1, 2])
def test_any_share_of_a_gpu_may_be_asked_for(gpu: float) -> None:
    assert load_study(_good(), [f"resources.gpu={gpu!r}"]).resources.gpu == gpu


def test_the_share_of_a_gpu_may_be_left_to_a_measurement() -> None:
    study = load_study(_good(), ["resources.gpu=auto"])
    assert (study.resources.gpu, study.resources.share) == ("auto", 1)
    assert load_study(study.dump()) == study


def test_a_third_of_a_gpu_may_be_written_as_a_fraction() -> None:
    assert load_study(_good(), ["resources.gpu=1/3"]).resources.gpu == pytest.approx(1 / 3)
    assert load_study(_good(), ["resources.gpu=2"]).resources.gpu == 2


def _through_yaml(study: Study) -> Study:
    return load_study(yaml.safe_load(yaml.safe_dump(study.dump(), allow_unicode=True)))


@pytest.mark.parametrize("name", presets())
def test_every_preset_loads_by_its_file_name_and_comes_back_from_its_dump(
    name: str, tmp_path: Path
) -> None:
    study = load_study(name)
    assert study.name == name
    assert _through_yaml(study) == study
    keys = [trial.run_key for trial in make_plan(study, LocalFolder(tmp_path)).trials]
    again = [
        trial.run_key for trial in make_plan(_through_yaml(study), LocalFolder(tmp_path)).trials
    ]
    assert keys == again
    assert len(set(keys)) == len(keys)


@given(
    eps=st.floats(1e-6, 1),
    lr=st.floats(1e-9, 1e9),
    beta=st.floats(0, 1e30),
    lams=st.lists(st.integers(0, 999).map(lambda n: n / 999), min_size=1, max_size=5, unique=True),
    seeds=st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=3, unique=True),
)
def test_any_study_comes_back_from_its_dump(
    eps: float, lr: float, beta: float, lams: list[float], seeds: list[int]
) -> None:
    methods = [
        {"name": "oat", "lambda_choices": lams, "encoding": "dct", "dual_bn": False},
        {"name": "trades", "beta": [beta]},
    ]
    study = load_study(
        {**_good(), "methods": methods, "seeds": seeds, "attack": {"eps": eps}, "train": {"lr": lr}}
    )
    assert _through_yaml(study) == study


def test_quickstart_is_the_study_of_the_readme() -> None:
    study = load_study("quickstart")
    lams = (0.0, 0.1, 0.2, 0.3, 0.4, 1.0)
    methods = study.all_methods()
    assert methods[0] == Oat(lambda_choices=lams)
    assert [m.lam for m in methods if isinstance(m, PgdAt)] == list(lams)
    assert [m.beta for m in methods if isinstance(m, Trades)] == [1, 6]
    assert (study.data.name, study.attack.eps) == ("digits", 0.2)
    assert [attack.label for attack in study.attacks()] == ["pgd20"]


PAPER = (0.0, 0.1, 0.2, 0.3, 0.4, 1.0)


@pytest.mark.parametrize(
    ("name", "network", "dropout"),
    [
        ("cifar10", "resnet34", 0.0),
        ("svhn", "wrn-16-8", 0.3),
        ("stl10", "wrn-40-2", 0.3),
        ("cifar10-fast", "resnet18", 0.0),
        ("svhn-fast", "wrn-16-4", 0.3),
        ("stl10-fast", "wrn-40-2", 0.3),
    ],
)
def test_studies_of_the_paper_have_its_methods_networks_and_attack(
    name: str, network: str, dropout: float
) -> None:
    study = load_study(name)
    assert study.data.name == name.removesuffix("-fast")
    assert (study.model.name, study.model.dropout) == (network, dropout)
    assert study.all_methods() == [
        Oat(lambda_choices=PAPER),
        Oats(lambda_choices=PAPER, width_mults=(0.5, 0.75, 1.0)),
        *[PgdAt(lam) for lam in PAPER],
        *[Trades(beta) for beta in (1.0, 3.0, 6.0)],
    ]
    assert study.seeds == ((0,) if name.endswith("-fast") else (0, 1, 2))
    assert (study.attack.eps, study.attack.steps) == (8 / 255, 7)
    assert study.attack.step == pytest.approx(10 / 255 / 7)
    assert study.train.batch_size == (64 if "stl10" in name else 128)
    assert (study.train.momentum, study.train.weight_decay) == (0.9, 5e-4)
    if not name.endswith("-fast"):
        assert study.train.schedule == "cosine"
        assert set(study.evaluate.checkpoints) == set(study.train.rules())


def test_splits_of_the_paper_hold_out_as_many_images_as_it_does() -> None:
    assert round(50_000 * load_study("cifar10").data.val_fraction) == 5_000
    assert round(73_257 * load_study("svhn").data.val_fraction) == 5_000
    assert round(5_000 * load_study("stl10").data.val_fraction) == 500


def test_ablations_change_what_they_are_named_after_and_nothing_else() -> None:
    blocks = {name: load_study(f"ablation-{name}").all_methods() for name in ABLATIONS}
    assert [m.dual_bn for m in blocks["dual-bn"] if isinstance(m, Oat)] == [True, False]
    assert {m.encoding for m in blocks["encoding"] if isinstance(m, Oat)} == set(ENCODINGS)
    for name, keys in ABLATIONS.items():
        for method in blocks[name]:
            changed = {
                field.name
                for field in fields(method)  # type: ignore[arg-type]
                if getattr(method, field.name) != field.default
            }
            assert changed <= keys


ABLATIONS = {
    "dual-bn": {"dual_bn"},
    "encoding": {"encoding"},
    "lambda-set": {"encoding", "lambda_choices", "lambda_sampling"},
}


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
    source: Any = _good()
    block = source
    *parents, last = place.split(".")
    for key in parents:
        block = block[int(key) if isinstance(block, list) else key]
    block[int(last) if isinstance(block, list) else last] = junk
    with suppress(StudyError):
        load_study(source)


def _attacks(*blocks: str) -> str:
    return f"evaluate.attacks=[{', '.join(blocks)}]"


def test_every_attack_has_a_block_of_its_own_with_the_keys_of_its_config() -> None:
    study = load_study(
        _good(),
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
    assert _through_yaml(study) == study


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
    _says(_fault(_good(), _attacks(*blocks)), ("`", "attacks", "named '", "keep one"))


def test_attacks_that_differ_in_what_their_names_tell_are_two() -> None:
    blocks = ("{steps: 20}", "{steps: 20, step_size: 0.01}", "{steps: 20, loss: cw}")
    study = load_study(_good(), [_attacks(*blocks, "{steps: 20, eps: 0.05}", "{name: fgsm}")])
    labels = [study.label_of(attack) for attack in study.attacks()]
    assert labels == ["pgd20", "pgd20-step0.01", "pgd20-cw", "pgd20@0.05", "fgsm"]


@pytest.mark.parametrize(
    ("methods", "count"),
    [
        ("[{name: oat, lambda_choices: [0, 1]}]", 0),
        ("[{name: oat, lambda_choices: [0, 1]}, {name: pgd_at, lam: 1}]", 1),
        ("[{name: trades, beta: 6}]", 1),
    ],
)
def test_transfer_needs_another_dedicated_model(methods: str, count: int) -> None:
    said = _fault(_good(), f"methods={methods}", _attacks("{name: transfer}"))
    _says(said, ("'transfer'", "at least two dedicated models", f"got {count}"))
    # seeds are not other models: each is attacked from those of its own
    said = _fault(_good(), f"methods={methods}", _attacks("{name: transfer}"), "seeds=[0, 1]")
    _says(said, ("'transfer'", f"got {count}"))


def test_two_dedicated_models_are_enough_for_transfer() -> None:
    methods = "methods=[{name: pgd_at, lam: [1]}, {name: trades, beta: 6}]"
    (attack,) = load_study(_good(), [methods, _attacks("{name: transfer}")]).attacks()
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
