"""The sentence for a name that nobody knows."""

from collections.abc import Iterable
from difflib import get_close_matches


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
