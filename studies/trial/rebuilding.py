"""A trained network, or a pair of them, from its weights and its config."""

from baselines import Interpolate, Mix
from oat.attacks import Attack
from oat.data import DataConfig, Dataset
from oat.method import Method
from oat.models import Interpolation, Mixture, ModelConfig, Network, Pair, build
from oat.models.pairs import Settle
from oat.statistics import settle
from studies.trial.shapes import TrialConfig


def rebuild(
    config: TrialConfig, method: Method, dataset: Dataset, weights: bytes
) -> Network | Pair:
    """Rebuild a trained network, or a pair of them, on the device of the data."""
    from safetensors.torch import load as load_tensors

    def plain() -> Network:
        return build(
            ModelConfig(**config["model"]),
            in_channels=dataset.image_shape[0],
            num_classes=dataset.num_classes,
            conditioning=method.conditioning(),
        )

    model: Network | Pair
    if isinstance(method, Mix):
        model = Mixture(plain(), plain())
    elif isinstance(method, Interpolate):
        model = Interpolation(plain(), plain(), _settling(config, method, dataset))
    else:
        model = plain()
    model.load_state_dict(load_tensors(weights))
    return model.to(dataset.train.images.device)


def _settling(config: TrialConfig, method: Interpolate, dataset: Dataset) -> Settle:
    """Return how the networks between two others take their statistics, as in training."""
    data, attack = DataConfig(**config["data"]), Attack(**config["attack"])
    size, seed = config["train"]["batch_size"], config["seed"]

    def settled(network: Network, alpha: float) -> None:
        between = method.between(alpha)
        settle(network, between, dataset, data, attack, batch_size=size, seed=seed)

    return settled
