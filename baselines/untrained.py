"""What methods share that train nothing: their models are there, or are made of models that are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from oat.attacks import Attack
from oat.method import Work

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from oat.models import Network


class Untrained:
    """A method that trains nothing."""

    def losses(
        self,
        model: Network,
        images: Tensor,
        labels: Tensor,
        *,
        attack: Attack,
        generator: torch.Generator,
        label_smoothing: float = 0.0,
    ) -> Iterator[Tensor]:
        """Yield nothing: nothing is trained."""
        yield from ()

    def fixed_shapes(self) -> bool:
        """There is no step whose shapes could change."""
        return True

    def work(self, attack: Attack, batch_size: int) -> dict[float, Work]:
        """Nothing is trained."""
        return {}
