"""A study as a commented file: every key that there is, those at their default commented out."""

import dataclasses
import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from pydantic import BaseModel

from studies.errors import StudyError
from studies.known_methods import is_dedicated
from studies.naming import GREY_LEVELS
from studies.study_file.keys import REQUIRED, Key, keys_of, summary
from studies.study_file.loading import Source, load_study, presets
from studies.study_file.plain_yaml import write_yaml
from studies.study_file.study import Study

WIDTH = 100
COLUMN = 46
"""Where comments begin, at most."""

FEW_PARTS = 10
"""The largest denominator of a fraction that is none of grey levels."""

HEADER = """\
# `oat validate FILE` checks this file, `oat run FILE` runs it. Every key is here with its value.
# Lines starting with # directly before a key are defaults or examples; uncomment one to change or
# add it."""


@dataclasses.dataclass(frozen=True)
class _Line:
    """One line of settings, or of what could be one.

    Attributes:
        indent: Spaces before it.
        setting: What YAML reads.
        text: The comment.
        mark: ``#`` if it is commented out; ``# `` if it must be changed to be of use.
    """

    indent: int
    setting: str
    text: str = ""
    mark: str = ""

    def __len__(self) -> int:
        return self.indent + len(self.mark) + len(self.setting)


def commented_file(study: Study) -> str:
    """Write a study as a file that loads as the same study.

    Taking away the ``#`` before any one key changes nothing: it stands at its default. Methods and
    attacks that the study lacks stand as examples, each of which adds one.
    """
    parts = [HEADER]
    for key in keys_of(Study):
        lines = list(_Writer(study).key(key, getattr(study, key.name), (key.name,)))
        above: list[str] = []
        if len(lines) > 1:  # what a block is stands above it
            above = _comment(lines[0].text, WIDTH)
            lines[0] = dataclasses.replace(lines[0], text="")
        parts.append("\n".join([*above, *_laid_out(lines)]))
    return "\n\n".join(parts) + "\n"


class _Writer:
    """Turns the keys of one section into lines; what a key is is said once in a section."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.said: set[tuple[str, str]] = set()

    def key(
        self, key: Key, value: Any, path: tuple[str | int, ...], indent: int = 0
    ) -> Iterator[_Line]:
        """Write a key with all that is below it."""
        text, below = self._once(key), indent + 2
        if key.entries and value is not None:
            yield _Line(indent, f"{key.name}:", text)
            for i, entry in enumerate(value):
                lines = self.block(entry, (*path, i), below + 2)
                first = next(lines)
                yield dataclasses.replace(first, indent=below, setting=f"- {first.setting}")
                yield from lines
            yield from self._examples(key, value, path, below)
        elif key.block is not None and value is not None:
            yield _Line(indent, f"{key.name}:", text)
            yield from self.block(value, path, below)
        elif _is_nested(value) and not key.is_default(value):
            yield _Line(indent, f"{key.name}:", text)
            yield from _nested(value, below)
        else:
            if key.block is not None and text:
                text += f" Keys: {', '.join(one.name for one in keys_of(key.block))}."
            yield _Line(indent, f"{key.name}: {written(value)}", text, self._mark(key, value))

    def block(self, value: Any, path: tuple[str | int, ...], indent: int) -> Iterator[_Line]:
        """Write the keys of a block, at least one of them not commented out."""
        lines: list[_Line] = []
        for key in keys_of(value.__class__):
            lines += self.key(key, getattr(value, key.name), (*path, key.name), indent)
        if all(line.mark for line in lines):  # a block without a key would be null
            lines[0] = dataclasses.replace(lines[0], mark="")
        yield from lines

    def _mark(self, key: Key, value: Any) -> str:
        return "#" if key.is_default(value) else ""

    def _once(self, key: Key) -> str:
        """Return a key's text, and nothing if it has been said."""
        if (key.name, key.text) in self.said:
            return ""
        self.said.add((key.name, key.text))
        untold = [str(choice) for choice in key.choices if str(choice) not in key.text]
        if untold and len(key.choices) > 1:
            return f"{key.text} One of {', '.join(map(str, key.choices))}."
        return key.text

    def _examples(
        self, key: Key, value: Any, path: tuple[str | int, ...], indent: int
    ) -> Iterator[_Line]:
        """Write one entry of each kind that the list lacks, with the keys not seen before."""
        there = {type(entry) for entry in value}
        for name, block in key.entries.items():
            if block in there:
                continue
            new = [one for one in keys_of(block) if one.name != "name" and self._is_new(one)]
            entry = {"name": name} | {one.name: self._example(one) for one in new}
            texts = [summary(block), *(f"`{one.name}`: {self._once(one)}" for one in new)]
            said = self._refusal(path, entry)
            if said is not None:
                texts.append(f"Not as this study stands: {said}")
            yield _Line(indent, f"- {written(entry)}", " ".join(texts), "# " if said else "#")

    def _is_new(self, key: Key) -> bool:
        return key.default is REQUIRED or (key.name, key.text) not in self.said

    def _example(self, key: Key) -> Any:
        """Return a key's default; where it has none, two models of the study that it may name."""
        if key.default is not REQUIRED:
            return key.default
        labels: dict[str, list[str]] = {}
        for entry in self.study.entries():
            plain = entry.start is None and entry.method.conditioning().base_width == 1
            if plain and is_dedicated(entry.method.name):
                labels.setdefault(entry.method.name, []).append(entry.label)
        alike = max(labels.values(), key=len, default=[])
        return [*alike[:1], *alike[1:][-1:]]

    def _refusal(self, path: tuple[str | int, ...], entry: Mapping[str, Any]) -> str | None:
        """Return what is wrong with the study if an entry is added to a list; None if nothing."""
        data: Any = self.study.dump()
        place = data
        for part in path:
            place = place[part]
        place.append(dict(entry))
        try:
            load_study(data)
        except StudyError as error:
            return str(error).partition("\n")[0]
        return None


def _is_nested(value: Any) -> bool:
    """Whether a value is a mapping to mappings or blocks, too much for one line."""
    return isinstance(value, Mapping) and any(
        isinstance(item, Mapping | BaseModel) or dataclasses.is_dataclass(item)
        for item in value.values()
    )


def _nested(value: Mapping[str, Any], indent: int) -> Iterator[_Line]:
    for name, item in value.items():
        if _is_nested(item):
            yield _Line(indent, f"{written(name)}:")
            yield from _nested(item, indent + 2)
        else:
            yield _Line(indent, f"{written(name)}: {written(item)}")


def _laid_out(lines: Sequence[_Line]) -> Iterator[str]:
    """Put comments beside the lines of a section, in one column, and below where they are long."""
    ends = [len(line) + 2 for line in lines]
    column = max((end for end in ends if end <= COLUMN), default=COLUMN)
    for line, end in zip(lines, ends, strict=True):
        words = _comment(line.text, WIDTH - column)
        beside = words.pop(0) if words and end <= column else ""
        setting = " " * line.indent + line.mark + line.setting
        yield f"{setting:{column}}{beside}".rstrip()
        yield from (" " * column + more for more in words)


def _comment(text: str, width: int) -> list[str]:
    """Break a text into comments of some width, but no interval such as (0, 1]."""
    whole = re.sub(r"([\[(][\d.]+,) ([\d.]+[\])])", "\\1\xa0\\2", text)
    lines = textwrap.wrap(whole, width - 2, break_on_hyphens=False)
    return ["# " + line.replace("\xa0", " ") for line in lines]


def written(value: Any) -> str:
    """Write a value as people do in a study file, in one line: ``8/255``, ``[0, 0.5, 1]``."""
    if isinstance(value, BaseModel) or dataclasses.is_dataclass(value):
        return written(_told(value))
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{written(k)}: {written(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(written, value)) + "]"
    if isinstance(value, float):
        return _number(value)
    text = write_yaml([value], in_one_line=True)
    inner = text.strip().removeprefix("[").removesuffix("]")
    return inner if "\n" not in inner else json.dumps(value, ensure_ascii=False)


def _told(block: Any) -> dict[str, Any]:
    """Return the keys of a block that must be written: its name and what is not the default."""
    values = [(key, getattr(block, key.name)) for key in keys_of(block.__class__)]
    return {key.name: value for key, value in values if not key.is_default(value)}


def _number(value: float) -> str:
    """Write a number that loads as the same: as it is if that is short, else as a fraction."""
    if value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if 0 < value < 1 and value != float(f"{value:.4g}"):
        few = Fraction(value).limit_denominator(FEW_PARTS).as_integer_ratio()
        for top, bottom in (few, (round(value * GREY_LEVELS), GREY_LEVELS)):
            if top / bottom == value:
                return f"{top}/{bottom}"
    return write_yaml(value).partition("\n")[0]


def init(study: Source = "quickstart", *, name: str | None = None) -> str:
    """Return a study as a commented file, with every key that there is: what `oat init` writes.

    Args:
        study: A preset's name, a YAML file, a mapping, or a study.
        name: Name of the new study, which is also that of its folder of results. None is ``my-``
            before a preset's name, so that the two share no results, and else the study's own.

    Raises:
        StudyError: The preset is unknown, or the study or the name is faulty.
    """
    resolved = load_study(study)
    if name is None and isinstance(study, str) and study in presets():
        name = f"my-{resolved.name}"
    renamed = resolved if name is None else load_study({**resolved.dump(), "name": name})
    return commented_file(renamed)
