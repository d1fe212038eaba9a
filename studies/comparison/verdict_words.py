"""What verdicts mean, in words."""

import pandas as pd

from studies.comparison.verdict import ONE_SEED

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
