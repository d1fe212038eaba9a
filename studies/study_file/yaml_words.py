"""The words of YAML 1.2 that are no text: numbers, truth values and nothing."""

import re
from collections.abc import Callable

TAG = "tag:yaml.org,2002:"
CORE: dict[str, tuple[re.Pattern[str], tuple[str, ...], Callable[[str], object]]] = {
    "null": (re.compile(r"(?:~|null|Null|NULL|)\Z"), ("", *"~nN"), lambda _: None),
    "bool": (
        re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"),
        tuple("tTfF"),
        lambda text: text[0] in "tT",
    ),
    "int": (
        re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z"),
        tuple("-+0123456789"),
        lambda text: int(text, 0) if text[:2] in {"0o", "0x"} else int(text),
    ),
    "float": (
        re.compile(
            r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
            r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
        ),
        tuple("-+.0123456789"),
        lambda text: float(re.sub(r"\.(?=[iInN])", "", text)),
    ),
}
"""Words that are no text: by kind, how they look, their first characters, and their value.

Source: YAML 1.2.2, section 10.3.2, the core schema.
"""


def value_of(kind: str, word: str) -> object:
    """Return what a word stands for.

    Raises:
        ValueError: It is none of its kind, or a number of more digits than Python reads (4,300).
    """
    looks, _, value = CORE[kind]
    if looks.match(word) is None:
        raise ValueError(f"'{word}' is no {kind}")
    return value(word)
