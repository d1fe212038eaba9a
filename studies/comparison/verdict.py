"""The verdict on OAT beside dedicated models: its margin, its words, and how it is given."""

from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from studies.statistics.intervals import Interval

MARGIN = 0.01
"""How much worse in SA and in RA still counts as free, as a fraction, unless another is given."""

VERDICTS = ("better", "free", "undecided", "not free")
"""From the best to the worst."""


def verdict_of(sa: "Interval", ra: "Interval", margin: float) -> str:
    """Give the verdict on one pair of differences, OAT minus dedicated.

    ``better`` if both intervals lie above 0; ``free`` if both lie above ``-margin``; ``not
    free`` if one lies wholly below ``-margin``; else ``undecided``.
    """
    if sa.low > 0 and ra.low > 0:
        return "better"
    if sa.low >= -margin and ra.low >= -margin:
        return "free"
    if sa.high < -margin or ra.high < -margin:
        return "not free"
    return "undecided"


def verdict_on_all(table: pd.DataFrame) -> str:
    """Give the verdict on all pairs: the worst that any of them has."""
    found = set(table["verdict"]) if len(table) else set()
    for verdict in reversed(VERDICTS):
        if verdict in found:
            return verdict
    return "undecided"
