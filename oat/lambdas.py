"""The trade-off weight λ: its choices, and its sampling in training.

Source: Wang et al., NeurIPS 2020, section 3 and supplement.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, get_args

from oat.names import check_literals

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Sampling = Literal["choices", "uniform", "steep"]
SAME_LAM = 1e-6
"""Two λ closer than this are the same."""

SAMPLINGS: tuple[Sampling, ...] = get_args(Sampling)


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


def check_choices(choices: Sequence[float], name: str = "lambda_choices") -> None:
    """Refuse a λ set that is empty, leaves [0, 1], or has values closer than `SAME_LAM`.

    Raises:
        ValueError: As above.
    """
    if not choices:
        raise ValueError(f"`{name}` must name at least one λ, got an empty list.")
    for lam in choices:
        check_lam(lam, name)
    ordered = sorted(choices)
    for lam, following in pairwise(ordered):
        if following - lam < SAME_LAM:
            raise ValueError(
                f"`{name}` must not repeat a value, or have two closer than {SAME_LAM:g}, "
                f"got {lam:g} and {following:g}."
            )
    if 0 < ordered[0] < SAME_LAM:
        raise ValueError(f"`{name}` must be 0 or at least {SAME_LAM:g}, got {ordered[0]:g}.")


@dataclass(frozen=True)
class RowLams:
    """The λ of each row of a batch; the rows with λ = 0 stand first.

    Attributes:
        values: The λ that may occur, shape (K,).
        index: Which of them each row has, shape (N,).
        num_zero: Rows with λ = 0.
    """

    values: Tensor
    index: Tensor
    num_zero: int

    def rows(self) -> Tensor:
        """Return the λ of each row, shape (N,)."""
        return self.values[self.index]


@dataclass(frozen=True)
class LambdaSampler:
    """How the λ of a training batch are drawn.

    Attributes:
        choices: The λ set.
        sampling: ``choices`` draws from the set; ``uniform`` from (0, 1]; ``steep`` the square of
            that, of density 1 / (2 √λ), which favours the steep end of the trade-off near 0.
        zero_share: Share of rows with λ = 0, rounded up; None is one in ``len(choices)``.
        batchwise: Draw one λ for the whole batch instead of one for each row.

    Raises:
        ValueError: The values do not fit together.
    """

    choices: tuple[float, ...]
    sampling: Sampling = "choices"
    zero_share: float | None = None
    batchwise: bool = False

    def __post_init__(self) -> None:
        check_choices(self.choices)
        check_literals(self)
        if self.sampling != "choices" and not self._others:
            raise ValueError(
                f"`lambda_sampling` '{self.sampling}' needs a λ above 0 among `lambda_choices`, "
                f"got {list(self.choices)}."
            )
        if self.zero_share is None:
            return
        if 0 not in self.choices:
            raise ValueError(
                f"`zero_share` needs 0 among `lambda_choices`, got {list(self.choices)}."
            )
        if not 0 < self.zero_share < 1:
            raise ValueError(f"`zero_share` must be in (0, 1), got {self.zero_share:g}.")

    @property
    def _others(self) -> list[float]:
        return [lam for lam in self.choices if lam != 0]

    def num_zero_rows(self, batch_size: int) -> int:
        """Count the rows that train at λ = 0: ``ceil(batch_size / len(choices))`` by default.

        Zero where 0 is not among the choices, the whole batch where it is the only one. A
        `zero_share` leaves at least one row of a batch to the others.
        """
        if 0 not in self.choices:
            return 0
        if not self._others:
            return batch_size
        if self.zero_share is None:
            return math.ceil(batch_size / len(self.choices))
        return min(max(1, batch_size - 1), math.ceil(self.zero_share * batch_size - 1e-9))

    def share_of_zero(self, batch_size: int) -> float:
        """Return the expected share of rows with λ = 0."""
        if self.batchwise and self.zero_share is not None and self._others:
            return self.zero_share
        if self.batchwise:
            return 1 / len(self.choices) if 0 in self.choices else 0.0
        return self.num_zero_rows(batch_size) / batch_size

    def share_of_one(self, batch_size: int) -> float:
        """Return the expected share of rows with λ = 1."""
        if self.sampling != "choices" or 1 not in self.choices:
            return 0.0
        return (1 - self.share_of_zero(batch_size)) / len(self._others)

    def draw(self, batch_size: int, *, generator: torch.Generator) -> RowLams:
        """Draw the λ of each row.

        Args:
            batch_size: Rows N.
            generator: Source of randomness; the tensors live on its device.

        Returns:
            Of N rows the first `num_zero_rows` have λ = 0; batch-wise, all or none.
        """
        import torch

        device = generator.device
        if self.batchwise:
            coin = torch.rand((), generator=generator, device=device)
            num_zero = batch_size if coin < self.share_of_zero(batch_size) else 0
            value = torch.zeros(1, device=device)
            if not num_zero:
                values, index = self._draw_others(1, generator)
                value = values[index]
            return RowLams(
                value, torch.zeros(batch_size, dtype=torch.long, device=device), num_zero
            )
        num_zero = self.num_zero_rows(batch_size)
        zeros = torch.zeros(num_zero, dtype=torch.long, device=device)
        if num_zero == batch_size:
            return RowLams(torch.zeros(1, device=device), zeros, num_zero)
        values, index = self._draw_others(batch_size - num_zero, generator)
        return RowLams(values, torch.cat([zeros, index]), num_zero)

    def _draw_others(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw λ ≠ 0: the values that may occur after a 0 in front, and which of them each is."""
        import torch

        device = generator.device
        if self.sampling == "choices":
            others = self._others
            picks = torch.randint(len(others), (count,), generator=generator, device=device)
            # one by one: a tensor from a list would be copied from the host, which waits
            values = [torch.full((1,), lam, device=device) for lam in (0.0, *others)]
            return torch.cat(values), 1 + picks
        # 1 - u is in (0, 1]: no λ = 0 among the rows that are attacked
        lams = 1 - torch.rand(count, generator=generator, device=device)
        lams = lams.square() if self.sampling == "steep" else lams
        zero = torch.zeros(1, device=device)
        return torch.cat([zero, lams]), torch.arange(1, count + 1, device=device)
