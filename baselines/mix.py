"""Two retrained models whose class probabilities are mixed: a rival of OAT without training."""

from dataclasses import dataclass
from typing import ClassVar

from baselines.pairing import Pairing


@dataclass(frozen=True)
class Mix(Pairing):
    """The outputs of two retrained models, mixed with a weight α; nothing is trained.

    An image gets ``log((1 - α) softmax(f0(x)) + α softmax(f1(x)))``. Every attack goes through the
    whole mixture. Both networks run, but for α = 0 and α = 1.

    Source: mixtures of a plain and a robust classifier, as in Bai et al., arXiv 2301.12554.
    """

    name: ClassVar[str] = "mix"
