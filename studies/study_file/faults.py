"""What pydantic finds wrong with a study, as sentences."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from oat.names import Faults, unknown
from studies.errors import StudyError
from studies.naming import one_line
from studies.study_file.plain_yaml import write_yaml

Path = tuple[str | int, ...]
MISSING = {"missing", "missing_argument"}
"""Pydantic's names of the fault that a key is not there."""

Model = TypeVar("Model", bound=BaseModel)


def explain(
    model: type[Model],
    data: Mapping[str, Any],
    known_keys: Callable[[Sequence[str | int], Any], list[str]],
) -> Model:
    """Validate, turning what is wrong into sentences.

    Args:
        model: The schema.
        data: What the user wrote.
        known_keys: The keys that the block at a path may have.

    Raises:
        StudyError: One line for each fault: path of the key, what it must be, what came.
    """
    try:
        checked = model.model_validate(data)
    except ValidationError as error:
        faults: dict[Path, list[Any]] = {}
        for fault in error.errors():
            missing = fault["type"] in MISSING
            faults.setdefault(_real_path(fault["loc"], data, missing), []).append(fault)
        lines = [
            one_line(sentence)
            for path, found in faults.items()
            # of what may be a number or a list, a list is told by its faulty values alone
            if not any(path == other[: len(path)] for other in faults if len(other) > len(path))
            for sentence in _sentences(path, found, data, known_keys)
        ]
        raise StudyError("\n".join(lines)) from None
    if mistaken := list(_mistaken(data, checked.model_dump(), ())):
        raise StudyError("\n".join(mistaken))
    return checked


def _mistaken(came: Any, taken: Any, path: Path) -> Iterator[str]:
    """Yield a sentence for each truth value that pydantic has taken for the number 0 or 1."""
    if isinstance(came, bool) and not isinstance(taken, bool):
        yield f"`{_dotted(path)}` must be a number, got {came!r}."
    elif isinstance(came, Mapping) and isinstance(taken, Mapping):
        for key in (key for key in came if key in taken):
            yield from _mistaken(came[key], taken[key], (*path, key))
    elif isinstance(came, list | tuple) and isinstance(taken, list | tuple):
        for i, (one, other) in enumerate(zip(came, taken, strict=False)):
            yield from _mistaken(one, other, (*path, i))


def _real_path(loc: Path, data: Any, missing: bool) -> Path:
    """Drop from pydantic's location what names a type and not a place in the data."""
    path: list[str | int] = []
    for part in loc:
        is_key = isinstance(data, Mapping) and part in data
        is_index = isinstance(data, list | tuple) and isinstance(part, int) and part < len(data)
        is_missing_key = missing and part == loc[-1] and isinstance(data, Mapping)
        if is_key or is_index or is_missing_key:
            path.append(part)
            data = None if is_missing_key and not is_key else data[part]
    return tuple(path)


def _dotted(path: Path) -> str:
    return ".".join(str(part) for part in path)


def _sentences(
    path: Path,
    faults: Sequence[Any],
    data: Any,
    known_keys: Callable[[Sequence[str | int], Any], list[str]],
) -> list[str]:
    """Return what is wrong at a path: of a block whose values are wrong, a sentence for each."""
    if faults[0]["type"] != "value_error":
        return [_sentence(path, faults, data, known_keys)]
    error, where = faults[0]["ctx"]["error"], _dotted(path)
    said = error.sentences if isinstance(error, Faults) else (str(error),)
    return [f"In `{where}`: {sentence}" if where else sentence for sentence in said]


def _sentence(
    path: Path,
    faults: Sequence[Any],
    data: Any,
    known_keys: Callable[[Sequence[str | int], Any], list[str]],
) -> str:
    fault = faults[0]
    where, kind = _dotted(path), fault["type"]
    if kind in {"extra_forbidden", "unexpected_keyword_argument"}:
        return unknown(
            "key", where, [_dotted((*path[:-1], k)) for k in known_keys(path[:-1], data)]
        )
    if kind == "union_tag_invalid":
        tags = [tag.strip().strip("'") for tag in fault["ctx"]["expected_tags"].split(",")]
        return f"`{where}.name`: " + unknown(_what(path), str(fault["ctx"]["tag"]), tags)
    if kind == "union_tag_not_found":
        return f"`{where}.name` is required: the name of the {_what(path)}."
    if kind == "invalid_key":
        return (
            f"`{_dotted(path[:-1])}` has the key {path[-1]!r}, which is no text; in braces a comma "
            "begins another entry, so write 1.5 for 1,5."
        )
    if kind in MISSING:
        return f"`{where}` is required."
    came = fault["input"]
    wants = " or ".join(dict.fromkeys(_wants(f) for f in faults))
    single = len(faults) == 1 and isinstance(came, str | int | float)
    cure = _cure(kind, path, came) if single else ""
    return f"`{where}` must be {wants}, got {kind_of(came)}{cure}."


def _cure(kind: str, path: Path, came: Any) -> str:
    """Say how to write a single value as what it must be."""
    if kind == "string_type":
        return "; put quotes around it"
    if kind == "tuple_type":
        entry = {"name": came} if path[-1] in NAMED else came
        return f"; write a list, such as {write_yaml([entry], in_one_line=True).strip()}"
    return ""


NAMED = ("methods", "attacks")
"""Lists of blocks that have a name."""
BLOCK = "a block of keys"
PLAIN = {
    "int_parsing_size": "a valid integer",
    "tuple_type": "a list",
    "string_type": "text",
    "dict_type": BLOCK,
    "model_type": BLOCK,
    "dataclass_type": BLOCK,
    "model_attributes_type": BLOCK,
}
"""What pydantic wants, in words of the study file where its own are Python's."""


SHOWN = 60
"""Characters that are shown of a value."""


def kind_of(value: Any) -> str:
    """Return a value for a sentence; of a list or a mapping that it is one."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    said = "nothing" if value is None else repr(value)
    return said if len(said) <= SHOWN else f"{said[:SHOWN]}…'"


def _what(path: Path) -> str:
    """Return what the entries of a list of named blocks are: a method, an attack."""
    return str(path[-2]).removesuffix("s")


def _wants(fault: Any) -> str:
    """Return what pydantic says a value should be, without how it failed to parse it."""
    if fault["type"] in PLAIN:
        return PLAIN[fault["type"]]
    said: str = fault["msg"]
    wanted = said.removeprefix("Input should be ").split(", unable")[0].split(", got")[0]
    return wanted.replace("valid tuple", "list")
