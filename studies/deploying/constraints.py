"""What a deployed network must hold, as the user asks for it."""

from dataclasses import dataclass

from studies.errors import ModelError


@dataclass(frozen=True)
class Constraints:
    """What a deployed network must hold, and what is wanted most of all that do.

    Attributes:
        min_sa: Least SA, a fraction.
        min_ra: Least RA, a fraction.
        max_flops: Most operations for one image.
        max_latency_ms: Longest median time of one image on this machine, in milliseconds.
        weight_robust: Weight w of RA in what is wanted most, ``(1 - w) SA + w RA``; None is RA
            where SA is bound, SA where RA is, and their mean where both or neither are.

    Raises:
        ModelError: A value is out of its range.
    """

    min_sa: float | None = None
    min_ra: float | None = None
    max_flops: float | None = None
    max_latency_ms: float | None = None
    weight_robust: float | None = None

    def __post_init__(self) -> None:
        for name in ("min_sa", "min_ra", "weight_robust"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                hint = f"; write {value / 100:g} for {value:g} %" if 1 < value <= 100 else ""
                raise ModelError(f"`{name}` must be a fraction in [0, 1], got {value:g}{hint}.")
        for name in ("max_flops", "max_latency_ms"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ModelError(f"`{name}` must be above 0, got {value:g}.")

    @property
    def weight(self) -> float:
        """Weight of RA in what is wanted most."""
        if self.weight_robust is not None:
            return self.weight_robust
        if (self.min_sa is None) == (self.min_ra is None):
            return 0.5
        return 1.0 if self.min_ra is None else 0.0

    @property
    def wanted(self) -> str:
        """What is wanted most, in words."""
        if self.weight in (0, 1):
            return "RA" if self.weight else "SA"
        return f"{1 - self.weight:g} SA + {self.weight:g} RA"
