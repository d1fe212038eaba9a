"""What a training costs: its steps, and the passes for the statistics of averaged weights."""

from oat.attacks import Attack
from oat.method import Method
from oat.models.config import ModelConfig
from oat.models.forecast import relative_flops
from oat.recipe import TrainConfig, images_seen


def training_units(
    method: Method,
    attack: Attack,
    train: TrainConfig,
    model: ModelConfig,
    image_shape: tuple[int, int, int],
    images: int,
) -> float:
    """Return the cost of a training on so many images, in forward passes of the plain network.

    It is the network at full width. A pass at a width counts as its share of the operations; FiLM's
    are not counted. Where averaged weights get their batch norm statistics nothing is learnt: such
    a pass has no backward.
    """
    seen = images_seen(train, images)
    work = method.work(attack, min(train.batch_size, images))
    return sum(
        (seen.stepped * each.units + seen.settled * each.units_without_step)
        * relative_flops(model, width, image_shape)
        for width, each in work.items()
    )


def training_gradients(method: Method, attack: Attack, train: TrainConfig, images: int) -> float:
    """Return the gradient evaluations of a training on so many images, those at every width."""
    seen = images_seen(train, images)
    work = method.work(attack, min(train.batch_size, images)).values()
    return sum(seen.stepped * each.gradients + seen.settled * each.attacked for each in work)


def step_units(
    method: Method,
    attack: Attack,
    batch_size: int,
    model: ModelConfig,
    image_shape: tuple[int, int, int],
) -> float:
    """Return the cost of a step for each image of its batch; see `training_units`."""
    work = method.work(attack, batch_size)
    return sum(w.units * relative_flops(model, width, image_shape) for width, w in work.items())
