"""What the runs of trials and points hold, as values that MLflow keeps."""

import json
import math
from collections.abc import Mapping
from typing import Any

from studies.results.points import COLUMNS
from studies.tracking.experiment import Run, as_param


def says_otherwise(run: Run, texts: Mapping[str, object], numbers: Mapping[str, float]) -> bool:
    """Tell whether a run has a param that is another by now, or a metric that is known no more."""
    params: Mapping[str, str] = run.data.params
    return any(
        value is not None and params.get(key, as_param(value)) != as_param(value)
        for key, value in texts.items()
    ) or any(name in COLUMNS and name not in numbers for name in run.data.metrics)


def differs(logged: float | None, stored: float) -> bool:
    """Tell whether MLflow has another loss of an epoch; it keeps no infinity as it is."""
    return logged is not None and math.isfinite(stored) and not math.isclose(logged, stored)


def numbers_of(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of a point; what is not known is left out."""
    return {
        name: float(value)
        for name, value in row.items()
        if COLUMNS.get(name) in {"float64", "int64"} and value is not None and value == value
    }


def flat(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Flatten nested plain values to dotted keys, lists as JSON."""
    found: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and key == "args":  # the keys of the user's may be any text
            found[prefix + key] = json.dumps(value, sort_keys=True, ensure_ascii=False)
        elif isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = json.dumps(value) if isinstance(value, list | tuple) else value
    return found
