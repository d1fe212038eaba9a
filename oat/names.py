"""Names and values in words, and the sentence for a name that nobody knows."""

from collections.abc import Iterable
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
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean '{near[0]}'?" if near else "."
    return f"Unknown {kind} '{name}'{hint} Known: {', '.join(names)}."


def check_literals(config: Any) -> None:
    """Refuse a dataclass of which a field annotated with `Literal` has another value.

    Raises:
        ValueError: As above.
    """
    hints = _hints(config.__class__)
    for field in fields(config):
        kind, value = hints[field.name], getattr(config, field.name)
        if get_origin(kind) is Literal and value not in get_args(kind):
            raise ValueError(
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
