"""Feature-wise linear modulation: scale and shift of each channel as a function of encoded λ.

Source: Perez et al., AAAI 2018; placed and shaped as in Wang et al., NeurIPS 2020.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class FiLM(nn.Module):
    """Two-layer network from a λ code to one scale and one shift a channel.

    ``Linear(E, 2C) -> LeakyReLU -> Linear(2C, 2C)``, split into scale and shift, LeakyReLU on
    both. At a share of the channels both layers are sliced.

    Args:
        channels: Channels C at full width.
        dim: Length E of the λ code.
        slices: Which outputs serve the first c channels: ``halves`` takes c of the C scales and
            c of the C shifts, so that a channel reads the same outputs at every width;
            ``leading`` takes the first 2c outputs and splits those, as the published OATS does.
        init: ``paper`` leaves torch's default initialisation, as the authors do; ``identity``
            starts with scale 1 and shift 0 for every λ (see docs/log.md for the measurement).

    Raises:
        ValueError: ``init`` is neither.
    """

    def __init__(
        self, channels: int, dim: int, *, init: str = "identity", slices: str = "halves"
    ) -> None:
        super().__init__()
        self.channels = channels
        self.slices = slices
        self.hidden = nn.Linear(dim, 2 * channels)
        self.out = nn.Linear(2 * channels, 2 * channels)
        if init == "identity":
            with torch.no_grad():
                self.out.weight.zero_()
                self.out.bias[:channels].fill_(1)
                self.out.bias[channels:].zero_()
        elif init != "paper":
            raise ValueError(f"`film_init` must be 'identity' or 'paper', got {init!r}.")

    def forward(self, code: Tensor, channels: int) -> tuple[Tensor, Tensor]:
        """Compute the modulation of the first ``channels`` channels.

        Args:
            code: Encoded λ, shape (K, E).
            channels: Channels in use, at most C.

        Returns:
            Scale and shift, each of shape (K, ``channels``).
        """
        n = 2 * channels
        hidden = functional.leaky_relu(
            functional.linear(code, self.hidden.weight[:n], self.hidden.bias[:n])
        )
        weight: Tensor = self.out.weight[:, :n]
        bias: Tensor = self.out.bias
        if channels == self.channels:
            pass
        elif self.slices == "leading":
            weight, bias = weight[:n], bias[:n]
        else:
            weight, bias = (
                torch.cat([half[:channels] for half in full.chunk(2)]) for full in (weight, bias)
            )
        out = functional.leaky_relu(functional.linear(hidden, weight, bias))
        scale, shift = out.chunk(2, dim=1)
        return scale, shift
