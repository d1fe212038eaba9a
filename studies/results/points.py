"""The columns of a frame of points, from which every table, front and figure derives."""

import re
from collections.abc import Iterable, Mapping

import pandas as pd

from oat.names import unknown
from studies.errors import QueryError
from studies.results.masking import CHECK_COLUMNS

COLUMNS: dict[str, str] = {
    "point_key": "str",
    "run_key": "str",
    "training_id": "str",
    "method": "str",
    "variant": "str",
    "lam": "float64",
    "beta": "float64",
    "width_mult": "float64",
    "recipe": "str",
    "seed": "int64",
    "attack": "str",
    "attack_settings": "str",
    "eps": "float64",
    "step_size": "float64",
    "sa": "float64",
    "sa_low": "float64",
    "sa_high": "float64",
    "ra": "float64",
    "ra_low": "float64",
    "ra_high": "float64",
    "images": "int64",
    "warnings": "str",
    "masking": "str",
    **dict.fromkeys(CHECK_COLUMNS, "float64"),
    "dataset": "str",
    "data_fingerprint": "str",
    "model": "str",
    "epochs": "int64",
    "precision": "str",
    "budget": "str",
    "checkpoint_rule": "str",
    "checkpoint_epoch": "int64",
    "results_version": "int64",
    "flops": "int64",
    "deployed_bytes": "int64",
    "in_situ_flops": "int64",
    "in_situ_parameters": "int64",
    "network_bytes": "int64",
    "parameters": "int64",
    "train_device_seconds": "float64",
    "train_units": "float64",
    "train_gradients": "float64",
}
"""Columns of a point and their types. SA, RA are fractions with Wilson's 95 % intervals; λ is NaN
for TRADES, β elsewhere. ``precision`` is that of the training, ``not recorded`` for older ones.
``recipe``: see `studies.known_methods.recipe`. ``masking`` and the checks: see
`studies.results.masking`. A stored column is filled in `studies.trial.judging` and typed in
`studies.trial.evaluated.Point`; a derived one is filled in `studies.results.reading`; one that may
be missing is named in `studies.tracking.filters.ALWAYS_THERE`."""

DERIVED = ("sa_low", "sa_high", "ra_low", "ra_high", "recipe", "masking", *CHECK_COLUMNS)
"""Columns that are not stored: they follow from what is."""

TAGS = {"masking": "oat.masking"}
"""Columns that are tags of a point's MLflow run and not params: they may change."""

ORDER = [
    "variant",
    "width_mult",
    "lam",
    "beta",
    "seed",
    "checkpoint_rule",
    "attack",
    "point_key",
]

OPERATING_POINT = [
    "run_key",
    "training_id",
    "checkpoint_rule",
    "lam",
    "beta",
    "width_mult",
]
"""What two points share that differ by their attack alone."""


def frame(rows: Iterable[Mapping[str, object]], also: Iterable[str] = ()) -> pd.DataFrame:
    """Make the data frame of points from flat rows, typed and in a fixed order.

    Args:
        rows: A mapping for each point.
        also: Columns of numbers to have beyond `COLUMNS`.
    """
    types = {**COLUMNS, **dict.fromkeys(also, "float64")}
    table = pd.DataFrame(list(rows), columns=list(types))
    return table.astype(types).sort_values(ORDER, ignore_index=True)


def check_columns(wanted: Iterable[str], known: Iterable[str]) -> None:
    """Refuse columns that a table does not have.

    Raises:
        QueryError: With the nearest name.
    """
    there = list(known)
    for column in wanted:
        if column not in there:
            raise QueryError(unknown("column", column, there))


def attack_column(label: str) -> str:
    """Return the column of RA under an attack: ``ra_pgd20_0_05`` for ``pgd20@0.05``."""
    return "ra_" + re.sub("[^A-Za-z0-9_]", "_", label)


def with_attack_columns(table: pd.DataFrame) -> pd.DataFrame:
    """Add a column for each attack: RA of the row's own operating point under that attack.

    It is NaN where the operating point was not evaluated by it. Where it was so several times, the
    lowest RA on the most images counts.
    """
    place = table.groupby(OPERATING_POINT, dropna=False).ngroup()
    ranked = table.sort_values(["images", "ra"], ascending=[False, True])
    columns = {}
    for column, points in ranked.groupby(table["attack"].map(attack_column)):
        first = points["ra"].groupby(place[points.index]).first()
        columns[str(column)] = place.map(first).astype("float64")
    return table.assign(**columns)
