"""The verdict on OAT beside dedicated models: its words, and how it is given."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from studies.statistics.intervals import LEVEL, Difference, holm, t_quantile

if TYPE_CHECKING:
    import pandas as pd

VERDICTS = ("better", "free", "undecided", "not free")
"""From the best to the worst."""

ONE_SEED = "one seed"
"""In place of a verdict on the method, where one training of each setting cannot give any."""

Pair = tuple[Difference, Difference]
"""Differences in SA and in RA, OAT minus dedicated."""


def verdicts_of(pairs: Sequence[Pair], margin: float) -> list[str]:
    """Give the verdict on each pair of a table.

    ``better`` if both intervals lie above 0; ``free`` if both lie above ``-margin``. ``not free``
    if one of the two differences is below ``-margin``, tested over all pairs and both accuracies
    together: if nothing is below in truth, the chance that any pair gets this verdict is at most
    5 %. Else ``undecided``.

    Args:
        pairs: Of the whole table.
        margin: How much worse still counts as free, as a fraction.

    Source: Holm, Scandinavian Journal of Statistics 1979.
    """
    p_values = [[found.p_not_below(-margin) for found in pair] for pair in pairs]
    rejected = holm(np.array(p_values).reshape(-1)).reshape(-1, 2)
    return [_verdict(pair, margin, any(lost)) for pair, lost in zip(pairs, rejected, strict=True)]


def _verdict(pair: Pair, margin: float, lost: bool) -> str:
    lowest = min(found.low for found in pair)
    if lowest > 0:
        return "better"
    if lowest >= -margin:
        return "free"
    return "not free" if lost else "undecided"


def verdict_on_all(table: "pd.DataFrame", seeds: int, complete: bool = True) -> str:
    """Give the verdict on the method: the worst that any pair has; none with one seed.

    Where retrained models are missing, OAT may lose to them: it is ``undecided`` at best.

    ``free`` needs no correction for the number of pairs, as every pair must pass.

    Args:
        table: A row for each pair, with its ``verdict``.
        seeds: Trainings of each setting, the fewest that any has.
        complete: Whether every retrained model has a row.
    """
    found = {*table["verdict"], *([] if complete else ["undecided"])} if len(table) else set()
    if found and seeds < 2:
        return ONE_SEED
    for verdict in reversed(VERDICTS):
        if verdict in found:
            return verdict
    return "undecided"


def to_decide(
    pair: Pair, margin: float, images: int, seeds: int, tests: int
) -> tuple[float, float]:
    """Estimate how many test images, or how many seeds, would decide an undecided pair.

    The differences, the images on which the models differ, and the spread between trainings are
    taken as they were measured.

    Args:
        pair: Its differences.
        margin: How much worse still counts as free.
        images: Test images that it was measured on.
        seeds: Trainings of each side.
        tests: How many differences are tested together.

    Returns:
        The number of images at as many seeds, and of seeds at as many images. Infinite where no
        number would do; NaN for seeds where one training does not tell how far trainings differ.
    """
    above = [found.centre + margin for found in pair]
    if min(above) > 0:  # it would be free: both must be shown to lie above
        wanted = [(found, LEVEL / 2 + 0.5) for found in pair if found.low < -margin]
    else:  # it would be not free: the clearer loss decides, at the first step of Holm
        place = int(np.argmin([a / found.error for a, found in zip(above, pair, strict=True)]))
        wanted = [(pair[place], 1 - (1 - LEVEL) / tests)]
    more = [_more(found, abs(found.centre + margin), p, images, seeds) for found, p in wanted]
    return max(n for n, _ in more), max((s for _, s in more), key=lambda s: (math.isnan(s), s))


def _more(
    found: Difference, away: float, probability: float, images: int, seeds: int
) -> tuple[float, float]:
    """Return the images, and the seeds, at which an error is small enough for a distance."""
    room = (away / t_quantile(probability, found.freedom)) ** 2 - found.training
    enough = math.ceil(images * found.sampling / room) if room > 0 else math.inf
    if math.isinf(found.freedom):
        return enough, math.nan
    # Welch and Satterthwaite's sum of squared variances over their degrees of freedom
    luck = (found.sampling + found.training) ** 2 / found.freedom
    for more in range(seeds + 1, MOST_SEEDS + 1):
        variance = found.sampling + found.training * seeds / more
        scale = (seeds / more) ** 2 * max(seeds - 1, 1) / (more - 1)
        freedom = variance**2 / (luck * scale)
        if t_quantile(probability, freedom) * math.sqrt(variance) <= away:
            return enough, more
    return enough, math.inf


MOST_SEEDS = 50
"""More seeds than anybody trains: where these do not decide, no number is named."""
