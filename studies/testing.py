"""Checks for what users bring: methods, networks, attacks, data; see docs/own.md."""

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from oat.attacks import Attack
from oat.data import DataConfig, Dataset, Split, load
from oat.method import Method, Oat
from oat.models import Conditioning, ModelConfig
from oat.models.own_check import check_own_network
from oat.own_attack import attack_class, check_own_attack
from oat.own_code import OwnCodeError, allow
from oat.recipe import TrainConfig
from oat.training import Training
from studies.errors import StudyError
from studies.known_methods import tuples
from studies.own_code import check_parts, check_value
from studies.own_method import check_losses, hold, theirs
from studies.study_file.method_blocks import RESERVED
from studies.study_file.own_blocks import check_fields

IMAGES, CLASSES, SIDE, BATCH = 24, 5, 8, 12
MODEL = ModelConfig("resnet8", width=8)
ATTACK = Attack(eps=0.1, steps=2)


def check_network(
    name: str,
    *,
    image_shape: tuple[int, int, int] = (3, 32, 32),
    num_classes: int = 10,
    args: Mapping[str, Any] | None = None,
    lam: bool = False,
) -> None:
    """Build a network of your own, and check what every network must hold.

    Args:
        name: ``module:function``, as in ``model.name`` of a study file.
        image_shape: Channels, height and width of the images that it is for.
        num_classes: Length of its logits.
        args: Its arguments, as in ``model.args``.
        lam: Whether OAT is to train it as well, with λ as an input.

    Raises:
        OwnCodeError: One sentence that says what does not hold.
    """
    allow([name])
    config = ModelConfig(name, args=dict(args or {}))
    asked = Oat().conditioning() if lam else Conditioning()
    check_own_network(config, asked, image_shape, num_classes)


def check_attack(
    name: str,
    *,
    eps: float = 8 / 255,
    image_shape: tuple[int, int, int] = (3, 32, 32),
    num_classes: int = 10,
    **options: Any,
) -> None:
    """Try an attack of your own on a linear network, and check what every attack must hold.

    Args:
        name: ``module:function``, as in ``evaluate.attacks`` of a study file.
        eps: Radius, in units of pixel values in [0, 1].
        image_shape: Channels, height and width of the images.
        num_classes: Length of the logits.
        **options: Its options.

    Raises:
        OwnCodeError: One sentence that says what does not hold.
    """
    allow([name])
    kind: Any = attack_class(name)
    check_own_attack(kind(eps=eps, **options), image_shape, num_classes)


def check_data(
    name: str, root: str = "./data", *, args: Mapping[str, Any] | None = None
) -> Dataset:
    """Read data of your own, check and split them as a study does, and return them.

    Args:
        name: ``module:function``, as in ``data.name`` of a study file.
        root: As in ``data.root``.
        args: Its arguments, as in ``data.args``.

    Raises:
        DataError: One sentence that says what does not hold.
    """
    allow([name])
    return load(DataConfig(name, root=root, args=dict(args or {})))


def check_method(method: Any) -> None:
    """Train small networks by a method on random images, and check what every method must hold.

    Args:
        method: An instance, such as ``Mart(beta=5)``.

    Raises:
        OwnCodeError: One sentence that says what does not hold.
    """
    hold(not isinstance(method, type), "Give an instance of the method, such as `Mart(beta=5)`.")
    kind = type(method).__name__
    try:
        check_parts(kind, type(method))
        if not isinstance(method, Oat):
            check_value(kind, type(method))
            check_fields(kind, type(method), RESERVED)
    except StudyError as error:
        raise OwnCodeError(str(error)) from error
    _check_fields(method, kind)
    shape = (3, SIDE, SIDE)
    check_losses(method, kind, model=MODEL, image_shape=shape, num_classes=CLASSES, attack=ATTACK)
    with theirs(method, kind):
        _check_training(method, kind)


def _check_fields(method: Any, kind: str) -> None:
    """Check that a method survives the way to a worker."""
    values = {field.name: getattr(method, field.name) for field in fields(method)}
    try:
        sent = json.loads(json.dumps(values))
    except TypeError as error:
        raise OwnCodeError(
            f"The fields of {kind} must be values that JSON has: {error}."
        ) from error
    same = type(method)(**tuples(sent)) == method
    hold(same, f"{kind} made from its own fields must be equal to it.")


def _check_training(method: Method, kind: str) -> None:
    """Check that a training by it is the same each time, and that its price is known."""
    first, second = (_trained(method) for _ in range(2))
    same = all(torch.equal(value, second[name]) for name, value in first.items())
    hold(same, f"Two trainings by {kind} from one seed must have the same weights.")
    work = method.work(ATTACK, BATCH)
    hold(bool(work), f"`work` of {kind} must say what training on one image takes.")


def _trained(method: Method) -> dict[str, Tensor]:
    """Return the weights of a training of one epoch."""
    train, val, test = (_random_split(seed) for seed in (2, 3, 4))
    data, settings = Dataset(train, val, test, CLASSES, "random"), DataConfig("digits")
    config = TrainConfig(epochs=1, batch_size=BATCH)
    training = Training(method, MODEL, data, settings, config, ATTACK, seed=0)
    for _ in training.epochs():
        pass
    return dict(training.model.state_dict())


def _random_split(seed: int) -> Split:
    shape = (IMAGES, 3, SIDE, SIDE)
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return Split(images, torch.arange(IMAGES) % CLASSES)
