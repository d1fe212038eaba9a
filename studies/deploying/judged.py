"""What a study has found of a trained model: its points, and those of one place on its front."""

import pandas as pd

from oat.lambdas import SAME_LAM
from oat.operating import OperatingPoint
from studies.deploying.model import TrainedModel
from studies.planning.plan import PlannedTrial


def points_of(table: pd.DataFrame, trial: PlannedTrial, model: TrainedModel) -> pd.DataFrame:
    """Return the points of a model's own weights.

    Args:
        table: Points of the study; see `studies.results.reading.study_points`.
        trial: That made the model.
        model: The model, as `studies.deploying.loading.open_trained` gives it.
    """
    rule = model.about["checkpoint"]
    return table[(table["run_key"] == trial.run_key) & (table["checkpoint_rule"] == rule)]


def points_at(own: pd.DataFrame, model: TrainedModel, point: OperatingPoint) -> pd.DataFrame:
    """Return the points at one λ and width, one for each attack that judged there.

    Args:
        own: See `points_of`.
        model: The model.
        point: One that the model has.
    """
    # the width in a point is a share of the full network, that of a narrow dedicated model its own
    base = 1.0 if model.has_knob else model.about["config"]["method"].get("width_mult", 1.0)
    rows = own[(own["width_mult"] - point.width_mult * base).abs() < SAME_LAM]
    if point.lam is not None:
        rows = rows[(rows["lam"] - point.lam).abs() < SAME_LAM]
    return rows
