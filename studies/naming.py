"""Points, times and lists in words, as every table, note and progress line writes them."""

import math
import re
from collections.abc import Iterable
from typing import NotRequired, TypedDict

from oat.names import number_text


class NamedRow(TypedDict):
    """What names a point, or a cell of points of several seeds: a row of their frame.

    Attributes:
        variant: The method with what differs from its default.
        lam: λ; NaN for TRADES.
        beta: β of TRADES; NaN elsewhere, or not there.
        width_mult: Share of the full network's channels.
        seed: Not there for a cell.
        recipe: See `studies.known_methods.recipe`; not there if all models have the same.
    """

    variant: str
    lam: float
    beta: NotRequired[float]
    width_mult: float
    seed: NotRequired[int]
    recipe: NotRequired[str]


def knob_text(row: NamedRow) -> str:
    """Write the trade-off value of a point or cell: ``λ=0.2``, ``β=6``, of a pair ``α=0.5``.

    Empty for a network from outside, which has none.
    """
    weight = row.get("beta", math.nan)
    beta = "" if math.isnan(weight) else f"β={number_text(weight)}"
    if math.isnan(row["lam"]):
        return beta
    from studies.known_methods import RIVALS  # needs torch, and durations do not

    sign = "α" if row.get("variant", "").partition(" ")[0] in RIVALS else "λ"
    return f"{sign}={number_text(row['lam'])} {beta}".rstrip()  # a user's method may have both


def value_text(row: NamedRow) -> str:
    """Write a trade-off value and the training settings in which dedicated models differ.

    Such as ``λ=0.2 lr=0.05``.
    """
    return " ".join([*knob_text(row).split(), *str(row.get("recipe") or "").split()])


def name_point(row: NamedRow, seed: bool = True) -> str:
    """Name a point for people, such as ``pgd_at λ=0.2 width=0.5 seed 1``."""
    width = f" width={number_text(row['width_mult'])}" if row["width_mult"] != 1 else ""
    value = f" {value_text(row)}".rstrip()
    return f"{row['variant']}{value}{width}" + (f" seed {row['seed']}" if seed else "")


def duration(seconds: float) -> str:
    """Write a time span for people, such as ``45 s``, ``12 min`` or ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def time_range(low: float, high: float) -> str:
    """Write a range of seconds for people: ``2 to 18 s``, ``50 s to 3 min``, ``up to 2 s``.

    It is one time, such as ``~5 s``, if its ends read the same.
    """
    if high == 0:
        return "none"
    first, last = duration(low), duration(high)
    if first == last:
        return "under 1 s" if last == "0 s" else f"~{last}"
    if first == "0 s":
        return f"up to {last}"
    number, unit = first.split()
    return f"{number if last.endswith(f' {unit}') else first} to {last}"


def in_points(fraction: float) -> str:
    """Write a difference of accuracies for people, such as ``1 point``."""
    return f"{100 * fraction:g} point{'' if fraction == 0.01 else 's'}"


GREY_LEVELS = 255


def radius_text(eps: float) -> str:
    """Write a radius for people: ``0.1``, or ``8/255`` where it is that and not a short number."""
    levels = round(eps * GREY_LEVELS)
    if f"{eps:.4g}" != f"{eps:.9g}" and abs(eps - levels / GREY_LEVELS) < 1e-9:
        return f"{levels}/{GREY_LEVELS}"
    return f"{eps:.4g}"


MANY = 8
"""Points that a note names; of more it names these and says how many there are."""


def listed(names: Iterable[str]) -> str:
    """List names, the first few of many."""
    known = list(dict.fromkeys(names))
    more = len(known) - MANY
    return ", ".join(known[:MANY]) + (f" and {more} more" if more > 0 else "")


LONGEST = 250
"""Characters that a sentence shows of anything in quotes, at most; a path is rarely longer."""


def one_line(said: str) -> str:
    """Return a sentence in one line, whatever the values in it: long ones are cut.

    Control characters are written as Python writes them, and so are halves of characters, which
    stand for bytes that are no text.
    """
    cut = re.sub(rf"'([^']{{{LONGEST}}})[^']+'", r"'\1…'", said)
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in cut)
