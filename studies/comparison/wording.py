"""What an answer says of its areas and its table, in words."""

from collections.abc import Mapping

import pandas as pd

from studies.comparison.fronts import price_clause
from studies.known_methods import RIVALS
from studies.naming import listed
from studies.statistics.intervals import Interval


def areas_and_price(ratios: Mapping[str, Interval], fronts: pd.DataFrame) -> str:
    """Say the area of each front of OAT over that of the retrained models; of one its price.

    Args:
        ratios: Hypervolume ratio of each front of OAT, by name.
        fronts: See `studies.comparison.fronts.measure_fronts`.
    """
    if not ratios:
        return "The front of the retrained models has no area to compare with."
    texts = {name: f"{r.value:.3f} [{r.low:.3f}, {r.high:.3f}]" for name, r in ratios.items()}
    if len(texts) > 1:
        said = ", ".join(f"{name} {text}" for name, text in texts.items())
        return f"Hypervolume relative to the retrained models: {said}."
    (text,) = texts.values()
    (row,) = fronts[fronts["ratio"].notna()].to_dict("records")
    price = f", and training it{clause}" if (clause := price_clause(row)) else ""
    return f"Its hypervolume is {text} of theirs{price}."


def heading(table: pd.DataFrame, question: str, name: str) -> str:
    """Say what a table sets beside the retrained models, and where it runs.

    Args:
        table: Of a comparison.
        question: How OAT's operating points were found.
        name: OAT, or a rival; "" is every rival that the table has.
    """
    every = [] if table.empty else map(str, table["once"].unique())
    rivals = [one for one in every if one.split()[0] in RIVALS]
    where = "best α" if name in ("", *rivals) else question
    return f"{name or listed(rivals)} at {where} against each retrained model"
