"""The keys of every block of the study file, and what the docstrings say of them.

A block is a dataclass or a pydantic model; nothing of it is said here again, so that a new field
with a line in its docstring is a key that `oat init` and `oat schema` know.
"""

import dataclasses
import inspect
import re
import sys
import types
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from oat.own_attack import attack_class
from oat.recipe import TrainConfig
from studies.known_methods import METHODS
from studies.study_file.attack_blocks import ATTACK_BLOCKS, RADIUS, AttackBlock
from studies.study_file.method_blocks import METHOD_BLOCKS, DedicatedBlock, OwnSettings
from studies.study_file.tune_block import SWEPT

REQUIRED: Any = dataclasses.MISSING
"""Default of a key without one, and of a name that tells blocks apart."""

SWEEPS = "A list makes one {what} of each value."


@dataclasses.dataclass(frozen=True)
class Key:
    """One key of a block.

    Attributes:
        name: As it is written.
        kind: Its annotation.
        default: What it is if it is left out; `REQUIRED` if it may not be.
        text: What it is, for people.
    """

    name: str
    kind: Any
    default: Any
    text: str

    @property
    def block(self) -> type | None:
        """The block that the key holds; None if it holds no block, or a list of them."""
        found = [kind for kind in _alternatives(self.kind) if _is_block(kind)]
        return found[0] if len(found) == 1 else None

    @property
    def entries(self) -> dict[str, type]:
        """The blocks that the key's list may hold, by their name; empty for any other key."""
        for kind in _alternatives(self.kind):
            if get_origin(kind) in {tuple, list}:
                blocks = [item for item in _alternatives(get_args(kind)[0]) if _is_block(item)]
                return {name_of(block): block for block in blocks if name_of(block)}
        return {}

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values that the key may have, if there are so many and no others."""
        kinds = _alternatives(self.kind)
        if len(kinds) == 1 and get_origin(kinds[0]) in {tuple, list}:
            kinds = _alternatives(get_args(kinds[0])[0])
        named = [kind for kind in kinds if get_origin(kind) is Literal]
        return tuple(value for kind in named for value in get_args(kind))

    def is_default(self, value: Any) -> bool:
        """Whether a value is what the key is if it is left out."""
        return self.default is not REQUIRED and bool(value == self.default)


@cache
def keys_of(block: type) -> tuple[Key, ...]:
    """Return the keys of a block in the order to be written: its name, its own, what all have."""
    shared = DedicatedBlock.model_fields if block in METHOD_BLOCKS.values() else {}
    texts = _texts(block)
    found = [
        Key(name, kind, default, texts.get(name) or _text_of_kind(kind))
        for name, kind, default in _fields(block)
    ]
    if name_of(block):  # which says what the block is
        found = [
            Key(key.name, key.kind, REQUIRED, summary(block)) if key.name == "name" else key
            for key in found
        ]
    return tuple(sorted(found, key=lambda key: (key.name != "name", key.name in shared)))


def name_of(block: type) -> str:
    """Return the name that tells a block from others in its list; empty if it has none."""
    kinds = [kind for name, kind, _ in _fields(block) if name == "name"]
    told = [get_args(kind) for kind in kinds if get_origin(kind) is Literal]
    return str(told[0][0]) if told and len(told[0]) == 1 else ""


def summary(block: type) -> str:
    """Return the first sentences of a block's docstring."""
    for source, _ in _sources(block):
        first = _own_doc(source).partition("\n\n")[0]
        if first:
            return _plain(first, source)
    return ""


def _is_block(kind: Any) -> bool:
    return isinstance(kind, type) and (
        issubclass(kind, BaseModel) or dataclasses.is_dataclass(kind)
    )


def _alternatives(kind: Any) -> list[Any]:
    """Return what a value may be: the members of unions, at any depth, without annotations."""
    origin = get_origin(kind)
    if origin is Annotated:
        return _alternatives(get_args(kind)[0])
    if origin in {Union, types.UnionType}:
        return [one for member in get_args(kind) for one in _alternatives(member)]
    return [kind]


def _fields(block: type) -> list[tuple[str, Any, Any]]:
    """Return name, annotation and default of each field."""
    if issubclass(block, BaseModel):
        return [
            (
                name,
                field.annotation,
                REQUIRED if field.is_required() else field.get_default(call_default_factory=True),
            )
            for name, field in block.model_fields.items()
        ]
    hints, found = get_type_hints(block), []
    for field in dataclasses.fields(cast(Any, block)):
        made = field.default_factory
        default = field.default if made is dataclasses.MISSING else made()
        found.append((field.name, hints[field.name], default))
    return found


def _sources(block: type) -> list[tuple[type, Mapping[str, str]]]:
    """Return the classes whose docstrings speak of a block, the closest first, with new names."""
    sources: list[tuple[type, Mapping[str, str]]] = []
    for name, made in METHOD_BLOCKS.items():
        if made is block:
            sources += [(source, SWEPT.get(name, {})) for source in METHODS[name].__mro__]
    for name, attack in ATTACK_BLOCKS.items():
        if attack is block:
            sources += [(source, {RADIUS: RADIUS}) for source in attack_class(name).__mro__]
    sources += [(source, {}) for source in block.__mro__]
    if issubclass(block, OwnSettings):
        sources.append((TrainConfig, {}))
    ours = [s for s in sources if s[0].__module__.partition(".")[0] not in {"pydantic", "abc"}]
    return [s for s in ours if s[0] is not object]


def _texts(block: type) -> dict[str, str]:
    """Return what is said of each field, by the name of its key."""
    texts: dict[str, str] = {}
    sweeps = SWEEPS.format(what="attack" if issubclass(block, AttackBlock) else "trial")
    for source, renamed in _sources(block):
        for field, said in _attributes(_own_doc(source)).items():
            text = _plain(said, source)
            key = renamed.get(field, field)
            texts.setdefault(key, f"{text} {sweeps}" if field in renamed else text)
    if issubclass(block, BaseModel):
        told = {name: field.description for name, field in block.model_fields.items()}
        texts |= {name: said for name, said in told.items() if said}
    return texts


def _text_of_kind(kind: Any) -> str:
    blocks = [one for one in _alternatives(kind) if _is_block(one)]
    return summary(blocks[0]) if blocks else ""


def _own_doc(source: type) -> str:
    """Return a class's docstring; that of another class it inherits from is none of its own."""
    return inspect.cleandoc(vars(source).get("__doc__") or "")


def _attributes(doc: str) -> dict[str, str]:
    """Parse the section ``Attributes`` of a docstring in Google's style."""
    section = re.search(r"^Attributes:\n((?:    .*\n|\n)*)", doc + "\n", re.MULTILINE)
    entries = re.findall(
        r"^    (\w+): (.*(?:\n {5,}.*)*)", section[1] if section else "", re.MULTILINE
    )
    return dict(entries)


def _plain(text: str, source: type) -> str:
    """Return a docstring's text in one line, as the study file writes what it names."""

    def listed(named: re.Match[str]) -> str:
        known = vars(sys.modules[source.__module__]).get(named[1])
        return named[0] if known is None else f"One of {', '.join(known)}"

    text = re.sub(r"(?:A key|One) of `(\w+)`", listed, " ".join(text.split()))
    return re.sub(r"\bNone\b", "null", text.replace("``", "`"))
