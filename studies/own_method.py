"""What a step of a method of the user's must yield, tried on random images before anything runs."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from oat.attacks import Attack
from oat.models import ModelConfig, Network, build
from oat.own_code import OwnCodeError, failed_in

ROWS = 12


def check_losses(
    method: Any,
    named: str,
    *,
    model: ModelConfig,
    image_shape: tuple[int, int, int],
    num_classes: int,
    attack: Attack,
) -> None:
    """Check shape, values, randomness and gradients of the losses of one step.

    Args:
        method: An instance of the user's class.
        named: What it is called in a sentence.
        model: The network that it trains.
        image_shape: Channels, height and width of the images.
        num_classes: Length of the logits.
        attack: The attack of training.

    Raises:
        OwnCodeError: One sentence that says what does not hold.
    """
    images = torch.rand(ROWS, *image_shape, generator=_generator(0))
    labels, before = torch.arange(ROWS) % num_classes, images.clone()

    def losses(network: Network) -> list[Tensor]:
        with theirs(method, named):
            return list(
                method.losses(network, images, labels, attack=attack, generator=_generator(1))
            )

    def network() -> Network:
        with torch.random.fork_rng(devices=[]), theirs(method, named):
            torch.manual_seed(0)
            made: Network = build(
                model,
                in_channels=image_shape[0],
                num_classes=num_classes,
                conditioning=method.conditioning(),
            )
        return made.train()

    first = network()
    found = losses(first)
    hold(bool(found), f"`losses` of {named} yields nothing.")
    for loss in found:
        shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        said = f"must yield a loss for each image, shape ({ROWS},), got {shape}"
        hold(shape == (ROWS,), f"`losses` of {named} {said}.")
        finite = bool(loss.isfinite().all())
        hold(finite, f"`losses` of {named} yields values that are not finite.")
    hold(torch.equal(images, before), f"`losses` of {named} must leave the images as they are.")
    again = losses(network())
    same = len(again) == len(found) and all(map(torch.equal, found, again))
    hold(
        same, f"`losses` of {named} must draw from `generator` alone: the same one gave other ones."
    )
    total = torch.stack([loss.mean() for loss in found]).sum()
    hold(total.requires_grad, f"`losses` of {named} gives no gradient: no weight decides it.")
    with theirs(method, named):
        total.backward()  # type: ignore[no-untyped-call]
    left = [name for name, value in first.named_parameters() if value.grad is None]
    hold(not left, f"`losses` of {named} gives no gradient to {', '.join(left)}.")


def hold(holds: bool, said: str) -> None:
    """Refuse what does not hold.

    Raises:
        OwnCodeError: It does not.
    """
    if not holds:
        raise OwnCodeError(said)


@contextmanager
def theirs(method: object, named: str) -> Iterator[None]:
    """Tell whatever the code of a method raises as its own, with the line."""
    try:
        yield
    except OwnCodeError:
        raise
    except (Exception, SystemExit) as error:
        raise failed_in(_files_of(type(method)), f"The method {named}", error) from error


def _files_of(kind: type[object]) -> list[Path]:
    """Return the files of a class and of those that it inherits from, but for ours."""
    found = []
    for parent in kind.__mro__:
        if parent.__module__.partition(".")[0] not in ("oat", "studies", "builtins"):
            source = inspect.getsourcefile(parent)
            found += [] if source is None else [Path(source)]
    return found


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
