"""A frame of points that shows itself in a notebook."""

from collections.abc import Callable

import pandas as pd

from studies import notebook
from studies.results.meanings import meanings
from studies.results.points import COLUMNS, attack_column

TELLING = ("variant", "lam", "beta", "width_mult", "seed", "checkpoint_rule", "attack", "sa", "ra")
"""Columns that tell points apart, and what they are about."""


class Points(pd.DataFrame):  # type: ignore[misc] # pandas is not checked
    """A frame that a notebook shows with the meaning and unit of each column of points."""

    @classmethod
    def of(cls, table: pd.DataFrame) -> "Points":
        """Return a frame as one that shows itself, with its ``attrs``."""
        found = cls(table)
        found.attrs = table.attrs
        return found

    @property
    def _constructor(self) -> "Callable[..., Points]":
        return Points  # so that a selection of it shows itself as well

    def _repr_html_(self) -> str:
        """Show what tells points apart if all columns are there, else the frame as it is."""
        shown = brief(self) if COLUMNS.keys() <= set(self.columns) else self
        known = {}
        for name, meaning in meanings().items():
            if name in shown.columns:
                unit = f" Unit: {meaning.unit}." if meaning.unit else ""
                missing = f" NaN {meaning.missing}." if meaning.missing else ""
                known[name] = meaning.text + unit + missing
        left_out = len(self.columns) - len(shown.columns)
        more = f" {left_out} more columns are not shown; `.columns` names them." if left_out else ""
        said = f"{len(self)} rows. SA and RA are fractions: 0.9 is 90 percent.{more}"
        table = pd.DataFrame(shown)._repr_html_() or ""  # as pandas is set to show it
        return f"<p><b>{said}</b></p>{table}{notebook.legend(known) if known else ''}"


def brief(table: pd.DataFrame) -> pd.DataFrame:
    """Choose the columns that tell points apart, and RA under attacks beyond a row's own."""
    own = table["attack"].map(attack_column)
    others = [
        name
        for name in table.columns
        if name not in COLUMNS
        and name.startswith("ra_")
        and (table[name].notna() & (own != name)).any()
    ]
    recipe = ["recipe"] if "recipe" in table and table["recipe"].fillna("").any() else []
    return table[[TELLING[0], *recipe, *TELLING[1:], *others]]
