"""The methods by name: built from a config, and named for people."""

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from baselines import PgdAt, Trades
from oat.method import Method, Oat, Oats

RESULTS_VERSION = 2
"""Part of every run key; raised by a commit that changes the numbers that a config leads to."""

METHODS: dict[str, Any] = {"oat": Oat, "oats": Oats, "pgd_at": PgdAt, "trades": Trades}
ONCE = ("oat", "oats")
"""Methods of which one model serves every λ; all others are retrained for each value."""

VALUES = {"lam": "λ", "beta": "β"}
"""The trade-off value of a dedicated method, and its sign."""

PLACE = (*VALUES, "width_mult")
"""Fields that place a dedicated model on the front; all others make another variant."""


def tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return keyword arguments with lists as tuples, as JSON has lost them."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def method_of(config: Mapping[str, Any]) -> Method:
    """Build the method of a trial's config."""
    values = tuples(config["method"])
    method: Method = METHODS[values.pop("name")](**values)
    return method


def variant(method: Method) -> str:
    """Name a method with what differs from its default, its trade-off value and width apart.

    Such as ``oat``, or ``oat encoding=dct dual_bn=False``: what is one line of a figure.
    """
    odd = [
        f"{field.name}={getattr(method, field.name)}".replace(" ", "")
        for field in fields(method)  # type: ignore[arg-type]
        if field.name not in PLACE and getattr(method, field.name) != field.default
    ]
    return " ".join([method.name, *odd])


def describe(method: Method) -> str:
    """Name a method with its trade-off value and width, such as ``pgd_at λ=0.2 width=0.5``."""
    values = [f"{sign}={getattr(method, k):g}" for k, sign in VALUES.items() if hasattr(method, k)]
    width = method.conditioning().base_width
    return " ".join([variant(method), *values, *([f"width={width:g}"] if width != 1 else [])])


def value_text(row: Mapping[str, Any]) -> str:
    """Write the trade-off value of a point or cell: ``λ=0.2`` or ``β=6``."""
    return f"β={row['beta']:g}" if math.isnan(row["lam"]) else f"λ={row['lam']:g}"


def name_point(row: Mapping[str, Any], seed: bool = True) -> str:
    """Name a point for people, such as ``pgd_at λ=0.2 width=0.5 seed 1``."""
    width = f" width={row['width_mult']:g}" if row["width_mult"] != 1 else ""
    return f"{row['variant']} {value_text(row)}{width}" + (f" seed {row['seed']}" if seed else "")
