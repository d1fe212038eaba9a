"""Two plain networks that serve every trade-off between them without further training.

`Mixture` mixes their outputs, `Interpolation` their weights. Both are networks with α in the place
of λ: `oat.deploy.fold` says what they are at one α.
"""

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from oat.models.network import Network
from oat.operating import check_alpha

Settle = Callable[[Network, float], None]
"""Gives a network the batch norm statistics of its weights, at an α."""


class Pair(nn.Module):
    """Two plain networks of one shape: the first is what runs at α = 0, the second at α = 1.

    Args:
        first: The one end.
        second: The other.

    Raises:
        ValueError: They are not plain, or not of one shape.
    """

    def __init__(self, first: Network, second: Network) -> None:
        super().__init__()
        if first.conditioning != second.conditioning or first.config != second.config:
            raise ValueError(
                "The two networks must have one shape, got "
                f"{first.config} at {first.conditioning.base_width:g} of its width and "
                f"{second.config} at {second.conditioning.base_width:g}."
            )
        if first.encoding is not None:
            raise ValueError("The two networks must be plain, got networks with λ as an input.")
        self.networks = first, second
        self.ends = nn.ModuleList(self.networks)


class Mixture(Pair):
    """Two networks whose class probabilities are mixed."""


class Mixed(nn.Module):
    """A mixture at one α: ``log((1 - α) softmax(f0(x)) + α softmax(f1(x)))``, in float32.

    Log-probabilities are logits: their softmax is the mixture, and so an attack goes through it.

    Args:
        first: Network of the weight 1 - α, in eval mode.
        second: Network of the weight α.
        alpha: The weight, in (0, 1).
    """

    def __init__(self, first: Network, second: Network, alpha: float) -> None:
        super().__init__()
        self.networks = first, second
        self.ends = nn.ModuleList(self.networks)
        weights = torch.tensor([1 - alpha, alpha], dtype=torch.float64)
        self.log_weights: list[float] = weights.log().tolist()

    def forward(self, images: Tensor) -> Tensor:
        """Classify images (N, C, H, W); return log-probabilities (N, K)."""
        first, second = (
            weight + functional.log_softmax(end(images).float(), dim=1)
            for weight, end in zip(self.log_weights, self.networks, strict=True)
        )
        return torch.logaddexp(first, second)


class Interpolation(Pair):
    """Two networks whose weights are interpolated: ``(1 - α) θ0 + α θ1``.

    Batch norm statistics are no weights: those of a network in between are not in between, so that
    they are estimated for each α. The ends keep their own.

    Args:
        first: Network of the weights θ0.
        second: Network of the weights θ1, usually trained from these on: between networks that were
            trained from scratch there is a barrier (Zhao et al., arXiv 2005.00060).
        settle: Estimates the statistics.
    """

    def __init__(self, first: Network, second: Network, settle: Settle) -> None:
        super().__init__(first, second)
        self._settle = settle
        self._between: dict[float, Network] = {}

    def at(self, alpha: float) -> Network:
        """Return the network at an α in [0, 1]; one that was asked for before is not made again.

        Raises:
            ValueError: α is out of its range.
        """
        check_alpha(alpha)
        first, second = self.networks
        if alpha in (0, 1):
            return second if alpha else first
        if alpha not in self._between:
            network = copy.deepcopy(first)
            between = interpolated(first.state_dict(), second.state_dict(), alpha)
            network.load_state_dict(between)
            self._settle(network, alpha)
            self._between[alpha] = network
        return self._between[alpha]


def interpolated(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor], alpha: float
) -> dict[str, Tensor]:
    """Return ``(1 - α) first + α second`` of two states; of counts, the second's.

    Args:
        first: Tensors by name.
        second: Others of the same names and shapes.
        alpha: The weight, in [0, 1].
    """
    return {
        name: torch.lerp(value, second[name], alpha)
        if value.is_floating_point()
        else second[name].clone()
        for name, value in first.items()
    }
