"""Names and values in words, and the sentence for a name that nobody knows."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from difflib import get_close_matches
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Say that a name is unknown, which known one is nearest, and which there are.

    Args:
        kind: What the name was meant to be: method, model, data set, key, preset.
        name: What came.
        known: The names there are.
    """
    names = sorted(known)
    near = _nearest(name, names)
    hint = f"; did you mean '{near}'?" if near else "."
    return f"Unknown {kind} '{name}'{hint} Known: {', '.join(names)}."


def _nearest(name: str, names: Sequence[str]) -> str | None:
    """Return the name that was probably meant: one that is spelt alike, or begins as it does."""
    block = name[: name.rfind(".") + 1]
    if not all(one.startswith(block) for one in names):
        block = ""
    # the block that all keys share would make any two of them alike
    came, there = name.removeprefix(block), [one.removeprefix(block) for one in names]
    near = get_close_matches(came, there, n=1)
    if not near and len(came) > 2:
        near = [one for one in there if one.startswith(came)]
    return block + near[0] if near else None


class Faults(ValueError):
    """All that is wrong with the values of a config.

    Attributes:
        sentences: One for each fault.
    """

    def __init__(self, *sentences: str) -> None:
        super().__init__("\n".join(sentences))
        self.sentences = sentences

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.sentences


def refuse(sentences: Iterable[str]) -> None:
    """Refuse a config of which anything is wrong, naming all of it.

    Args:
        sentences: One for each fault.

    Raises:
        Faults: There is a fault.
    """
    if found := tuple(sentences):
        raise Faults(*found)


def check_literals(config: Any) -> None:
    """Refuse a dataclass of which a field annotated with `Literal` has another value.

    Raises:
        Faults: As above.
    """
    refuse(literal_faults(config))


def literal_faults(config: Any) -> Iterator[str]:
    """Yield a sentence for each field annotated with `Literal` that has another value."""
    hints = _hints(config.__class__)
    for field in fields(config):
        kind, value = hints[field.name], getattr(config, field.name)
        if get_origin(kind) is Literal and value not in get_args(kind):
            yield (
                f"`{field.name}` must be one of {', '.join(map(str, get_args(kind)))}, "
                f"got '{value}'."
            )


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def number_text(value: float) -> str:
    """Write a setting for people: short where that is its value, else with all its digits."""
    short = f"{value:g}"
    return short if float(short) == value else repr(float(value))
