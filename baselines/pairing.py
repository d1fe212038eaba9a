"""What methods share that train nothing, but pair two retrained models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from baselines.untrained import Untrained
from oat.lambdas import check_choices
from oat.models.config import Conditioning
from oat.operating import OperatingPoint, check_alpha
from oat.widths import check_width


@dataclass(frozen=True)
class Pairing(Untrained):
    """Two trained networks with a weight α between them.

    Attributes:
        of: Labels of two retrained models of the study, as `oat plan` prints them: what runs at
            α = 0, and at α = 1.
        alphas: α to evaluate at, each in [0, 1]; they stand in the column `lam`.
        width_mult: Share of the configured channels that both networks have, in (0, 1].

    Raises:
        ValueError: A value is out of its range.
    """

    of: tuple[str, ...]
    alphas: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    width_mult: float = 1.0

    def __post_init__(self) -> None:
        if len(self.of) != 2 or len(set(self.of)) < 2:
            raise ValueError(
                "`of` must name two different retrained models of the study, got "
                f"{', '.join(self.of) or 'none'}."
            )
        if not self.alphas:
            raise ValueError("`alphas` must name at least one value, got an empty list.")
        for alpha in self.alphas:
            check_alpha(alpha, "alphas")
        check_choices(self.alphas, "alphas")
        check_width(self.width_mult)

    def conditioning(self) -> Conditioning:
        """Return a plain network: each of the two is one."""
        return Conditioning(base_width=self.width_mult)

    def operating_points(self, lams: Sequence[float]) -> list[OperatingPoint]:
        """Return its own α; λ are those of other methods."""
        return [OperatingPoint(alpha) for alpha in self.alphas]
