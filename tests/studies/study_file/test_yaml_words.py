"""Words in a study file mean what YAML 1.2 says, and what a person means."""

import math
from pathlib import Path

import pytest
import yaml

from studies.study_file.loading import load_study
from studies.study_file.plain_yaml import read_yaml
from studies.study_file.yaml_words import value_of
from tests.studies.study_file.faulty import fault_of, good_study, says

# from section 10.3.2 of YAML 1.2.2
WORDS = {
    "null": None, "~": None, "": None, "true": True, "True": True, "FALSE": False,
    "0": 0, "0o7": 7, "0x3A": 58, "-19": -19, "+12": 12,
    "0.": 0.0, "-0.0": -0.0, ".5": 0.5, "+12e03": 12000.0, "-2E+05": -200000.0,
    ".inf": math.inf, "-.Inf": -math.inf, "+.INF": math.inf,
}  # fmt: skip
MEANT = {"010": 10, "-010": -10, "00": 0, "089": 89, "1e-3": 1e-3, "1.": 1.0, "+.5": 0.5}
"""What YAML 1.1 takes for another number or for text."""
TEXT = [
    "1:30",
    "190:20:30",
    "yes",
    "no",
    "on",
    "off",
    "y",
    "1_000",
    "0b11",
    "2024-01-05",
    "=",
    "0o8",
]
"""What YAML 1.1 takes for something else."""


@pytest.mark.parametrize(("word", "value"), [*WORDS.items(), *MEANT.items()])
def test_a_word_is_what_yaml_1_2_says(word: str, value: object) -> None:
    read = read_yaml(f"a: {word}")["a"]
    assert read == value
    assert type(read) is type(value)
    assert yaml.safe_load(yaml.safe_dump(read)) == read  # a plain value


@pytest.mark.parametrize("word", TEXT)
def test_a_word_that_is_none_is_text(word: str) -> None:
    assert read_yaml(f"a: {word}") == {"a": word}
    assert math.isnan(read_yaml("a: .NaN")["a"])


def test_a_word_that_is_no_number_has_no_value() -> None:
    for kind, word in (("int", "1.0"), ("int", "1" * 5000), ("float", "1.0.0"), ("bool", "yes")):
        with pytest.raises(ValueError, match=rf"is no {kind}|4300 digits"):
            value_of(kind, word)


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("train.epochs=010", ("train", "epochs"), 10),
        ("train.epochs=1e2", ("train", "epochs"), 100),
        ("train.epochs=1_0", ("train", "epochs"), 10),
        ("train.epochs=0x10", ("train", "epochs"), 16),
        ("train.epochs=0o17", ("train", "epochs"), 15),
        ("train.lr=1e-3", ("train", "lr"), 1e-3),
        ("train.lr=+.5", ("train", "lr"), 0.5),
        ("seeds=[010, 08]", ("seeds",), [10, 8]),
        ("methods.0.dual_bn=no", ("methods", 0, "dual_bn"), False),
        ("methods.0.dual_bn=on", ("methods", 0, "dual_bn"), True),
        ("name=on", ("name",), "on"),
        ("name=2024-01-05", ("name",), "2024-01-05"),
    ],
)
def test_a_value_is_what_a_person_means(
    override: str, path: tuple[str, ...], value: object
) -> None:
    found = load_study(good_study(), [override]).dump()
    for key in path:
        found = found[key]
    assert found == value


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.epochs=1:30", ("`train.epochs`", "integer", "'1:30'")),
        ("train.lr=1:30", ("`train.lr`", "number", "'1:30'")),
        ("seeds=[1:30]", ("`seeds.0`", "integer", "'1:30'")),
        ("train.epochs=2024-01-05", ("`train.epochs`", "'2024-01-05'")),
        ("train.lr=~", ("`train.lr`", "number", "nothing")),
        ("train.epochs=" + "9" * 5000, ("`--set train.epochs`", "no int")),
        ("seeds=3", ("`seeds` must be a list, got 3; write a list, such as [3]",)),
        (
            "methods=oat",
            ("`methods` must be a list, got 'oat'; write a list, such as [{name: oat}]",),
        ),
        ("evaluate.checkpoints=last", ("`evaluate.checkpoints`", "such as [last]")),
        ("name=0123", ("`name` must be text, got 123; put quotes around it",)),
        ("name=1e5", ("`name` must be text, got 100000.0; put quotes around it",)),
        ("name=true", ("`name` must be text, got True; put quotes around it",)),
        ("name={a: 1}", ("`name` must be text, got a mapping.",)),
        ("data=digits", ("`data` must be a block of keys, got 'digits'",)),
        ("data.root=0123", ("`data.root` must be text", "put quotes around it")),
    ],
)
def test_a_value_that_is_not_meant_is_refused_with_the_cure(
    override: str, words: tuple[str, ...]
) -> None:
    says(fault_of(good_study(), override), words)


def test_a_name_in_quotes_is_taken_as_it_stands(tmp_path: Path) -> None:
    assert load_study(good_study(), ["name='0123'"]).name == "0123"
    study = load_study(good_study(), ["name='1e5'"])
    assert load_study(study.dump()) == study
