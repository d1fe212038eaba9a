"""A commented study file loads as the study that it was written from, line by line."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import studies
from oat.paths import local_path
from studies.errors import StudyError
from studies.study_file.attack_blocks import ATTACK_BLOCKS
from studies.study_file.commented import commented_file, written
from studies.study_file.keys import REQUIRED, keys_of
from studies.study_file.loading import load_study, presets
from studies.study_file.method_blocks import METHOD_BLOCKS
from studies.study_file.plain_yaml import read_yaml
from studies.study_file.study import Study

SETTING = re.compile(r"( *)#(\S.*)")
"""A line that is commented out; what is said has a space behind its #."""


def _load(text: str) -> Study:
    return load_study(read_yaml(text))


def _own(preset: str) -> Study:
    """Return a preset under the name that a file of one's own has, which shares no results."""
    study = load_study(preset)
    return study.model_copy(update={"name": f"my-{study.name}"})


def _uncommented(text: str) -> Iterator[tuple[str, str]]:
    """Yield each line that is commented out, and the text with it in force and no other comment."""
    lines = text.split("\n")
    for i, line in enumerate(lines):
        if match := SETTING.fullmatch(line):
            before, after = map(_in_force, (lines[:i], lines[i + 1 :]))
            yield line, "\n".join([*before, match[1] + match[2], *after])


def _in_force(lines: list[str]) -> list[str]:
    return [line for line in lines if not line.lstrip().startswith("#")]


@pytest.mark.parametrize("preset", presets())
def test_what_is_written_is_the_study_of_the_preset(preset: str) -> None:
    text = studies.init(preset)
    assert _load(text) == _own(preset)
    assert text == commented_file(_load(text))
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    for line in text.splitlines():
        assert line == line.rstrip()
        assert len(line) <= 100


@pytest.mark.parametrize("preset", presets())
def test_taking_one_comment_away_changes_nothing_or_adds_what_the_line_says(preset: str) -> None:
    study = _own(preset)
    keys_seen = examples = 0
    for line, text in _uncommented(studies.init(preset)):
        changed = _load(text)
        if not line.lstrip().startswith("#- "):
            assert changed == study, line
            keys_seen += 1
            continue
        name = re.search(r"name: (\w+)", line)
        assert name is not None
        examples += 1
        if changed.methods != study.methods:
            assert changed.methods[:-1] == study.methods
            block, added = METHOD_BLOCKS[name[1]], changed.methods[-1]
            asked = [key.name for key in keys_of(block) if key.default is REQUIRED]
            assert added == block(**{key: getattr(added, key) for key in asked})
            assert changed.model_copy(update={"methods": study.methods}) == study
        else:
            before, now = study.evaluate, changed.evaluate
            assert now.attacks == (*before.attacks, ATTACK_BLOCKS[name[1]]())
            assert now.model_copy(update={"attacks": before.attacks}) == before
    assert keys_seen > 20
    assert examples > 2


@pytest.mark.parametrize("preset", presets())
def test_every_key_method_and_attack_is_there(preset: str) -> None:
    text, study = studies.init(preset), _own(preset)
    for name in (*METHOD_BLOCKS, *ATTACK_BLOCKS):
        assert re.search(rf"- {{?name: {name}\b", text), name
    blocks: list[Any] = [study, study.data, study.model, study.train, study.attack]
    blocks += [study.evaluate, study.resources, *study.methods, *study.evaluate.attacks]
    for block in blocks:
        for key in keys_of(type(block)):
            assert re.search(rf"^[ #]*(- )?{key.name}:", text, re.MULTILINE), key.name


def test_a_file_of_ones_own_has_a_name_of_its_own() -> None:
    assert _load(studies.init()).name == "my-quickstart"
    assert _load(studies.init("cifar10-fast", name="mine")).name == "mine"
    mine = load_study({**load_study("quickstart").dump(), "name": "mine"})
    assert _load(studies.init(mine)) == mine
    with pytest.raises(StudyError, match="`name` must be 1 to 64"):
        studies.init(name="A B")


def test_what_a_key_is_stands_beside_it_and_is_not_repeated() -> None:
    text = studies.init("quickstart")
    assert "One of none, onehot, dct, random, continuous." in " ".join(
        text.replace("#", "").split()
    )
    assert re.search(r"^  #val_fraction: 0.1 +# Share of the training images held out", text, re.M)
    twice = studies.init("ablation-lambda-set")
    assert twice.count("How λ becomes a vector") == 1
    assert twice.count("encoding: continuous") == 6


def test_an_example_that_does_not_fit_the_study_says_why_and_is_no_setting() -> None:
    text = studies.init("ablation-lambda-set")
    said = " ".join(re.sub(r"\n +#", " ", text).split())
    assert "# - {name: transfer}" in text
    assert "Not as this study stands: `evaluate.attacks` 'transfer' needs at least two" in said
    assert "# - {name: oats, width_mults:" in text
    assert "`evaluate.lams` must be among the `lambda_choices` of oats" in said


def test_a_block_that_is_all_at_its_default_keeps_one_key_in_force() -> None:
    study = load_study(
        {"name": "a", "data": {"name": "digits"}, "methods": [{"name": "oat", "resources": {}}]}
    )
    text = commented_file(study)
    assert _load(text) == study
    assert re.search(r"^attack:\n  eps: 8/255 ", text, re.M)
    assert re.search(r"^      cpu: 1 ", text, re.M)
    for line, changed in _uncommented(text):
        assert line.lstrip().startswith("#- ") or _load(changed) == study, line


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (8 / 255, "8/255"),
        (4 / 255, "4/255"),
        (0.2, "0.2"),  # which is 51/255 as well
        (1 / 3, "1/3"),
        (5e-4, "0.0005"),
        (1e-5, "1.0e-05"),
        (1.0, "1"),
        (0.123456789, "0.123456789"),
        ((0.0, 0.5, 1.0), "[0, 0.5, 1]"),
        ("auto", "auto"),
        ("null", "'null'"),
        ("a, b", "'a, b'"),
        ("", "''"),
        (None, "null"),
        (True, "true"),
        ({"gpu": 0.25}, "{gpu: 0.25}"),
        (ATTACK_BLOCKS["pgd"](restarts=3), "{name: pgd, restarts: 3}"),
    ],
)
def test_values_are_written_as_people_do(value: object, text: str) -> None:
    assert written(value) == text


@given(value=st.floats(0, 1, exclude_max=True) | st.integers(1, 254).map(lambda k: k / 255))
def test_a_number_that_was_written_is_read_as_the_same(value: float) -> None:
    data = {"name": "a", "data": {"name": "digits"}, "methods": [{"name": "oat"}]}
    study = load_study({**data, "attack": {"eps": value}})
    assert _load(commented_file(study)) == study


def _names_a_folder(text: str) -> bool:
    try:
        local_path(text)
    except ValueError:
        return False
    return True


@given(root=st.text(min_size=1).filter(_names_a_folder))
def test_a_text_that_was_written_is_read_as_the_same(root: str) -> None:
    data = {"name": "a", "data": {"name": "digits", "root": root}, "methods": [{"name": "oat"}]}
    study = load_study(data)
    assert _load(commented_file(study)) == study


LAMS = st.lists(st.sampled_from([0.0, 0.1, 1 / 3, 0.5, 1.0]), min_size=1, unique=True)


@settings(max_examples=10)
@given(
    lams=LAMS,
    dedicated=LAMS | st.sampled_from([0.0, 0.7]),
    gpu=st.sampled_from([0, 0.2, 1 / 3, 0.5, 2, "auto"]),
    own=st.booleans(),
    attacks=st.lists(st.sampled_from(list(ATTACK_BLOCKS)), min_size=1, unique=True),
    seeds=st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=3, unique=True),
)
def test_any_study_is_written_as_what_loads_the_same(
    lams: list[float],
    dedicated: list[float] | float,
    gpu: float | str,
    own: bool,
    attacks: list[str],
    seeds: list[int],
) -> None:
    data: dict[str, Any] = {
        "name": "a",
        "data": {"name": "digits"},
        "seeds": seeds,
        "methods": [
            {"name": "oat", "lambda_choices": [0, *lams] if 0 not in lams else lams},
            {"name": "pgd_at", "lam": dedicated},
            {"name": "trades", "beta": [1, 6]},
        ],
        "evaluate": {"attacks": [{"name": name} for name in attacks]},
        "resources": {"gpu": gpu},
    }
    if own:
        data["methods"][1]["resources"] = {"gpu": gpu, "cpu": 2}
    study = load_study(data)
    text = commented_file(study)
    assert _load(text) == study
    for line, changed in _uncommented(text):
        if not line.lstrip().startswith("#- "):
            assert _load(changed) == study, line


def test_an_unknown_preset_is_answered_with_the_nearest() -> None:
    with pytest.raises(StudyError, match=r"^Unknown preset 'cifar'; did you mean 'cifar10'\?"):
        studies.init("cifar")
