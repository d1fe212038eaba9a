"""The schema that editors use takes every study file that `load_study` takes."""

import copy
import json
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

import studies
from studies.errors import StudyError
from studies.study_file.json_schema import ID
from studies.study_file.loading import load_study, presets
from studies.study_file.plain_yaml import read_yaml

SCHEMA = studies.schema()
VALIDATOR = Draft202012Validator(SCHEMA)
RAW = {
    name: read_yaml((files("studies") / "presets" / f"{name}.yaml").read_text())
    for name in presets()
}


def test_it_is_a_schema_of_its_dialect_and_names_no_host() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert SCHEMA["$id"] == ID == "urn:oat-studies:study"
    rest = {key: value for key, value in SCHEMA.items() if key != "$schema"}
    assert "//" not in json.dumps(rest)


@pytest.mark.parametrize("preset", presets())
def test_every_preset_is_valid_as_it_is_written_and_as_it_is_dumped(preset: str) -> None:
    VALIDATOR.validate(RAW[preset])
    VALIDATOR.validate(load_study(preset).dump())
    VALIDATOR.validate(read_yaml(studies.init(preset)))


def _blocks(schema: Any) -> Iterator[dict[str, Any]]:
    yield schema
    yield from schema["$defs"].values()


def test_every_block_is_closed_and_every_key_described() -> None:
    for block in _blocks(SCHEMA):
        assert block["additionalProperties"] is False
        assert block["description"].endswith(".")
        for name, key in block["properties"].items():
            assert key["description"].endswith("."), name
            assert "title" not in key


def _with(*path: Any, value: Any) -> dict[str, Any]:
    """Return the quickstart study as it is written, with one value changed."""
    data = copy.deepcopy(RAW["quickstart"])
    place = data
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    return data


FAULTY = [
    (("tarin",), {}),
    (("train", "epoch"), 3),
    (("train", "epochs"), "many"),
    (("train", "epochs"), 1.5),
    (("train", "epochs"), True),
    (("train", "epochs"), None),
    (("train", "schedule"), "linear"),
    (("train",), 5),
    (("train",), None),
    (("data",), "digits"),
    (("data", "download"), "perhaps"),
    (("data", "download"), 2),
    (("attack", "eps"), "eight"),
    (("attack", "eps"), "8/"),
    (("attack", "eps"), [0.1]),
    (("attack", "step_size"), "automatic"),
    (("seeds",), 3),
    (("seeds",), [True]),
    (("methods",), "oat"),
    (("methods", 0), "oat"),
    (("methods", 0), {}),
    (("methods", 0), {"lambda_choices": [0, 1]}),
    (("methods", 0, "name"), "ota"),
    (("methods", 0, "width_mults"), [1]),
    (("methods", 0, "encoding"), "fourier"),
    (("methods", 0, "lambda_choices"), 0.5),
    (("methods", 1, "lam"), "high"),
    (("methods", 1, "lam"), {"from": 0}),
    (("methods", 1, "lam"), [0, True]),
    (("methods", 1, "resources"), {"cpu": 0}),
    (("evaluate", "attacks"), {"name": "pgd"}),
    (("evaluate", "attacks", 0), {"name": "pdg"}),
    (("evaluate", "attacks", 0), {"queries": 3}),
    (("evaluate", "attacks", 0), {"name": "square", "steps": 3}),
    (("evaluate", "checkpoints"), ["first"]),
    (("evaluate", "images"), 0),
    (("evaluate", "masking_images"), -1),
    (("resources", "cpu"), 0),
    (("resources", "gpu"), -1),
    (("resources", "gpu"), True),
    (("resources", "gpu"), "all"),
    (("resources", "device"), "tpu"),
    (("name",), 5),
]


@pytest.mark.parametrize(("path", "value"), FAULTY)
def test_a_faulty_file_is_refused_by_both(path: tuple[Any, ...], value: Any) -> None:
    data = _with(*path, value=value)
    assert not VALIDATOR.is_valid(data)
    with pytest.raises(StudyError):
        load_study(data)


@pytest.mark.parametrize("key", ["name", "data", "methods"])
def test_a_file_without_a_required_key_is_refused_by_both(key: str) -> None:
    data = {name: value for name, value in RAW["quickstart"].items() if name != key}
    assert not VALIDATOR.is_valid(data)
    with pytest.raises(StudyError):
        load_study(data)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("attack", "eps"), "8/255"),
        (("attack", "eps"), " 1 / 4 "),
        (("train", "weight_decay"), "5e-4"),  # which YAML 1.1 takes for text
        (("train", "epochs"), "30"),
        (("train", "epochs"), 30.0),
        (("methods", 0, "lambda_choices"), [0, "1/2", 1]),
        (("methods", 1, "lam"), 0.5),
        (("methods", 1, "lam"), "1/2"),
        (("methods", 1, "width_mults"), ["1/2", 1]),
        (("methods", 2, "beta"), 6),
        (("methods", 0, "dual_bn"), "off"),  # which YAML 1.2 takes for text
        (("evaluate", "attacks"), [{"steps": 3}, {"name": "transfer"}]),
        (("evaluate", "attacks", 0, "step_size"), "2/255"),
        (("resources", "gpu"), "1/3"),
        (("resources", "gpu"), "auto"),
    ],
)
def test_what_people_write_is_taken_by_both(path: tuple[Any, ...], value: Any) -> None:
    data = _with(*path, value=value)
    load_study(data)
    VALIDATOR.validate(data)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to every value below one."""
    if isinstance(value, dict | list):
        for key, below in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*path, key)
            yield from _places(below, (*path, key))


PLACES = {name: list(_places(data)) for name, data in RAW.items()}
KEYS = sorted({key for block in _blocks(SCHEMA) for key in block["properties"]})
VALUES = st.sampled_from(
    [
        None, True, False, 0, 1, 2, -1, 0.5, 1.0, 1.5, 1e9, "", "1", " 0.5", "5e-4", "8/255", "1/0",
        "inf", "nan", float("inf"), float("nan"), "yes", "off", "Y", "auto", "none", "pgd", "oat",
        "last", "digits", "wrn-10-1", [], [0], [1], ["1/2"], [[0]], [True], {}, {"name": "oat"},
        {"name": "fgsm"}, {"steps": 3}, {"cpu": "2"},
    ]
)  # fmt: skip


@settings(max_examples=600)
@given(data=st.data())
def test_what_is_loaded_is_valid_whatever_was_changed(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(RAW)))
    study = copy.deepcopy(RAW[name])
    path = data.draw(st.sampled_from(PLACES[name]))
    place = study
    for part in path[:-1]:
        place = place[part]
    change = data.draw(st.sampled_from(["put", "put", "wrap", "first", "add", "drop"]))
    old = place[path[-1]]
    match change:
        case "put":
            place[path[-1]] = data.draw(VALUES)
        case "wrap":
            place[path[-1]] = [old]
        case "first" if isinstance(old, list) and old:
            place[path[-1]] = old[0]
        case "add" if isinstance(old, dict):
            old[data.draw(st.sampled_from(KEYS))] = data.draw(VALUES)
        case "drop":
            del place[path[-1]]
    try:
        load_study(study)
    except StudyError:
        return
    VALIDATOR.validate(study)
