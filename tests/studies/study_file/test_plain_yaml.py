"""Study files are YAML of plain values, and say each thing once."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from studies.errors import StudyError
from studies.study_file.loading import load_study
from studies.study_file.plain_yaml import read_yaml

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(value=PLAIN)
def test_what_yaml_writes_is_read_as_its_own_reader_does(value: object) -> None:
    text = yaml.safe_dump(value)
    assert read_yaml(text) == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", "the key 'a' stands in line 1 and again in line 3"),
        ("a: {b: 1, c: 2, b: 3}", "the key 'b' stands twice in line 1"),
        ("a:\n  - b: 1\n    'b': 2\n", "the key 'b' stands in line 2 and again in line 3"),
        ("a: &x [1, *x]", "'*x' in line 1 contains itself"),
        ("a: &x\n  b: *x", "'*x' in line 2 contains itself"),
        ("[" * 5000, "nested too deeply"),
        ("a: 2020-13-45", "put quotes around what is text"),
        ("a: !!python/name:os.system ''", "python/name:os.system"),
    ],
)
def test_what_is_ambiguous_or_endless_is_refused(text: str, said: str) -> None:
    with pytest.raises(yaml.YAMLError) as caught:
        read_yaml(text)
    assert said in str(caught.value)


def test_aliases_and_merged_blocks_are_no_repetition() -> None:
    text = "a: &x {k: 1, l: 2}\nb: &y {<<: *x, k: 3}\nc: {<<: *y, l: 4}\nd: *x\n"
    assert read_yaml(text) == yaml.safe_load(text)
    assert read_yaml("a: {k: 1}\nb: {k: 1}") == {"a": {"k": 1}, "b": {"k": 1}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: a\ntrain: {epochs: 1}\ntrain: {epochs: 2}\n", ("'train'", "line 2", "line 3")),
        ("name: &x [*x]\n", ("'*x'", "contains itself")),
        ("name: 2020-13-45\n", ("month", "quotes")),
        ("\x00", ("not valid YAML",)),
    ],
)
def test_a_study_file_that_is_refused_gets_one_sentence(
    text: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(StudyError) as caught:
        load_study(path)
    said = str(caught.value)
    assert said.startswith(f"The study file '{path}' is not valid YAML: ")
    assert said.endswith(".")
    assert "\n" not in said
    assert all(word in said for word in words)


def test_an_override_is_read_in_the_same_way() -> None:
    for value in ("{name: digits, name: cifar10}", "2020-13-45"):
        with pytest.raises(StudyError, match="`--set data` needs a YAML value"):
            load_study("quickstart", [f"data={value}"])
