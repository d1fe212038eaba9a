"""What holds where nobody says otherwise: the margin of "free", and how far models differ.

Every command reads this when it starts, so that it imports little.
"""

import math
from dataclasses import dataclass

MARGIN = 0.01
"""How much worse in SA and in RA still counts as free, as a fraction, unless another is given."""


@dataclass(frozen=True)
class Rates:
    """How far two models differ: what decides the width of an interval beside its sizes.

    The defaults are assumed. They are round numbers near those of small networks on digits and
    Fashion-MNIST; a study of one's own tells better ones, and `studies.power` takes them from it
    where it is named. NaN stands for what nothing tells.

    Attributes:
        sa_discordance: Share of the test images that exactly one of two models has right.
        ra_discordance: The same under attack.
        sa_spread: Standard deviation of SA between trainings of one setting, as a fraction.
        ra_spread: The same of RA.

    Raises:
        ValueError: A value is not from 0 to 1.
    """

    sa_discordance: float = 0.05
    ra_discordance: float = 0.15
    sa_spread: float = 0.005
    ra_spread: float = 0.009

    def known(self, otherwise: "Rates") -> "Rates":
        """Return these, and the others where these are not known."""
        return Rates(
            **{
                name: getattr(otherwise, name) if math.isnan(value) else value
                for name, value in vars(self).items()
            }
        )

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0 or value > 1:
                raise ValueError(f"`{name}` must be from 0 to 1, got {value:g}.")
