"""Which network, and what a method asks of it."""

import re
from dataclasses import dataclass
from typing import Any

from oat.encodings import Encoding
from oat.lambdas import SAME_LAM
from oat.names import unknown
from oat.own_code import NO_ARGS, frozen_args, is_own

# Blocks in each stage of a ResNet. Three stages start at 16 channels, four at 64.
STAGES: dict[str, tuple[int, ...]] = {
    "resnet8": (1, 1, 1),
    "resnet14": (2, 2, 2),
    "resnet20": (3, 3, 3),
    "resnet32": (5, 5, 5),
    "resnet10": (1, 1, 1, 1),
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
}
BOTTLENECKS = frozenset({"resnet50"})


WIDE = re.compile(r"wrn-(\d+)-(\d+)")
EXAMPLES = (*STAGES, "wrn-16-8", "wrn-40-2", "wrn-34-10")


@dataclass(frozen=True)
class ModelConfig:
    """Which network.

    Attributes:
        name: A key of `STAGES`, ``wrn-D-K`` of depth D = 6n + 4 and widening factor K, or a
            function of your own, ``module:function`` (docs/own.md).
        width: Channels of the first stage (of the stem of a ``wrn``); None is the family's own:
            16, or 64 for a ResNet of four stages.
        dropout: Share of features dropped in each block of a ``wrn``.
        args: Keyword arguments of a function of your own.

    Raises:
        ValueError: The name is unknown, or a value out of its range.
    """

    name: str = "resnet34"
    width: int | None = None
    dropout: float = 0.0
    args: dict[str, Any] = NO_ARGS

    def __post_init__(self) -> None:
        object.__setattr__(self, "args", frozen_args(self.args))
        if self.own:
            self._check_own()
            return
        if self.args:
            raise ValueError(
                f"`args` must be left out for {self.name}; they are those of a function of your "
                "own."
            )
        match = WIDE.fullmatch(self.name)
        if match is None and self.name not in STAGES:
            raise ValueError(unknown("model", self.name, EXAMPLES))
        if match is not None and (
            (int(match[1]) - 4) % 6 or int(match[1]) < 10 or int(match[2]) < 1
        ):
            raise ValueError(
                f"`name` wrn-D-K needs a depth D of 10, 16, 22, … and K of at least 1, "
                f"got '{self.name}'."
            )
        if self.width is not None and self.width < 1:
            raise ValueError(f"`width` must be at least 1, got {self.width}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"`dropout` must be in [0, 1), got {self.dropout:g}.")
        if self.dropout and match is None:
            raise ValueError(f"`dropout` is for wrn-D-K only, got {self.dropout:g}.")

    def _check_own(self) -> None:
        """Refuse what is for networks of ours alone."""
        for key, value in (("width", self.width), ("dropout", self.dropout or None)):
            if value is not None:
                raise ValueError(
                    f"`{key}` is for networks of ours; give '{self.name}' what it takes in `args`."
                )

    @property
    def own(self) -> bool:
        """Whether a function of the user's makes it."""
        return is_own(self.name)

    @property
    def wide(self) -> tuple[int, int]:
        """Depth and widening factor of a ``wrn``."""
        match = WIDE.fullmatch(self.name)
        assert match is not None
        return int(match[1]), int(match[2])

    @property
    def first_width(self) -> int:
        """Channels of the first stage, or of the stem of a ``wrn``."""
        return self.width or (64 if len(STAGES.get(self.name, ())) == 4 else 16)


@dataclass(frozen=True)
class Conditioning:
    """What a method asks of its network; the default is a plain one.

    Attributes:
        lambda_choices: The λ set; empty for a network without λ.
        encoding: How λ becomes a vector; see `oat.encodings`.
        encoding_dim: Length of that vector.
        dual_bn: Whether λ = 0 has batch norms of its own.
        film_init: Initialisation of FiLM; see `oat.models.film.FiLM`.
        film_slices: How FiLM is sliced at a share of the channels; see there.
        widths: Width multipliers, each with batch norms of its own.
        head_per_width: Whether each width has a classifier of its own.
        base_width: Share of the configured channels that the network has in the first place: a
            dedicated network for a narrower width.
        folded: Whether norms are folded into the convolutions: a network for deployment.
    """

    lambda_choices: tuple[float, ...] = ()
    encoding: Encoding = "random"
    encoding_dim: int = 128
    dual_bn: bool = False
    film_init: str = "identity"
    film_slices: str = "halves"
    widths: tuple[float, ...] = (1.0,)
    head_per_width: bool = False
    base_width: float = 1.0
    folded: bool = False

    def trains_norms_of(self, lam: float) -> bool:
        """Tell whether training reaches the batch norms that λ takes: λ = 0 may have its own."""
        return not self.dual_bn or any(
            (one < SAME_LAM) == (lam < SAME_LAM) for one in self.lambda_choices
        )
