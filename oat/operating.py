"""Where a trained network can be run."""

from collections.abc import Iterable
from typing import NamedTuple


class OperatingPoint(NamedTuple):
    """Where a trained network can be run.

    Attributes:
        lam: Trade-off weight; None for a network without λ.
        width_mult: Share of the network's own channels.
    """

    lam: float | None
    width_mult: float = 1.0


def lams_of(points: Iterable[OperatingPoint]) -> list[float]:
    """Return the λ of some points, each once, in their order; those of a pair are its α."""
    return list(dict.fromkeys(point.lam for point in points if point.lam is not None))


def check_alpha(alpha: float, name: str = "alpha") -> None:
    """Refuse a weight between two networks that is outside [0, 1].

    Raises:
        ValueError: It is outside, or not a number.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(
            f"`{name}` must be in [0, 1] (0 is the first network, 1 the second), got {alpha:g}."
        )
