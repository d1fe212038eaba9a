"""Early stopping, for tuning alone: trials that promise to add nothing to a front end early."""

from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from oat.recipe import TrainConfig
from studies.known_methods import tuples
from studies.statistics.frontier import hypervolume
from studies.trial.shapes import TrialReport

VALIDATION = "validation"
"""User attribute of an Optuna trial: SA and RA of its training's last validation."""


class EarlyStop:
    """Tells of each report of a trial whether to stop it.

    See `studies.study_file.tune_block.EarlyStopping`.

    Args:
        search: Optuna's study, whose finished trials make the front. What is compared are the
            validations of trainings, which are all made alike.
        slack: What a trial may still gain in SA and in RA, as a fraction.
    """

    def __init__(self, search: optuna.Study, slack: float) -> None:
        self._search, self._slack = search, slack

    def __getstate__(self) -> dict[str, Any]:
        """Give Tune nothing to pickle: it would write us for a restore that we never do."""
        return {}

    def __call__(self, trial: Any, result: TrialReport) -> bool:
        """Tell whether to stop one of Tune's trials."""
        if result["kind"] != "epoch":
            return False
        sa = result["sa_val"]
        if sa is None or (ra := result["ra_val"]) is None:
            return False
        train = TrainConfig(**tuples(trial.config["trial"]["job"]["config"]["train"]))
        # the validation right at the drop is of weights that no lower rate has touched
        if not train.drop_epoch() < result["epoch"] < train.epochs:
            return False
        return self.hopeless(sa, ra)

    def hopeless(self, sa: float, ra: float) -> bool:
        """Tell whether a trial at this SA and RA adds no area to the front, slack included."""
        finished = self._search.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        front = [t.user_attrs[VALIDATION] for t in finished if VALIDATION in t.user_attrs]
        hoped = [min(1.0, sa + self._slack), min(1.0, ra + self._slack)]
        return bool(front) and hypervolume(np.array([*front, hoped])) <= hypervolume(
            np.array(front)
        )
