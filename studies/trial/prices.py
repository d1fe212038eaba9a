"""What the models of a trial cost: their own training, or all trainings behind a pair of them."""

from collections.abc import Iterable

from baselines import Checkpoint
from oat.attacks import Attack
from oat.price import training_gradients
from oat.recipe import TrainConfig
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
    method = method_of(config)
    if isinstance(method, Checkpoint):
        return {"device_seconds": None, "train_units": None, "train_gradients": None}
    if "behind" in trained:
        return trained["behind"]
    return {
        "device_seconds": trained["device_seconds"],
        "train_units": trained["train_units"],
        "train_gradients": training_gradients(
            method, Attack(**config["attack"]), TrainConfig(**tuples(config["train"])), count
        ),
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
