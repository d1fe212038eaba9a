"""YAML without its traps: plain values only, no key twice, nothing inside itself."""

from typing import Any

import yaml


def read_yaml(text: str) -> Any:
    """Read one document of plain values.

    Raises:
        yaml.YAMLError: It is none. A block has a key twice, of which YAML's own reader would
            silently keep the last; something contains itself; or it is nested too deeply.
    """
    try:
        return _Reader(text).get_single_data()
    except ValueError as error:  # such as a date with a month 13
        raise yaml.YAMLError(f"{error}; put quotes around what is text") from error
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply") from error


class _Reader(yaml.SafeLoader):
    """PyYAML's reader of plain values, made strict while the file is taken apart."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._open: list[str | None] = []

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
