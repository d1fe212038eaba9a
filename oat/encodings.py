"""The ways in which the trade-off weight λ becomes a vector; `oat.models.codes` makes it.

Source: Wang et al., NeurIPS 2020, section 3 and supplement.
"""

from collections.abc import Sequence
from typing import Literal, get_args

Encoding = Literal["none", "onehot", "dct", "random", "continuous"]
ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)
BY_VALUE: frozenset[str] = frozenset({"none", "continuous"})
"""Encodings that know any λ in [0, 1]; the others know the listed values only."""


def check_encoding(encoding: Encoding, dim: int, choices: Sequence[float]) -> None:
    """Refuse a code that is too short for the λ set.

    Raises:
        ValueError: As above.
    """
    if encoding == "continuous":
        if dim < 2 or dim % 2:
            raise ValueError(f"`encoding_dim` must be even for 'continuous', got {dim}.")
    elif encoding != "none" and dim < len(choices):
        raise ValueError(
            f"`encoding_dim` must be at least the number of λ choices, "
            f"got {dim} for {len(choices)} choices."
        )
