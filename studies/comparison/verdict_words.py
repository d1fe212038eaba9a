"""What verdicts mean, in words."""

import pandas as pd

from studies.comparison.verdict import ONE_SEED
from studies.known_methods import ONCE
from studies.naming import listed, name_point

VERDICT_SAID = {
    "better": "OAT is better than every retrained model here",
    "free": "OAT replaces the retrained models here",
    "undecided": "Whether OAT replaces the retrained models here is undecided",
    "not free": "OAT does not replace the retrained models here",
    ONE_SEED: "One seed compares these networks and gives no verdict on the method",
}
"""What each verdict on the method means, in words."""

UNDECIDED = "undecided"
AGAINST_MODELS = {
    "better": "beats",
    "free": "matches",
    "not free": "loses to",
    UNDECIDED: "is undecided against",
}
IN_COMPARISONS = {
    "better": "is better in",
    "free": "matches in",
    "not free": "loses in",
    UNDECIDED: "is undecided in",
}
"""What each verdict on a row means, in words that a number follows: of models, of comparisons."""


def verdict_said(verdict: str, cells: pd.DataFrame) -> str:
    """Say what the verdict on the method means; where some models alone have one seed, which."""
    single = cells[cells["seeds"] == 1]
    if verdict != ONE_SEED or len(single) == len(cells):
        return VERDICT_SAID[verdict]
    names = [
        row["variant"] if row["method"] in ONCE else name_point(row, seed=False)
        for row in single.to_dict("records")
    ]
    return f"There is no verdict on the method, as there is one seed alone of {listed(names)}"


def counted(table: pd.DataFrame) -> str:
    """Say against how many retrained models each verdict was given."""
    counts, total = table["verdict"].value_counts(), len(table)
    verbs, whole = AGAINST_MODELS, f"{total} retrained model{'' if total == 1 else 's'}"
    if table["once"].nunique() > 1:
        verbs, whole = IN_COMPARISONS, f"{total} comparisons with retrained models"
    open_ = counts.get(UNDECIDED, 0)
    if open_ == total:
        return f"OAT {verbs[UNDECIDED]} {whole}"
    decided = [f"{verbs[v]} {counts[v]}" for v in verbs if v in counts and v != UNDECIDED]
    decided[0] = f"OAT {decided[0]} of {whole}"
    *most, last = decided
    said = f"{', '.join(most)} and {last}" if most else last
    return f"{said}; {open_} {'is' if open_ == 1 else 'are'} undecided" if open_ else said
