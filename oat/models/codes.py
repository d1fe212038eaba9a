"""The vector that a network is conditioned on at a trade-off weight λ.

Source: Wang et al., NeurIPS 2020, section 3 and supplement.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from oat.encodings import BY_VALUE, Encoding, check_encoding
from oat.lambdas import SAME_LAM, check_choices, check_lam

CYCLES = (0.25, 16.0)
"""Lowest and highest frequency of the continuous encoding, in cycles from λ = 0 to λ = 1."""


def encoding_matrix(encoding: Encoding, dim: int) -> Tensor:
    """Build the ``dim`` x ``dim`` matrix whose row j encodes the j-th λ of the set.

    ``onehot`` is the identity, ``dct`` the orthonormal DCT-II, ``random`` a random orthogonal
    matrix drawn from torch's global generator.

    Raises:
        ValueError: The encoding has no matrix.
    """
    if encoding == "onehot":
        return torch.eye(dim)
    if encoding == "dct":
        k, n = torch.arange(dim).double().unsqueeze(1), torch.arange(dim).double()
        rows = torch.cos(math.pi * k * (2 * n + 1) / (2 * dim)) * math.sqrt(2 / dim)
        rows[0] /= math.sqrt(2)
        return rows.float()
    if encoding == "random":
        q, r = torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64))
        rotation: Tensor = q * r.diagonal().sign()
        return rotation.float()
    raise ValueError(f"`encoding` {encoding!r} has no matrix.")


def sinusoids(lams: Tensor, dim: int) -> Tensor:
    """Encode any λ by sines and cosines of geometric frequencies, as vectors of length 1.

    Args:
        lams: Trade-off weights, shape (K,).
        dim: Length E of the code, even.

    Returns:
        Codes, shape (K, E).

    Source: the position encoding of Vaswani et al., NeurIPS 2017, over `CYCLES`.
    """
    low, high = CYCLES
    exponents = torch.linspace(0, 1, dim // 2, dtype=torch.float64, device=lams.device)
    cycles = low * (high / low) ** exponents
    angles = 2 * math.pi * lams.double()[:, None] * cycles
    codes = torch.cat([angles.sin(), angles.cos()], dim=1) * math.sqrt(2 / dim)
    return codes.float()


class LambdaEncoding(nn.Module):
    """Maps λ to the vector that FiLM is conditioned on; its table is part of the checkpoint.

    Codes are float32.

    Args:
        choices: The λ set the network is trained on.
        encoding: ``none`` passes λ itself (dimension 1) and ``continuous`` `sinusoids` of it: they
            know any λ in [0, 1]. The others look up the row of λ in an orthogonal matrix and
            know the listed values only.
        dim: Length E of the code; at least the number of choices, or even for ``continuous``.

    Raises:
        ValueError: The λ set or the dimension does not fit.
    """

    choices: Tensor
    table: Tensor

    def __init__(self, choices: Sequence[float], encoding: Encoding, dim: int = 128) -> None:
        super().__init__()
        check_choices(choices)
        check_encoding(encoding, dim, choices)
        self.encoding = encoding
        self.dim = 1 if encoding == "none" else dim
        lams = torch.tensor(choices, dtype=torch.float64)
        self.register_buffer("choices", lams)
        if encoding in BY_VALUE:
            table = self.encode(lams)
        else:
            table = encoding_matrix(encoding, dim)[: len(choices)].clone()
        self.register_buffer("table", table)

    def encode(self, lams: Tensor) -> Tensor:
        """Encode several λ that are known to be in the set, or in [0, 1] by value.

        Args:
            lams: Trade-off weights, shape (K,).

        Returns:
            Codes, shape (K, E).
        """
        if self.encoding == "none":
            return lams.float().unsqueeze(1)
        if self.encoding == "continuous":
            return sinusoids(lams, self.dim)
        return self.table[(self.choices - lams.double().unsqueeze(1)).abs().argmin(dim=1)]

    def forward(self, lam: float) -> Tensor:
        """Encode one λ.

        Args:
            lam: Trade-off weight in [0, 1].

        Returns:
            The code, shape (1, E).

        Raises:
            ValueError: λ is outside [0, 1], or was not trained and the encoding is by index.
        """
        check_lam(lam)
        if self.encoding not in BY_VALUE:
            match = (self.choices - lam).abs() < SAME_LAM
            if not bool(match.any()):
                known = ", ".join(f"{c:g}" for c in self.choices.tolist())
                raise ValueError(
                    f"`lam` {lam:g} was not trained: the encoding {self.encoding!r} knows "
                    f"{known} only."
                )
        return self.encode(torch.tensor([lam], dtype=torch.float64, device=self.choices.device))
