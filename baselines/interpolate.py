"""Two retrained models whose weights are interpolated: a rival of OAT without training."""

from dataclasses import dataclass
from typing import ClassVar

from baselines.pairing import Pairing
from baselines.pgd_at import PgdAt


@dataclass(frozen=True)
class Interpolate(Pairing):
    """The weights of two retrained models, interpolated with a weight α; nothing is trained.

    The network at α has the weights ``(1 - α) θ0 + α θ1``; one network runs. The second model
    usually has a `start` from the first: between models that were both trained from scratch
    there is a barrier, and such a pair is a negative control.

    Source: paths between plain and robust models: Zhao et al., arXiv 2005.00060.
    """

    name: ClassVar[str] = "interpolate"

    def between(self, alpha: float) -> PgdAt:
        """Return the method by whose passes a network in between takes its statistics.

        A retrained model at λ = α sees as many clean as adversarial images, whatever λ in (0, 1)
        is; so does this network, and what it sees does not depend on how its ends were trained.
        """
        return PgdAt(alpha, self.width_mult)
