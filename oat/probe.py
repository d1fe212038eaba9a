"""How long the parts of a trial take, timed on the real network and the real data."""

import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch

from oat.adversaries import Pgd
from oat.ascent import gradient
from oat.data import Split, unit
from oat.deploy import fold
from oat.evaluation import evaluate
from oat.losses import cross_entropy_of
from oat.models import Network
from oat.operating import OperatingPoint
from oat.training import Training

WARM_UP, LEAST_STEPS, MOST_STEPS = 2, 3, 20
MOST_SECONDS = {"cpu": 3.0, "cuda": 1.0}
"""Calls before any is timed; then so many are timed, at least and at most, or as many as end in so
many seconds. A GPU's times hardly differ."""


def seconds_per_step(training: Training) -> float:
    """Return the median time of a step, in seconds; the training's weights change."""
    endless = training.endless_steps()
    try:
        return _median_seconds(lambda: next(endless), training.device)
    finally:
        endless.close()


def seconds_of_validation(training: Training) -> float:
    """Return the time of one validation, in seconds, if no image is broken before the last step.

    A network that is not trained yet has few images right, and those leave the attack at once.
    So each image has the label that the network gives it, and the radius is 0; see `unbroken`.
    """
    split = training.dataset.val.head(training.config.val_images)
    attack = Pgd(steps=training.attack.steps, eps=0.0)
    total = 0.0
    for point in training.method.operating_points(training.val_lams):
        network = fold(training.model, *point)
        own = unbroken(network, split)
        synchronize(training.device)
        began = time.perf_counter()
        evaluate(network, own, attack)
        synchronize(training.device)
        total += time.perf_counter() - began
    return total


@torch.no_grad()
def unbroken(network: Network, split: Split) -> Split:
    """Return a split with the labels that a network gives it: at radius 0 none is ever wrong."""
    return replace(split, labels=network(unit(split.images)).argmax(dim=1))


def seconds_per_pass(training: Training, point: OperatingPoint, batch_size: int) -> float:
    """Return the time of judging: of one image passing the network at one operating point once.

    It is half of a step of an attack: the gradient of the loss with respect to the image.

    Args:
        training: Its network is folded at the point, to its real size.
        point: λ and width.
        batch_size: Images at a time.
    """
    split: Split = training.dataset.test.head(batch_size)
    network, images = fold(training.model, *point), unit(split.images)
    loss = cross_entropy_of(split.labels)
    seconds = _median_seconds(lambda: gradient(network, loss, images), training.device)
    return seconds / (2 * len(images))


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _median_seconds(call: Callable[[], object], device: torch.device) -> float:
    for _ in range(WARM_UP):
        call()
    synchronize(device)
    times: list[float] = []
    while len(times) < LEAST_STEPS or (
        len(times) < MOST_STEPS and sum(times) < MOST_SECONDS[device.type]
    ):
        began = time.perf_counter()
        call()
        synchronize(device)
        times.append(time.perf_counter() - began)
    return median(times)
