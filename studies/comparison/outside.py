"""Networks that were trained elsewhere: beside the comparison, and in no verdict of it."""

import pandas as pd

from studies.errors import ComparisonError
from studies.known_methods import OUTSIDE
from studies.naming import listed
from studies.results.masking import masking_table
from studies.results.worst import worst_case
from studies.statistics.intervals import wilson
from studies.trial.records import Correct

SHARED = ("data_fingerprint", "images", "eps", "attack_settings", "results_version")
"""What a network from outside must share with the models of the study to stand beside them."""

COLUMNS = [
    *("name", "sa", "sa_low", "sa_high", "ra", "ra_low", "ra_high"),
    *("images", "parameters", "flags"),
]


def without_outside(points: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split points into those of the study's own models, and those of networks from outside.

    Raises:
        ComparisonError: There are only the latter.
    """
    outside = points["method"].isin(OUTSIDE)
    if outside.all() and len(points):
        raise ComparisonError(
            "There are only networks from outside, which are in no verdict; add OAT and retrained "
            "models to the study."
        )
    return points[~outside], points[outside]


def outside_table(
    outside: pd.DataFrame, correct: Correct, attacks: list[str], own: pd.DataFrame
) -> tuple[pd.DataFrame, list[str]]:
    """Return SA and RA of the networks from outside, under what the study's models are judged by.

    Args:
        outside: Their points, under every attack.
        correct: Which images each point has right.
        attacks: The attacks of the comparison.
        own: The points that it compares.

    Returns:
        A row for each, `COLUMNS`, fractions with Wilson's intervals, and the signs of masked
        gradients; and notes on those that
        were not judged like the models of the study.
    """
    if outside.empty:
        return pd.DataFrame(columns=COLUMNS), []
    found, _, _ = worst_case(outside, correct, attacks)
    found = found.drop_duplicates("run_key")
    alike = pd.Series(True, index=found.index)
    for column in SHARED:
        alike &= found[column].isin(own[column].unique())
    flags = masking_table(outside).groupby("variant")["flags"].agg("; ".join)
    rows = [
        {
            "name": row["variant"].partition(" ")[2],
            **_with_interval("sa", row),
            **_with_interval("ra", row),
            "images": row["images"],
            "parameters": row["parameters"],
            "flags": flags[row["variant"]],
        }
        for row in found[alike].to_dict("records")
    ]
    table = pd.DataFrame(rows, columns=COLUMNS).sort_values("name", ignore_index=True)
    left = sorted(set(outside["variant"]) - set(found[alike]["variant"]))
    if not left:
        return table, []
    names = listed(name.partition(" ")[2] for name in left)
    return table, [f"From outside, and not evaluated like the models of the study: {names}."]


def _with_interval(name: str, row: dict[str, float]) -> dict[str, float]:
    low, high = wilson(row[name], int(row["images"]))
    return {name: row[name], f"{name}_low": low, f"{name}_high": high}


def outside_remarks(table: pd.DataFrame) -> list[str]:
    """Say where the networks from outside stand, in one sentence; none where there is none."""
    if table.empty:
        return []
    each = "; ".join(
        f"{row['name']} SA {100 * row['sa']:.1f} [{100 * row['sa_low']:.1f}, "
        f"{100 * row['sa_high']:.1f}], RA {100 * row['ra']:.1f} [{100 * row['ra_low']:.1f}, "
        f"{100 * row['ra_high']:.1f}]"
        + (f" (signs of masked gradients: {row['flags']})" if row["flags"] else "")
        for row in table.to_dict("records")
    )
    return [f"Networks from outside, not trained like OAT and in no verdict (in percent): {each}."]
