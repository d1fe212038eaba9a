"""The trade-off weight λ: its choices, its sampling in training, and its encoding as a vector.

Source: Wang et al., NeurIPS 2020, section 3 and supplement.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

Encoding = Literal["none", "onehot", "dct", "random"]
SAME_LAM = 1e-6
"""Two λ closer than this are the same."""

ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)


def check_lam(lam: float, name: str = "lam") -> None:
    """Refuse a trade-off weight outside [0, 1].

    Raises:
        ValueError: ``lam`` is outside [0, 1] or not a number.
    """
    if not 0 <= lam <= 1:
        raise ValueError(
            f"`{name}` must be in [0, 1] (0 is clean training, 1 adversarial training), "
            f"got {lam:g}."
        )


def check_choices(choices: Sequence[float]) -> None:
    """Refuse a λ set that is empty, repeats a value, or leaves [0, 1].

    Raises:
        ValueError: As above.
    """
    if not choices:
        raise ValueError("`lambda_choices` must name at least one λ, got an empty list.")
    for lam in choices:
        check_lam(lam, "lambda_choices")
    if len(set(choices)) != len(choices):
        raise ValueError(f"`lambda_choices` must not repeat a value, got {list(choices)}.")


def num_zero_rows(choices: Sequence[float], batch_size: int) -> int:
    """Count the rows of a batch that train at λ = 0: ``ceil(batch_size / len(choices))``.

    Zero where 0 is not among the choices, the whole batch where it is the only one.
    """
    if 0 not in choices:
        return 0
    return batch_size if len(choices) == 1 else math.ceil(batch_size / len(choices))


def sample_lam_index(
    choices: Sequence[float], batch_size: int, *, generator: torch.Generator
) -> Tensor:
    """Draw the λ of each row as an index into ``choices``; the rows with λ = 0 stand first.

    Args:
        choices: The λ set, values in [0, 1].
        batch_size: Rows N.
        generator: Source of randomness; the indices live on its device.

    Returns:
        Indices, shape (N,), the first `num_zero_rows` of them pointing at 0 and the rest
        uniform over the other choices.
    """
    num_zero = num_zero_rows(choices, batch_size)
    device = generator.device
    others = torch.tensor([i for i, lam in enumerate(choices) if lam != 0], device=device)
    zeros = torch.full((num_zero,), list(choices).index(0) if num_zero else 0, device=device)
    if num_zero == batch_size:
        return zeros
    draws = torch.randint(len(others), (batch_size - num_zero,), generator=generator, device=device)
    return torch.cat([zeros, others[draws]])


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


class LambdaEncoding(nn.Module):
    """Maps λ to the vector that FiLM is conditioned on; its table is part of the checkpoint.

    Args:
        choices: The λ set the network is trained on.
        encoding: ``none`` passes λ itself (dimension 1, any λ in [0, 1]); the others look up
            the row of λ in an orthogonal matrix and know the listed values only.
        dim: Length E of the code; at least the number of choices.

    Raises:
        ValueError: The λ set or the dimension does not fit.
    """

    choices: Tensor
    table: Tensor

    def __init__(self, choices: Sequence[float], encoding: Encoding, dim: int = 128) -> None:
        super().__init__()
        check_choices(choices)
        self.encoding = encoding
        self.dim = 1 if encoding == "none" else dim
        self.register_buffer("choices", torch.tensor(choices, dtype=torch.float64))
        if encoding == "none":
            table = torch.tensor(choices, dtype=torch.float32).unsqueeze(1)
        elif len(choices) > dim:
            raise ValueError(
                f"`encoding_dim` must be at least the number of λ choices, "
                f"got {dim} for {len(choices)} choices."
            )
        else:
            table = encoding_matrix(encoding, dim)[: len(choices)].clone()
        self.register_buffer("table", table)

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
        if self.encoding == "none":
            return torch.full_like(self.table[:1], lam)
        match = (self.choices - lam).abs() < SAME_LAM
        if not bool(match.any()):
            known = ", ".join(f"{c:g}" for c in self.choices.tolist())
            raise ValueError(
                f"`lam` {lam:g} was not trained: the encoding {self.encoding!r} knows {known} only."
            )
        return self.table[match]
