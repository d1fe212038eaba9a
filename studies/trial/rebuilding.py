"""A trained network, or a pair of them, from its weights and its config."""

from collections.abc import Mapping

from torch import Tensor

from baselines import Interpolate, Mix
from oat.attacks import Attack
from oat.data import DataConfig, Dataset
from oat.method import Method
from oat.models import Interpolation, Mixture, Network, Pair, build_unfilled
from oat.models.pairs import Settle
from oat.statistics import settle
from studies.own_code import ATTACK, DATA, METHOD, NETWORK, model_of
from studies.trial.shapes import TrialConfig, TrialJob


def rebuild(
    config: TrialConfig, method: Method, dataset: Dataset, weights: bytes
) -> Network | Pair:
    """Rebuild a trained network, or a pair of them, on the device of the data."""
    from safetensors.torch import load as load_tensors

    model = network_of(
        config,
        method,
        load_tensors(weights),
        in_channels=dataset.image_shape[0],
        num_classes=dataset.num_classes,
        statistics=statistics_by(config, method, dataset),
    )
    return model.to(dataset.train.images.device)


def network_of(
    config: TrialConfig,
    method: Method,
    state: Mapping[str, Tensor],
    *,
    in_channels: int,
    num_classes: int,
    statistics: Settle | None,
) -> Network | Pair:
    """Rebuild a trained network, or a pair of them, on the CPU and in train mode.

    Args:
        config: Of its trial.
        method: Its method.
        state: Its weights.
        in_channels: Channels of the images.
        num_classes: Length of the logits.
        statistics: Gives networks between two others their statistics; only `Interpolate` asks.

    Raises:
        ValueError: Statistics are asked for, and there is nothing to take them from.
    """

    def plain() -> Network:
        return build_unfilled(
            model_of(config),
            in_channels=in_channels,
            num_classes=num_classes,
            conditioning=method.conditioning(),
        )

    model: Network | Pair
    if isinstance(method, Mix):
        model = Mixture(plain(), plain())
    elif isinstance(method, Interpolate):
        if statistics is None:
            raise ValueError("networks between two others need the data for their statistics")
        model = Interpolation(plain(), plain(), statistics)
    else:
        model = plain()
    model.load_state_dict(state)
    return model


def statistics_by(config: TrialConfig, method: Method, dataset: Dataset) -> Settle | None:
    """Return how networks between two others take their statistics, as in training."""
    if not isinstance(method, Interpolate):
        return None
    data, attack = DataConfig(**config["data"]), Attack(**config["attack"])
    size, seed = config["train"]["batch_size"], config["seed"]

    def settled(network: Network, alpha: float) -> None:
        between = method.between(alpha)
        settle(network, between, dataset, data, attack, batch_size=size, seed=seed)

    return settled


def own_code_of(job: TrialJob) -> dict[str, str]:
    """Return the names of the user's code of a study, and what each is in the trial."""
    config = job["config"]
    method = config["method"]
    kinds = {
        method["name"]: METHOD,
        config["model"]["name"]: NETWORK,
        method.get("model", config["model"])["name"]: NETWORK,  # of a network from outside
        config["data"]["name"]: DATA,
    }
    return {name: kinds.get(name, ATTACK) for name in job.get("own", ())}
