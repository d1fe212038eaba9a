"""What methods share that train one plain network for one trade-off value."""

from collections.abc import Mapping, Sequence

from oat.attacks import Attack
from oat.method import Work
from oat.models.config import Conditioning
from oat.operating import OperatingPoint


class Dedicated:
    """One plain network for one trade-off value.

    A subclass is a frozen dataclass with a field ``lam`` or ``beta``, and has `losses`. A field
    ``width_mult`` is the share of the configured channels.
    """

    width_mult: float = 1.0

    def conditioning(self) -> Conditioning:
        """Return a plain network of the method's width."""
        return Conditioning(base_width=self.width_mult)

    def fixed_shapes(self) -> bool:
        """Nothing is drawn that would change them."""
        return True

    def operating_points(self, lams: Sequence[float]) -> list[OperatingPoint]:
        """Return the only one: the network is not conditioned."""
        return [OperatingPoint(None)]

    def work(self, attack: Attack, batch_size: int) -> Mapping[float, Work]:
        """Count a clean pass, the attack and a pass on what it has found."""
        return {self.width_mult: Work(2, attacked=attack.steps)}
