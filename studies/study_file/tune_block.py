"""The ``tune:`` block of a study file: what is searched, under which budget, and who wins."""

import dataclasses
import json
import math
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args, get_type_hints

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from oat.adversaries import Pgd

SWEPT: dict[str, dict[str, str]] = {
    "pgd_at": {"lam": "lam", "width_mult": "width_mults"},
    "trades": {"beta": "beta", "width_mult": "width_mults"},
}
"""Fields of a dedicated method, by the key whose list makes one trial of each value."""

STRICT = ConfigDict(extra="forbid", frozen=True)
# pydantic's own attribute for the settings of a standard dataclass
setattr(Pgd, "__pydantic_config__", STRICT)  # noqa: B010 -- mypy has no such attribute
DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(s|min|m|h|d)\s*")
SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
TRAIN = "train"
"""Key of the space that holds training settings, for every method."""


class Dimension(BaseModel):
    """One value that is searched: a range, or a list of choices.

    Attributes:
        low: Lowest value of a range.
        high: Highest value of a range.
        log: Whether a range is searched on a logarithmic scale.
        choices: The values that it may have, instead of a range.
    """

    model_config = STRICT
    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[Any, ...] | None = None

    @model_validator(mode="after")
    def _check(self) -> "Dimension":
        if self.choices is not None:
            if self.low is not None or self.high is not None or self.log:
                raise ValueError("give either `choices` or `low` and `high`, not both.")
            if not self.choices:
                raise ValueError("`choices` must name at least one value, got an empty list.")
            if len(set(map(as_text, self.choices))) < len(self.choices):
                raise ValueError("`choices` must not repeat a value.")
            return self
        if self.low is None or self.high is None:
            raise ValueError("it needs `low` and `high`, or `choices`.")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(
                f"`low` must be below `high` and both finite, got {self.low:g} and {self.high:g}."
            )
        if self.log and self.low <= 0:
            raise ValueError(f"a log scale needs `low` above 0, got {self.low:g}.")
        return self

    def ends(self) -> tuple[Any, ...]:
        """Return the values that stand for all: the ends of a range, or every choice."""
        return self.choices if self.choices is not None else (self.low, self.high)

    def holds(self, value: Any) -> bool:
        """Tell whether a value is one of those that are searched."""
        if self.choices is not None:
            return as_text(value) in set(map(as_text, self.choices))
        assert self.low is not None
        assert self.high is not None
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and self.low <= value <= self.high


def as_text(value: Any) -> str:
    """Write a value so that equal ones are written alike: 1 and 1.0, a list and a tuple."""
    if isinstance(value, list | tuple):
        return json.dumps([as_text(item) for item in value])
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return repr(float(value)) if number else json.dumps(value)


def _named(value: Any) -> Any:
    """Take the name of a rule for the rule."""
    return {"rule": value} if isinstance(value, str) else value


class Select(BaseModel):
    """Which trials win, by their points on the held-out images.

    Attributes:
        rule: ``front``: of a dedicated method every trial with a point on the method's front, of a
            once-for-all method only the best single network, by hypervolume, because the claim is
            that one network serves all. ``hypervolume``: the one trial with the largest.
            ``sa_at_ra``: the one with the highest SA where RA is at least `ra`. ``weighted``: the
            one with the highest ``weight * SA + (1 - weight) * RA``.
        ra: Least RA of ``sa_at_ra``, in [0, 1].
        weight: Weight of SA of ``weighted``, in [0, 1].
    """

    model_config = STRICT
    rule: Literal["front", "hypervolume", "sa_at_ra", "weighted"] = "front"
    ra: float | None = Field(None, ge=0, le=1)
    weight: float | None = Field(None, ge=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> "Select":
        needed = {"sa_at_ra": "ra", "weighted": "weight"}
        for rule, key in needed.items():
            given = getattr(self, key) is not None
            if given != (self.rule == rule):
                raise ValueError(
                    f"`{key}` belongs to the rule '{rule}'"
                    + (", which needs it, such as 0.4." if not given else f", not '{self.rule}'.")
                )
        return self


class EarlyStopping(BaseModel):
    """When a trial of tuning is stopped: it promises to add no area to its method's front.

    Looked at after each validation of an epoch with a rate that has dropped
    (`TrainConfig.drop_epoch`): a trial goes on only if its validation SA and RA, both raised by
    the slack, would add hypervolume to the front of the method's finished trials.

    Attributes:
        slack: What a trial may still gain in SA and in RA, as a fraction.
    """

    model_config = STRICT
    slack: float = Field(0.02, ge=0, le=1)


class Tune(BaseModel):
    """How the methods of a study are tuned.

    Attributes:
        budget: Device seconds of training for each method, such as ``20h``, ``30min`` or ``600s``.
        sampler: Optuna's sampler: ``tpe``, or ``nsga2`` for budgets of hundreds of trials.
        select: Which trials win.
        attack: PGD that trials are evaluated by, on the held-out images.
        images: Held-out images that they are evaluated on, at most.
        early_stopping: When hopeless trials are stopped; None never does.
        space: What is searched: under ``train`` settings that every method has, under the name of
            a method its own options. The trade-off values of a dedicated method are always
            searched: those of its list, or the range that is given here.
    """

    model_config = STRICT
    budget: str
    sampler: Literal["tpe", "nsga2"] = "tpe"
    select: Annotated[Select, BeforeValidator(_named)] = Select()
    attack: Pgd = Pgd()
    images: int = Field(1000, ge=1)
    early_stopping: EarlyStopping | None = None
    space: dict[str, dict[str, Dimension]] = Field(default_factory=dict)

    @field_validator("budget", mode="before")
    @classmethod
    def _duration(cls, budget: Any) -> str:
        match = DURATION.fullmatch(str(budget))
        if match is None or float(match[1]) == 0:
            raise ValueError(
                f"`budget` must be a time of training above 0 such as 20h, 30min or 600s, got "
                f"'{budget}'."
            )
        return str(budget)

    @property
    def seconds(self) -> float:
        """The budget in seconds."""
        match = DURATION.fullmatch(self.budget)
        assert match is not None, "checked on the way in"
        return float(match[1]) * SECONDS[match[2]]


def swept_key(block: Any, field: str) -> str:
    """Return the key of an entry that holds a field of its method."""
    return SWEPT.get(block.name, {}).get(field, field)


def number_type(config: Any, key: str) -> type[int] | type[float] | None:
    """Return the type of a config's field if that is a number, also one that may be None."""
    hint = get_type_hints(type(config))[key]
    kinds = [kind for kind in get_args(hint) or (hint,) if kind is not type(None)]
    return kinds[0] if kinds in ([int], [float]) else None


def tune_keys(path: Sequence[str | int]) -> list[str]:
    """Return the keys that the block below ``tune`` at a path may have."""
    blocks: dict[Any, Any] = {(): Tune, ("select",): Select, ("early_stopping",): EarlyStopping}
    if tuple(path) == ("attack",):
        return [field.name for field in dataclasses.fields(Pgd)]
    if path and path[0] == "space":
        return list(Dimension.model_fields)
    return list(blocks[tuple(path)].model_fields)
