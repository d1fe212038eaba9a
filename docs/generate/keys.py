"""The page of every key of the study file."""

import copy
import re
import types
from collections.abc import Iterable, Iterator
from typing import Any, Literal, Union, get_args, get_origin

from docs.generate.markdown import BY_MACHINE, cell, table
from studies.errors import StudyError
from studies.study_file.commented import written
from studies.study_file.keys import REQUIRED, Key, keys_of, summary
from studies.study_file.loading import load_study
from studies.study_file.study import Study
from studies.study_file.tune_block import Dimension

EXAMPLE: dict[str, Any] = {
    "name": "example",
    "data": {"name": "digits"},
    "train": {"ema": 0.9},
    "methods": [
        {"name": "oat"},
        {"name": "oats"},
        {"name": "pgd_at", "lam": [0, 1]},
        {"name": "trades"},
        {"name": "mix", "of": ["pgd_at λ=0", "pgd_at λ=1"]},
        {"name": "interpolate", "of": ["pgd_at λ=0", "pgd_at λ=1"]},
        # a file that is there, whatever it holds: it is read in a run alone
        {"name": "checkpoint", "path": __file__, "model": {"name": "resnet8"}},
    ],
    "evaluate": {
        "attacks": [{"name": name} for name in ("pgd", "fgsm", "autoattack", "square", "transfer")]
    },
    "tune": {"budget": "1h", "early_stopping": {"slack": 0.1}, "space": {}},
}
"""A study with one entry of each kind, in which values are tried; a new kind needs one here."""

Path = tuple[str | int, ...]
"""Keys and places in lists that lead to a block."""

FAR = (-1e9, 1e9)
"""Numbers that every range leaves out, unless it is open on that side."""

ASKED = re.compile(r"must be (.+?)(?: pixel units)?(?:, got|; |$)")
TELLS_NO_RANGE = re.compile(r"must be (a valid|a list|'|null|left out|a block|a time|text)")
ASIDE = re.compile(r" \([^()]*[a-z][^()]*\)| \(\d+\)|`auto` or | or 'auto'")
"""What a refusal says beside the range."""
WORDS = {
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "a finite number above": "above",
    "a finite number of at least": "at least",
    "shares of the training in": "each in",
}
SORTS = {int: "whole number", float: "number", bool: "true or false", str: "text"}
PLURALS = {"whole number": "whole numbers", "number": "numbers", "any value": "values"}


def keys_page() -> str:
    """Write the page of every key of the study file."""
    parts = [
        BY_MACHINE + "# Every key of the study file\n",
        "What each key means, what it may be, and what it is if it is left out. `oat init` writes "
        "the same into a file, `oat schema` for an editor. `oat validate` checks the ranges, and "
        "what depends on several keys. [The study file](../study-file.md) explains how the keys go "
        "together.\n",
        "## The file\n",
        _keys_table(keys_of(Study), ()),
    ]
    for key in keys_of(Study):
        parts += _section(key, (key.name,), 2)
    parts += [
        "### One value of `tune.space`\n",
        f"{summary(Dimension)}\n",
        _keys_table(keys_of(Dimension), None),
    ]
    return "\n".join(parts)


def _section(key: Key, path: Path, level: int) -> Iterator[str]:
    """Yield the sections about what a key holds, if that is a block or a list of blocks."""
    if not key.entries and key.block is None:
        return
    title = ".".join(part for part in path if isinstance(part, str))
    yield f"{'#' * level} `{title}`\n"
    if key.entries:
        yield f"{key.text}\n"
        yield from _entries(key, path, level + 1)
    elif key.block is not None:
        yield f"{cell(summary(key.block))}\n"
        yield _keys_table(keys_of(key.block), path)
        for one in keys_of(key.block):
            yield from _section(one, (*path, one.name), level + 1)


def _entries(key: Key, path: Path, level: int) -> Iterator[str]:
    """Yield a section about each block that a list may hold; a key is explained once."""
    said: dict[str, str] = {}
    for name, block in key.entries.items():
        entry = (*path, _place(path, name))
        keys = [one for one in keys_of(block) if one.name != "name"]
        own = [one for one in keys if said.get(one.name) != _what(one)]
        told = [f"`{one.name}`" for one in keys if one not in own]
        said |= {one.name: _what(one) for one in keys}
        yield f"{'#' * level} `{name}`\n"
        yield f"{cell(summary(block))}\n"
        if own:
            yield _keys_table(own, entry)
        if told:
            yield f"{'Also' if own else 'Its keys'}, as above: {', '.join(told)}.\n"
        for one in own:
            if one.name not in Study.model_fields:  # which has a section of its own
                yield from _section(one, (*entry, one.name), level + 1)


def _place(path: Path, name: str) -> int:
    """Return which entry of the example's list has a name."""
    entries: Any = EXAMPLE
    for part in path:
        entries = entries[part]
    return [entry["name"] for entry in entries].index(name)


def _what(key: Key) -> str:
    return f"{key.text} {key.default}"


def _keys_table(keys: Iterable[Key], path: Path | None) -> str:
    rows = [
        (f"`{key.name}`", _default(key), _values(key, path), key.text or "See below.")
        for key in keys
    ]
    return table(("key", "default", "may be", "meaning"), rows)


def _default(key: Key) -> str:
    if key.default is REQUIRED:
        return "required"
    if key.block is not None or key.entries:
        return "none" if key.default is None else "see below"
    return f"`{written(key.default)}`"


def _values(key: Key, path: Path | None) -> str:
    """Say what a key may be: its sorts by the annotation, its range as a refusal names it."""
    if key.entries or key.block is not None:
        what = "a list of blocks" if key.entries else "a block"
        return f"{what}, see [`{key.name}`]({_link(key, path)})"
    sorts = list(dict.fromkeys(_sorts(key.kind)))
    ranges = [] if path is None else _ranges(key, path)
    or_null = [] if "null" not in sorts else ["or null"]
    return ", ".join([" or ".join(one for one in sorts if one != "null"), *ranges, *or_null])


def _link(key: Key, path: Path | None) -> str:
    """Return the anchor of the section about a key's block."""
    before = [part for part in path or () if isinstance(part, str)]
    deeper = before and not (before[0] == "methods" and key.name in Study.model_fields)
    return "#" + "".join([*before, key.name] if deeper else [key.name])


def _sorts(kind: Any) -> Iterator[str]:
    """Yield what a value may be, in words."""
    origin: Any = get_origin(kind)
    args = get_args(kind)
    if origin is Literal:
        yield ", ".join(f"`{written(value)}`" for value in args)
    elif origin in {Union, types.UnionType}:
        for one in sorted(args, key=_last):
            yield from _sorts(one)
    elif origin in {tuple, list}:
        inner = " or ".join(dict.fromkeys(_sorts(args[0])))
        yield f"list of {PLURALS.get(inner, inner)}"
    elif hasattr(kind, "__metadata__"):
        yield from _sorts(args[0])
    elif origin is dict:
        yield "blocks by name"
    else:
        yield "null" if kind is type(None) else SORTS.get(kind, "any value")


def _last(kind: Any) -> tuple[bool, bool]:
    """Order the members of a union: words after numbers, null at the end."""
    origin: Any = get_origin(kind)
    return kind is type(None), origin is Literal


def _ranges(key: Key, path: Path) -> list[str]:
    """Return the ranges that refusals name when far numbers are tried."""
    found: dict[str, None] = {}
    for number in FAR:
        for value in (number, [number]):
            said = _refusal((*path, key.name), value)
            asked = ASKED.search(said)
            if asked is None or TELLS_NO_RANGE.search(said):
                continue
            text = ASIDE.sub("", asked[1])
            for long, short in WORDS.items():
                text = text.replace(long, short)
            found.setdefault(text)
    return list(found)


def _refusal(path: Path, value: Any) -> str:
    """Return the sentence by which a study with one value changed is refused, or nothing."""
    study = copy.deepcopy(EXAMPLE)
    block: Any = study
    for part in path[:-1]:
        block = block[part] if isinstance(part, int) else block.setdefault(part, {})
    if not isinstance(block, dict):
        return ""
    block[path[-1]] = value
    try:
        load_study(study)
    except StudyError as error:
        name = str(path[-1]).removesuffix("s")  # a list is refused by the name of its values
        lines = [line for line in str(error).splitlines() if re.search(rf"{name}s?`", line)]
        return lines[0] if lines else ""
    return ""
