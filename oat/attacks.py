"""The inner maximisation of a training step, as a config; `oat.ascent` runs it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from oat.names import refuse

Start = Literal["uniform", "gaussian", "none"]
Loss = Literal["ce", "cw", "dlr"]


@dataclass(frozen=True)
class Attack:
    """Inner maximisation of a training step: projected gradient ascent in an L-infinity ball.

    Attributes:
        eps: Radius of the ball, in [0, 1] pixel units (8/255, not 8).
        steps: Gradient steps, at least 1.
        step_size: Length of a step in pixel units. ``auto`` is the published OAT rule
            ``min(1.25 * eps, eps + 4/255) / steps``.

    Raises:
        ValueError: A value is out of its range.
    """

    eps: float = 8 / 255
    steps: int = 7
    step_size: float | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        refuse(self._faults())

    def _faults(self) -> Iterator[str]:
        yield from eps_faults(self.eps)
        if self.steps < 1:
            yield f"`steps` must be at least 1, got {self.steps}."
        longest = 2 * self.eps if self.eps else float("inf")
        if self.step_size != "auto" and not 0 < self.step_size <= longest:
            yield (
                f"`step_size` must be `auto` or in (0, 2 * `eps`], got {self.step_size} "
                f"with `eps` {self.eps:.4f}."
            )

    @property
    def step(self) -> float:
        """Length of one step in pixel units."""
        if self.step_size == "auto":
            return min(1.25 * self.eps, self.eps + 4 / 255) / self.steps
        return self.step_size


def eps_faults(eps: float) -> Iterator[str]:
    """Yield a sentence for a radius that is not in [0, 1] pixel units."""
    if not 0 <= eps <= 1:
        yield (
            f"`eps` must be in [0, 1] pixel units, got {eps:g}; "
            "a radius of 8 grey levels is written 8/255."
        )
