"""Shares of a network's channels."""

from collections.abc import Sequence


def check_widths(widths: Sequence[float]) -> None:
    """Refuse a set of widths that is empty, repeats a value, or leaves (0, 1].

    Raises:
        ValueError: As above.
    """
    if not widths:
        raise ValueError("`width_mults` must name at least one width, got an empty list.")
    for width in widths:
        check_width(width, "width_mults")
    if len(set(widths)) != len(widths):
        raise ValueError(f"`width_mults` must not repeat a value, got {list(widths)}.")


def check_width(width_mult: float, name: str = "width_mult") -> None:
    """Refuse a share of the channels outside (0, 1].

    Raises:
        ValueError: As above.
    """
    if not 0 < width_mult <= 1:
        raise ValueError(f"`{name}` must be in (0, 1], got {width_mult:g}.")


def scaled(channels: int, width_mult: float) -> int:
    """Return the channels in use at a width multiplier.

    Raises:
        ValueError: ``channels * width_mult`` is not a whole number of at least 1.
    """
    exact = channels * width_mult
    if exact < 1 or abs(exact - round(exact)) > 1e-6:
        raise ValueError(
            f"`width_mult` {width_mult:g} of {channels} channels is {exact:g}, "
            "which must be a whole number of at least 1."
        )
    return round(exact)
