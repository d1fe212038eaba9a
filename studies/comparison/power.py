"""What a study of some size can decide, before anything is trained."""

import math
from dataclasses import dataclass

from studies.comparison.assumed import MARGIN, Rates
from studies.naming import in_points
from studies.statistics.intervals import LEVEL, t_below, t_quantile

SURE = 0.8
"""Chance with which a loss of the size that is named is found."""

ASSUMED = "Assumed"


@dataclass(frozen=True)
class Power:
    """What a study can decide.

    Attributes:
        images: Test images.
        seeds: Trainings of each setting.
        rows: Comparisons of OAT with a dedicated model.
        margin: How much worse still counts as free, as a fraction.
        rates: How far models differ.
        source: Where these are known from, as a clause such as "assumed"; a word for models on the
            same images, and one for trainings of one setting.
        half_sa: Half of the width of the interval of a difference in SA, as a fraction.
        half_ra: The same in RA.
        free: The chance that a model which is truly equal is called free.
        loss_sa: The smallest true loss in SA that is called not free in four studies of five.
        loss_ra: The same in RA.
        counted: Whether the number of test images is known; it is not of data of the user's, which
            are not read for this.
    """

    images: int
    seeds: int
    rows: int
    margin: float
    rates: Rates
    source: tuple[str, str]
    half_sa: float
    half_ra: float
    free: float
    loss_sa: float
    loss_ra: float
    counted: bool = True

    def __str__(self) -> str:
        """Say it in two sentences."""
        seeds = f"{self.seeds} seed{'s' if self.seeds > 1 else ''}"
        what = "networks" if self.seeds == 1 else "methods"
        images = f"{self.images:,} test images"
        if not self.counted:
            images += " (assumed, as your data are not read for this)"
        return (
            f"{images} and {seeds} compare {what}: a difference is known to "
            f"about ±{100 * self.half_sa:.1f} points in SA and ±{100 * self.half_ra:.1f} in RA; a "
            f"retrained model that is equal in truth is matched (margin {in_points(self.margin)}) "
            f"with a chance of {self.free:.0%}, and {self._losses()}. {self._sources()}"
        )

    def _losses(self) -> str:
        """Say which losses are found; no accuracy can lose more than all of it."""
        found = [
            f"{100 * loss:.1f} points in {name}"
            for name, loss in (("SA", self.loss_sa), ("RA", self.loss_ra))
            if loss <= 1
        ]
        if not found:
            return f"no loss is found with {SURE:.0%}"
        return f"a loss of {' or '.join(found)} is found with {SURE:.0%}"

    def _sources(self) -> str:
        """Say how far models differ, and where that is known from."""
        rates, (images, trainings) = self.rates, self.source
        apart = (
            f"two models differ on {100 * rates.sa_discordance:.3g}% of the images, under attack "
            f"on {100 * rates.ra_discordance:.3g}%"
        )
        spread = (
            f"trainings by {in_points(float(f'{rates.sa_spread:.2g}'))} in SA and "
            f"{100 * rates.ra_spread:.2g} in RA"
        )
        if images == trainings:
            return f"{images}: {apart}, and {spread}."
        return f"{images}: {apart}. {trainings}: {spread}."


def power_of(
    images: int,
    seeds: int,
    rows: int,
    rates: Rates | None = None,
    margin: float = MARGIN,
    source: tuple[str, str] = (ASSUMED, ASSUMED),
    counted: bool = True,
) -> Power:
    """Estimate what a comparison of so many images, seeds and rows can decide.

    One row of each dedicated model, all of one method and spread. Of two methods with the same
    spread, OAT's is known from one network and the other's from all rows.

    Args:
        images: Test images.
        seeds: Trainings of each setting; with one, networks are compared and their luck is theirs.
        rows: Dedicated models.
        rates: How far models differ; None is assumed.
        margin: How much worse still counts as free.
        source: Where the rates are known from; see `Power`.
        counted: Whether the number of images is known.

    Raises:
        ValueError: A size is below 1, or the margin is not from 0 to 1.
    """
    for name, count in (("images", images), ("seeds", seeds), ("rows", rows)):
        if count < 1:
            raise ValueError(f"`{name}` must be at least 1, got {count}.")
    if not 0 <= margin <= 1:
        raise ValueError(f"`margin` must be from 0 to 1, got {margin:g}.")
    rates = rates or Rates()
    halves, chances, losses = [], [], []
    for discordance, spread in (
        (rates.sa_discordance, rates.sa_spread),
        (rates.ra_discordance, rates.ra_spread),
    ):
        error, freedom = _error(images, seeds, rows, discordance, spread)
        quantile = t_quantile((1 + LEVEL) / 2, freedom)
        halves.append(min(quantile * error, 1.0))
        chances.append(t_below(margin / error - quantile, freedom) if error else 1.0)
        first = t_quantile(1 - (1 - LEVEL) / (2 * rows), freedom)  # the first step of Holm
        losses.append(margin + (first + t_quantile(SURE, freedom)) * error)
    return Power(
        images=images,
        seeds=seeds,
        rows=rows,
        margin=margin,
        rates=rates,
        source=source,
        half_sa=halves[0],
        half_ra=halves[1],
        free=math.prod(chances),
        loss_sa=losses[0],
        loss_ra=losses[1],
        counted=counted,
    )


def _error(
    images: int, seeds: int, rows: int, discordance: float, spread: float
) -> tuple[float, float]:
    """Return the standard error of a difference, and its degrees of freedom."""
    sampling = discordance / images
    luck = spread**2 / seeds
    if seeds == 1 or not luck:
        return math.sqrt(sampling), math.inf
    total = sampling + 2 * luck
    known = seeds - 1, rows * (seeds - 1)
    return math.sqrt(total), total**2 / sum(luck**2 / freedom for freedom in known)
