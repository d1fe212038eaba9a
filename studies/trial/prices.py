"""What the models of a trial cost: their own training, or all trainings behind a pair of them."""

from collections.abc import Iterable
from dataclasses import replace

from baselines import Checkpoint
from oat.attacks import Attack
from oat.method import training_gradients
from oat.recipe import TrainConfig, images_seen
from studies.known_methods import method_of, tuples
from studies.trial.shapes import TrialConfig
from studies.trial.sources import SourceModel
from studies.trial.stored import Price, Trained


def price_of(config: TrialConfig, trained: Trained, count: int) -> Price:
    """Return what the points of a trial cost in training.

    Args:
        config: Of the trial.
        trained: The record of its training.
        count: Training images.
    """
    if isinstance(method_of(config), Checkpoint):
        return {"device_seconds": None, "train_units": None, "train_gradients": None}
    if "behind" in trained:
        return trained["behind"]
    return {
        "device_seconds": trained["device_seconds"],
        "train_units": trained["train_units"],
        "train_gradients": _gradients(config, count),
    }


def price_behind(sources: Iterable[SourceModel], count: int) -> Price:
    """Return what several trainings took together.

    Args:
        sources: The models that they made, each once.
        count: Training images.
    """
    prices = [price_of(source.config(), source.trained, count) for source in sources]
    return {
        "device_seconds": sum(price["device_seconds"] or 0.0 for price in prices),
        "train_units": sum(price["train_units"] or 0.0 for price in prices),
        "train_gradients": sum(price["train_gradients"] or 0.0 for price in prices),
    }


def _gradients(config: TrialConfig, count: int) -> float:
    """Return the gradient evaluations of a training: of so many images, at any width.

    The passes for the statistics of averaged weights make attacks, but no step.
    """
    method, attack = method_of(config), Attack(**config["attack"])
    train = TrainConfig(**tuples(config["train"]))
    size = min(train.batch_size, count)
    stepped = images_seen(replace(train, ema=None), count)
    attacked = sum(work.attacked for work in method.work(attack, size).values())
    return (
        stepped * training_gradients(method, attack, size)
        + (images_seen(train, count) - stepped) * attacked
    )
