"""YAML without its traps: plain values of YAML 1.2, no key twice, nothing inside itself.

PyYAML takes plain words as YAML 1.1 did: 010 is 8, 1:30 is 90, 1e-3 is text and ``on`` is true. Its
reader knows the line of every value and stays; what a plain word is, is that of YAML 1.2.
"""

import re
import unicodedata
from typing import Any

import yaml

from studies.study_file.yaml_words import CORE, TAG, value_of

MOST_VALUES = 100_000
"""Values in a document, those behind an alias counted as often as they are used."""
ODD_SPACE = re.compile(r"[^\S \t\n\r]|[\u200b-\u200f\u2060\ufeff]")
"""What looks like a space, a line's end or nothing, and is none of these for YAML."""
ODD_BREAK = re.compile("[\x85\u2028\u2029]")
"""What PyYAML takes for a line's end and editors do not."""


def read_yaml(text: str) -> Any:
    """Read one document of plain values.

    Raises:
        yaml.YAMLError: It is none; one line that says where. A block has a key twice, of which
            YAML's own reader would silently keep the last; something contains itself; it is
            nested too deeply or too large; a space is none.
    """
    try:
        if odd := ODD_BREAK.search(text):
            raise yaml.YAMLError(f"{_odd(text, odd.start())}; write a line's end")
        return _Reader(text).get_single_data()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise yaml.YAMLError(
            f"line {line} holds the character U+{int(error.character):04X}, which is not "
            "allowed; save the file as UTF-8 text"
        ) from error
    except yaml.MarkedYAMLError as error:
        raise yaml.YAMLError(_where(error)) from error
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply") from error


def write_yaml(value: Any, *, in_one_line: bool = False) -> str:
    """Write plain values so that readers of YAML 1.1 and of 1.2 read the same."""
    made = yaml.dump(
        value,
        Dumper=_Writer,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=in_one_line,
        width=10**6 if in_one_line else None,
    )
    return str(made)


def _where(error: yaml.MarkedYAMLError) -> str:
    """Return what is wrong and the lines of it, without the text around them."""
    marked = ((error.context, error.context_mark), (error.problem, error.problem_mark))
    said = ", ".join(
        what + (f" in line {mark.line + 1}, column {mark.column + 1}" if mark else "")
        for what, mark in marked
        if what
    )
    return said + ("; use spaces" if "'\\t'" in said else "")


def _odd(text: str, index: int) -> str:
    before, odd = text[:index], text[index]
    column = index - before.rfind("\n")
    name = unicodedata.name(odd, "control character").lower()
    return f"line {before.count(chr(10)) + 1} has a {name} (U+{ord(odd):04X}) in column {column}"


class _Reader(yaml.SafeLoader):
    """PyYAML's reader of plain values, made strict while the file is taken apart."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 -- PyYAML's own, filled below
    yaml_constructors = {  # noqa: RUF012
        tag: make
        for tag, make in yaml.SafeLoader.yaml_constructors.items()
        if tag in {None, f"{TAG}str", f"{TAG}seq", f"{TAG}map"}
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._text = text
        self._open: list[str | None] = []

    def get_single_node(self) -> Any:
        """Refuse what grows beyond measure once its aliases are followed."""
        node = super().get_single_node()
        if node is not None and _size(node, {}) > MOST_VALUES:
            raise yaml.YAMLError(f"it holds more than {MOST_VALUES:,} values")
        return node

    def scan_plain(self) -> Any:
        """Refuse a space in a plain word that is none, such as one that does not break a line."""
        token: Any = super().scan_plain()
        start, end = token.start_mark.index, token.end_mark.index
        if odd := ODD_SPACE.search(self._text, start, end):
            said = _odd(self._text, odd.start())
            raise yaml.YAMLError(f"{said}; write a plain space, or put quotes around the text")
        return token

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse an alias that stands inside what it names."""
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            if event.anchor in self._open:
                line = event.start_mark.line + 1
                raise yaml.YAMLError(f"'*{event.anchor}' in line {line} contains itself")
        return super().compose_node(parent, index)

    def compose_sequence_node(self, anchor: Any) -> Any:
        """Know what is open."""
        self._open.append(anchor)
        node = super().compose_sequence_node(anchor)
        self._open.pop()
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Refuse a key that the block has already."""
        self._open.append(anchor)
        node: Any = super().compose_mapping_node(anchor)
        self._open.pop()
        lines: dict[tuple[str, str], int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            line = key.start_mark.line + 1
            if (first := lines.get((key.tag, key.value))) is not None:
                again = "twice" if first == line else f"in line {first} and again"
                raise yaml.YAMLError(f"the key '{key.value}' stands {again} in line {line}")
            lines[key.tag, key.value] = line
        return node

    def word(self, node: yaml.ScalarNode) -> object:
        """Return what a plain word stands for, also one that a tag such as ``!!int`` demands."""
        kind = node.tag.removeprefix(TAG)
        try:
            return value_of(kind, node.value)
        except ValueError as error:
            said = f"found '{node.value:.40}', which is no {kind}"
            raise yaml.constructor.ConstructorError(None, None, said, node.start_mark) from error


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Count the values of a node, those behind an alias as often as they are used."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        pairs = isinstance(node, yaml.MappingNode)
        below = [one for pair in node.value for one in pair] if pairs else node.value
        known[id(node)] = 1 + sum(_size(one, known) for one in below)
    return known[id(node)]


class _Writer(yaml.SafeDumper):
    """PyYAML's writer, which puts quotes around any text that a reader might take for another."""

    def text(self, value: str) -> yaml.ScalarNode:
        """Write text."""
        style = '"' if ODD_SPACE.search(value) else None
        return self.represent_scalar(f"{TAG}str", value, style=style)


for _kind, (_looks, _first, _) in CORE.items():
    for _user in (_Reader, _Writer):
        _user.add_implicit_resolver(TAG + _kind, _looks, [*_first])
    _Reader.add_constructor(TAG + _kind, _Reader.word)
_Reader.add_implicit_resolver(f"{TAG}merge", re.compile(r"<<\Z"), ["<"])
_Writer.add_representer(str, _Writer.text)
