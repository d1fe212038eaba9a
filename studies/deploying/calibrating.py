"""Which λ and width to deploy: chosen under constraints on held-out images, told on test images."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import nn

from oat.adversaries import EvaluationAttack, Pgd
from oat.data import Split
from oat.evaluation import evaluate
from oat.lambdas import SAME_LAM
from oat.models import Mixed, Network, flops
from oat.operating import OperatingPoint
from studies.deploying.constraints import Constraints
from studies.deploying.model import TrainedModel
from studies.statistics.intervals import wilson

GRID = 11
"""λ of a model that knows any λ that are looked at first, from 0 to 1."""
REFINEMENTS = 3
"""Times that the distance between λ is then halved around the best."""
LATENCY_RUNS = (3, 15)
"""Passes before any is timed, and that are timed."""


@dataclass(frozen=True)
class Rate:
    """A share of images, with its Wilson 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, images: int) -> "Rate":
        """Add the interval."""
        return cls(value, *wilson(value, images))


@dataclass(frozen=True)
class Candidate:
    """An operating point on held-out images.

    Attributes:
        lam: λ; None of a dedicated model.
        width: Share of the channels.
        sa: On held-out images.
        ra: Likewise.
        flops: For one image.
        latency_ms: Median of one image on this machine; None where nobody asked for it.
        short_of: What it lacks to hold each constraint, as a share of the bound; empty if it holds.
    """

    lam: float | None
    width: float
    sa: float
    ra: float
    flops: int
    latency_ms: float | None
    short_of: dict[str, float]

    @property
    def point(self) -> OperatingPoint:
        """λ and width."""
        return OperatingPoint(self.lam, self.width)


@dataclass(frozen=True)
class Calibration:
    """The chosen operating point, and what test images say of it.

    Attributes:
        model: Label and seed of the model.
        chosen: What was chosen, or came nearest.
        met: Whether it holds every constraint on held-out images.
        candidates: All that were looked at, by width and λ.
        held_out_images: How many it was chosen on.
        test_images: How many it is told on.
        sa: On test images.
        ra: On test images, under the worst of `attacks`.
        attacks: Names of the attacks on test images.
        choosing_attack: Name of the one on held-out images.
        confirmed: For each bound on SA and RA whether test images show it (``yes``: the whole
            interval holds it), refute it (``no``), or leave it open.
        constraints: What was asked for.
        notes: What the user should know before the point is deployed.
    """

    model: str
    chosen: Candidate
    met: bool
    candidates: tuple[Candidate, ...]
    held_out_images: int
    test_images: int
    sa: Rate
    ra: Rate
    attacks: tuple[str, ...]
    choosing_attack: str
    confirmed: dict[str, str]
    constraints: Constraints
    notes: tuple[str, ...] = ()


def choose(
    model: TrainedModel,
    split: Split,
    attack: EvaluationAttack,
    bounds: Constraints,
    *,
    known: Callable[[OperatingPoint], tuple[float, float] | None],
    batch_size: int,
) -> tuple[Candidate, tuple[Candidate, ...]]:
    """Choose an operating point on held-out images.

    Every λ of the training at every width is looked at. Of a model that knows any λ, a grid is as
    well, and then the λ half-way to the neighbours of the best, three times.

    Args:
        model: The model.
        split: Held-out images.
        attack: That RA is under.
        bounds: What it must hold.
        known: SA and RA of a point that storage has; None of another.
        batch_size: Images at a time.

    Returns:
        The best that holds the constraints, or the one that is nearest to that; and all.
    """
    found: dict[OperatingPoint, Candidate] = {}
    latencies: dict[int, float] = {}  # points of as many operations are one network to a clock

    def look_at(point: OperatingPoint) -> None:
        if point not in found and (point.lam is None or model.has_trained(point.lam)):
            rates = known(point)
            network = model.at(*point)
            if rates is None:
                right = evaluate(network, split, attack, batch_size=batch_size)
                rates = right.sa, right.ra
            count = flops(network, model.image_shape)
            if bounds.max_latency_ms is not None and count not in latencies:
                latencies[count] = latency_of(network, model.image_shape)
            found[point] = _candidate(point, rates, count, latencies.get(count), bounds)

    for point in model.points():
        look_at(point)
    if model.any_lam:
        step = 1 / (GRID - 1)
        for width in model.widths:
            for i in range(GRID):
                look_at(OperatingPoint(round(i * step, 6), width))
        for _ in range(REFINEMENTS):
            best = _best(found.values(), bounds)
            step /= 2
            assert best.lam is not None
            for lam in (best.lam - step, best.lam + step):
                if 0 <= lam <= 1:
                    look_at(OperatingPoint(round(lam, 6), best.width))
    every = sorted(found.values(), key=lambda c: (-c.width, -1 if c.lam is None else c.lam))
    return _best(every, bounds), tuple(every)


def _best(candidates: Iterable[Candidate], bounds: Constraints) -> Candidate:
    """Return the best of those that hold all, or else the one that lacks least."""
    every = list(candidates)
    holding = [one for one in every if not one.short_of]
    weight = bounds.weight

    def worth(one: Candidate) -> tuple[float, float]:
        return (1 - weight) * one.sa + weight * one.ra, one.sa + one.ra

    if holding:
        return max(holding, key=worth)
    return min(every, key=lambda one: (max(one.short_of.values()), -worth(one)[0]))


def _candidate(
    point: OperatingPoint,
    rates: tuple[float, float],
    count: int,
    latency: float | None,
    bounds: Constraints,
) -> Candidate:
    sa, ra = rates
    short = {}
    for name, value in (("min_sa", sa), ("min_ra", ra)):
        bound = getattr(bounds, name)
        if bound is not None and value < bound:
            short[name] = (bound - value) / bound
    for name, cost in (("max_flops", count), ("max_latency_ms", latency)):
        bound = getattr(bounds, name)
        if bound is not None and cost is not None and cost > bound:
            short[name] = (cost - bound) / bound
    return Candidate(point.lam, point.width_mult, sa, ra, count, latency, short)


@torch.no_grad()
def latency_of(network: nn.Module, image_shape: tuple[int, int, int]) -> float:
    """Return the median time of one image on the CPU, in milliseconds."""
    image, times = torch.rand(1, *image_shape), []
    before, timed = LATENCY_RUNS
    for i in range(before + timed):
        began = time.perf_counter()
        network(image)
        if i >= before:
            times.append(time.perf_counter() - began)
    return 1000 * median(times)


def confirm(
    model: TrainedModel,
    point: OperatingPoint,
    split: Split,
    attacks: Sequence[EvaluationAttack],
    *,
    lams: Sequence[float],
    batch_size: int,
) -> tuple[Rate, Rate, int]:
    """Judge a point on test images: SA, RA under the worst of the attacks, and how many images.

    Args:
        model: The model.
        point: λ and width.
        split: Test images.
        attacks: They judge the same number of images; at least one.
        lams: Of the model in its study; images are crafted there too by an attack with `every_lam`.
        batch_size: Images at a time.
    """
    some, network = split.head(attacks[0].images), model.at(*point)
    found = [
        evaluate(
            network,
            some,
            attack,
            batch_size=batch_size,
            surrogates=_other_points(model, point, lams) if _at_every_lam(attack) else (),
        )
        for attack in attacks
    ]
    robust = torch.stack([one.robust for one in found]).all(dim=0)
    images = len(some)
    return Rate.of(found[0].sa, images), Rate.of(robust.double().mean().item(), images), images


def _at_every_lam(attack: EvaluationAttack) -> bool:
    return isinstance(attack, Pgd) and attack.every_lam


def _other_points(
    model: TrainedModel, point: OperatingPoint, lams: Sequence[float]
) -> list[Network | Mixed]:
    """Return the same model at the other λ of the study, at the same width."""
    if point.lam is None:
        return []
    return [model.at(lam, point.width_mult) for lam in lams if abs(lam - point.lam) >= SAME_LAM]


def confirmed_by(bounds: Constraints, sa: Rate, ra: Rate) -> dict[str, str]:
    """Say of each bound on SA and RA whether an interval on test images holds it."""
    found = {}
    for name, bound, rate in (("min_sa", bounds.min_sa, sa), ("min_ra", bounds.min_ra, ra)):
        if bound is not None:
            found[name] = "yes" if rate.low >= bound else "no" if rate.high < bound else "open"
    return found
