from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baselines import PgdAt, Trades
from oat.encodings import ENCODINGS
from oat.method import Oat, Oats
from studies.planning.expand import make_plan
from studies.storage.local import LocalFolder
from studies.study_file.loading import load_study, presets
from tests.studies.study_file.faulty import good_study, through_yaml_of


@pytest.mark.parametrize("name", presets())
def test_every_preset_loads_by_its_file_name_and_comes_back_from_its_dump(
    name: str, tmp_path: Path
) -> None:
    study = load_study(name)
    assert study.name == name
    assert through_yaml_of(study) == study
    keys = [trial.run_key for trial in make_plan(study, LocalFolder(tmp_path)).trials]
    again = [
        trial.run_key for trial in make_plan(through_yaml_of(study), LocalFolder(tmp_path)).trials
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
        {
            **good_study(),
            "methods": methods,
            "seeds": seeds,
            "attack": {"eps": eps},
            "train": {"lr": lr},
        }
    )
    assert through_yaml_of(study) == study


def test_quickstart_is_the_study_of_the_readme() -> None:
    study = load_study("quickstart")
    lams = (0.0, 0.1, 0.2, 0.3, 0.4, 1.0)
    methods = study.all_methods()
    assert methods[0] == Oat(lambda_choices=lams, encoding_dim=6, zero_share=0.4)
    assert [m.lam for m in methods if isinstance(m, PgdAt)] == list(lams)
    assert [m.beta for m in methods if isinstance(m, Trades)] == [1, 6]
    assert (study.data.name, study.attack.eps) == ("digits", 0.12)
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
