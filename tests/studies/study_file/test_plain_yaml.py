"""Study files are YAML of plain values, and say each thing once."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from studies.errors import StudyError
from studies.study_file.loading import load_study
from studies.study_file.plain_yaml import read_yaml, write_yaml

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(value=PLAIN)
def test_what_is_written_is_read_as_the_same_by_every_reader(value: object) -> None:
    for in_one_line in (False, True):
        text = write_yaml(value, in_one_line=in_one_line)
        assert read_yaml(text) == yaml.safe_load(text) == value


@pytest.mark.parametrize("text", ["010", "1e5", "0o17", "on", "1:30", "2024-01-05", "~", "a\xa0b"])
def test_text_that_looks_like_a_number_stays_text_for_every_reader(text: str) -> None:
    written = write_yaml({text: [text]})
    assert read_yaml(written) == yaml.safe_load(written) == {text: [text]}


@given(value=PLAIN)
def test_json_is_yaml(value: object) -> None:
    text = json.dumps(value, ensure_ascii=False)
    assume(not any(odd in text for odd in "\x85\u2028\u2029\x7f"))
    assume(text.isprintable())
    assert read_yaml(text) == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", "the key 'a' stands in line 1 and again in line 3"),
        ("a: {b: 1, c: 2, b: 3}", "the key 'b' stands twice in line 1"),
        ("a:\n  - b: 1\n    'b': 2\n", "the key 'b' stands in line 2 and again in line 3"),
        ("a: &x [1, *x]", "'*x' in line 1 contains itself"),
        ("a: &x\n  b: *x", "'*x' in line 2 contains itself"),
        ("[" * 5000, "nested too deeply"),
        ("a: !!python/name:os.system ''", "python/name:os.system"),
        ("a: !!timestamp 2020-01-01", "timestamp"),
        ("a: !!int abc", "found 'abc', which is no int in line 1"),
        ("a: !!bool maybe", "found 'maybe', which is no bool in line 1"),
        ("a: " + "9" * 5000, "which is no int in line 1"),
        ("a: 1\n---\nb: 2\n", "another document in line 2"),
        ("a:\n\tb: 1\n", "in line 2, column 1; use spaces"),
        ("a: 1\nb:\u00a03\nc: 4\n", "line 2 has a no-break space (U+00A0) in column 3"),
        ("a:\n  b: 1\n\u00a0 c: 1\n", "line 3 has a no-break space (U+00A0) in column 1"),
        ("a: [0,\u30001]", "ideographic space"),
        ("a: 1\u200b", "zero width space"),
        ("a: 1\nb: x\u2028c: 2\n", "line 2 has a line separator (U+2028) in column 5"),
        ("a: 1\nb: \x00", "line 2 holds the character U+0000"),
    ],
)
def test_what_is_ambiguous_or_endless_is_refused(text: str, said: str) -> None:
    with pytest.raises(yaml.YAMLError) as caught:
        read_yaml(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "unicode string" not in str(caught.value)


@pytest.mark.parametrize("merged", [False, True])
def test_a_few_lines_that_stand_for_millions_of_values_are_refused(merged: bool) -> None:
    lines = ["a0: &a0 {k: [1, 2, 3, 4, 5, 6, 7, 8, 9]}"]
    for i in range(9):
        before = ", ".join([f"*a{i}"] * 10)
        lines.append(f"a{i + 1}: &a{i + 1} {{{'<<' if merged else 'k'}: [{before}]}}")
    with pytest.raises(yaml.YAMLError, match="more than 100,000 values"):
        read_yaml("\n".join(lines))


def test_an_odd_space_may_stand_in_quotes_and_comments() -> None:
    assert read_yaml("a: 'x\u00a0y'  # a\u00a0comment\n") == {"a": "x\u00a0y"}


def test_aliases_and_merged_blocks_are_no_repetition() -> None:
    text = "a: &x {k: 1, l: 2}\nb: &y {<<: *x, k: 3}\nc: {<<: *y, l: 4}\nd: *x\n"
    assert read_yaml(text) == yaml.safe_load(text)
    assert read_yaml("a: {k: 1}\nb: {k: 1}") == {"a": {"k": 1}, "b": {"k": 1}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: a\ntrain: {epochs: 1}\ntrain: {epochs: 2}\n", ("'train'", "line 2", "line 3")),
        ("name: &x [*x]\n", ("'*x'", "contains itself")),
        ("name: &a [x]\nseeds:\u00a0*a\n", ("line 2", "no-break space", "write a plain space")),
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
    for value, said in (
        ("{name: digits, name: cifar10}", "'name' stands twice"),
        ("[", "expected"),
    ):
        with pytest.raises(StudyError, match=f"`--set data` needs a YAML value.*{said}"):
            load_study("quickstart", [f"data={value}"])
