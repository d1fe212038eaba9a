"""Read a study: a preset, a file or a mapping, with overrides; one sentence a fault."""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from importlib.resources import files
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from oat.attacks import Attack
from oat.data import DataConfig
from oat.models import ModelConfig
from oat.names import unknown
from oat.recipe import TrainConfig
from studies.errors import StudyError
from studies.naming import one_line
from studies.study_file.attack_blocks import attack_block_of
from studies.study_file.evaluate_block import PLAIN_ATTACK, Evaluate
from studies.study_file.faults import explain, kind_of
from studies.study_file.method_blocks import Resources, Settings, Start, block_of
from studies.study_file.plain_yaml import read_yaml
from studies.study_file.study import Study
from studies.study_file.tracking_block import Tracking
from studies.study_file.tune_block import tune_keys


def presets() -> dict[str, str]:
    """Return the studies that ship, and a line about each: how its file begins."""
    return {name: _headline(_text_of_preset(name)) for name in _names_of_presets()}


def _names_of_presets() -> list[str]:
    folder = files("studies") / "presets"
    return sorted(p.name[:-5] for p in folder.iterdir() if p.name.endswith(".yaml"))


def _text_of_preset(name: str) -> str:
    return (files("studies") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")


def _headline(text: str) -> str:
    """Return the first sentence of the comment at the head of a file."""
    comment = takewhile(lambda line: line.startswith("#"), text.splitlines())
    return " ".join(line[1:].strip() for line in comment).partition(". ")[0].rstrip(".") + "."


MOST_BYTES = 1_000_000
"""Size of a study file, at most: reading YAML takes seconds for each megabyte."""

Source = str | Path | Mapping[str, Any] | Study


def load_study(source: Source, overrides: Sequence[str] = ()) -> Study:
    """Read and check a study.

    Args:
        source: A preset's name, a YAML file, a mapping, or a study.
        overrides: ``path.to.key=value`` each, the value in YAML; lists are indexed by number.

    Returns:
        The study, every value checked.

    Raises:
        StudyError: The source is unknown or the study is faulty; one sentence a fault.
    """
    if isinstance(source, Study):
        data: Any = source.dump()
    elif isinstance(source, Mapping):
        data = copy.deepcopy(dict(source))
    else:
        data = _read(str(source))
    for override in overrides:
        _override(data, override)
    try:
        return explain(Study, data, _known_keys)
    except RecursionError as error:
        raise StudyError("The study is nested too deeply.") from error


def _fault(said: str) -> StudyError:
    """Make an error of a sentence that shows what the user wrote."""
    return StudyError(one_line(said))


def _read(source: str) -> dict[str, Any]:
    path = Path(source)
    if path.suffix in {".yaml", ".yml"} or "/" in source:
        text = _text_of(path)
    elif source in _names_of_presets():
        text = _text_of_preset(source)
    else:
        raise _fault(
            unknown("preset", source, _names_of_presets()) + " A file of your own ends in .yaml."
        )
    try:
        data = read_yaml(text)
    except yaml.YAMLError as error:
        raise _fault(f"The study file '{source}' is not valid YAML: {error}.") from error
    if not isinstance(data, dict):
        raise _fault(
            f"The study file '{source}' must be a mapping of keys to values, got "
            f"{kind_of(data)}; `oat init` writes one to start from."
        )
    return data


def _text_of(path: Path) -> str:
    """Read a file of text in UTF-8, whatever ends its lines."""
    try:
        if path.is_fifo() and not str(path).startswith(("/dev/", "/proc/")):
            # a shell's own pipes have someone who writes; this one might be waited for for ever
            raise _fault(f"The study file '{path}' must be a file, got a named pipe.")
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise _fault(f"The study file '{path}' cannot be read: {error.strerror}.") from error
    if len(data) > MOST_BYTES:
        raise _fault(
            f"The study file '{path}' must hold at most {MOST_BYTES:,} bytes; it holds more, so "
            "name the file of a study instead."
        )
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _fault(
            f"The study file '{path}' must be text in UTF-8, and line {line} is not; save it as "
            "UTF-8."
        ) from error


def _override(data: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise _fault(f"`--set` takes path.to.key=value, got '{override}'.")
    try:
        value = read_yaml(text)
    except yaml.YAMLError as error:
        raise _fault(f"`--set {path}` needs a YAML value, got '{text}': {error}.") from error
    *parents, last = path.split(".")
    if not all((*parents, last)):
        raise _fault(f"`--set {path}` has a `.` too many; it takes path.to.key=value.")
    target: Any = data
    try:
        for key in parents:
            target = target[int(key)] if isinstance(target, list) else target.setdefault(key, {})
        target[int(last) if isinstance(target, list) else last] = value
    except (ValueError, IndexError, TypeError, AttributeError) as error:
        raise _fault(f"`--set {path}`: there is no such place in the study.") from error


def _known_keys(path: Sequence[str | int], data: Any) -> list[str]:
    """Return the keys that the block at a path may have."""
    match path:
        case []:
            return list(Study.model_fields)
        case ["resources"] | ["methods", int(), "resources"]:
            return list(Resources.model_fields)
        case ["tracking"]:
            return list(Tracking.model_fields)
        case ["methods", int(), "train"]:
            return list(Settings.model_fields)
        case ["methods", int(), "start"]:
            return list(Start.model_fields)
        case ["tune", *inner]:
            return tune_keys(inner)
        case ["methods", int(i), *_]:
            return list(block_of(data["methods"][i]["name"]).model_fields)
        case ["evaluate"]:
            return list(Evaluate.model_fields)
        case ["evaluate", "attacks", int(i), *_]:
            name = data["evaluate"]["attacks"][i].get("name", PLAIN_ATTACK)
            return list(attack_block_of(name).model_fields)
    blocks: dict[Any, Any] = {
        "data": DataConfig,
        "model": ModelConfig,
        "train": TrainConfig,
        "attack": Attack,
    }
    return [field.name for field in dataclasses.fields(blocks[path[0]])]


def validate(study: Source, overrides: Sequence[str] = ()) -> Study:
    """Check a study without running anything, and return it with every value filled in.

    Args:
        study: A preset's name, a YAML file, a mapping, or a study.
        overrides: ``path.to.key=value`` each.

    Raises:
        StudyError: It is faulty; a sentence for each fault.
    """
    return load_study(study, overrides)
