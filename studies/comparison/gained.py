"""What the tuning of a study gained, as a comparison carries it."""

from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Gains:
    """What the tuning of a study gained.

    Attributes:
        table: A row for each method: trials, device seconds and budget; hypervolume on held-out
            images of the study's own settings and of the winners (``start``, ``tuned``; NaN where
            not all of the former were tried); and the same on test images (``test_start``,
            ``test_tuned``, and their difference ``test_gain`` with interval; NaN where
            not all models of both are finished).
        notes: What a reader must know.
    """

    table: pd.DataFrame
    notes: list[str]
