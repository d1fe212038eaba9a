"""Every key of the study file is known with its meaning, from the docstrings alone."""

from collections.abc import Iterator

import pytest

from oat.data import DATA_SETS, DataConfig
from studies.study_file.attack_blocks import ATTACK_BLOCKS
from studies.study_file.evaluate_block import Evaluate
from studies.study_file.keys import REQUIRED, Key, keys_of, name_of, summary
from studies.study_file.method_blocks import METHOD_BLOCKS
from studies.study_file.study import Study


def _blocks(block: type, seen: set[type]) -> Iterator[type]:
    """Yield a block and all that are below it."""
    if block in seen:
        return
    seen.add(block)
    yield block
    for key in keys_of(block):
        for below in [*key.entries.values(), *([key.block] if key.block else [])]:
            yield from _blocks(below, seen)


BLOCKS = list(_blocks(Study, set()))
PGD, TRANSFER = ATTACK_BLOCKS["pgd"], ATTACK_BLOCKS["transfer"]


def _key(block: type, name: str) -> Key:
    return next(key for key in keys_of(block) if key.name == name)


def test_all_blocks_are_reached_from_the_study() -> None:
    assert {*METHOD_BLOCKS.values(), *ATTACK_BLOCKS.values(), DataConfig, Evaluate} <= set(BLOCKS)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)
def test_every_key_is_described_in_words_of_the_study_file(block: type) -> None:
    assert summary(block)
    for key in keys_of(block):
        assert key.text, f"{block.__name__}.{key.name} needs a line under `Attributes:`"
        assert key.text.endswith("."), key
        assert "``" not in key.text
        assert "None" not in key.text
        assert "\n" not in key.text


def test_a_key_has_its_kind_its_default_and_its_meaning() -> None:
    assert _key(Evaluate, "lams").default is None
    assert _key(DataConfig, "name").default is REQUIRED
    assert _key(DataConfig, "name").text.startswith(f"One of {', '.join(DATA_SETS)}, or a function")
    assert _key(PGD, "loss").choices == ("ce", "cw", "dlr")
    assert _key(Evaluate, "checkpoints").choices == ("last", "averaged", "chosen")
    assert _key(Study, "train").block is not None
    assert _key(Study, "methods").entries == METHOD_BLOCKS
    assert _key(Evaluate, "attacks").entries == ATTACK_BLOCKS
    assert _key(Evaluate, "images").entries == {}


def test_what_a_class_inherits_is_described_where_it_is_defined() -> None:
    assert _key(TRANSFER, "steps").text == _key(PGD, "steps").text != ""
    assert _key(TRANSFER, "eps").text == _key(PGD, "eps").text != ""
    oat, oats = METHOD_BLOCKS["oat"], METHOD_BLOCKS["oats"]
    assert _key(oats, "encoding").text == _key(oat, "encoding").text != ""


def test_a_key_whose_list_makes_several_trials_says_so() -> None:
    for name in ("lam", "width_mults"):
        assert "one trial of each value" in _key(METHOD_BLOCKS["pgd_at"], name).text
    assert "trial of each" not in _key(METHOD_BLOCKS["oats"], "width_mults").text
    for block in ATTACK_BLOCKS.values():
        assert _key(block, "eps").text.endswith("A list makes one attack of each value.")


def test_a_block_of_a_list_is_told_by_its_name() -> None:
    assert {name_of(block) for block in ATTACK_BLOCKS.values()} == set(ATTACK_BLOCKS)
    assert name_of(DataConfig) == name_of(Study) == ""
    assert keys_of(PGD)[0].name == keys_of(METHOD_BLOCKS["oats"])[0].name == "name"
