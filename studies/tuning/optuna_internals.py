"""What is used of Optuna's insides, for want of a public form; tried with Optuna 5.0.0.

Optuna lets nobody write into a trial that another process has asked for. A test opens these doors,
so that a new version of Optuna that has moved one says so in a sentence.
"""

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

TRIED_WITH = "5.0.0"


def set_attributes(study: optuna.Study, trial: FrozenTrial, values: Mapping[str, Any]) -> None:
    """Write user attributes of a trial, whoever has asked for it."""
    for name, value in values.items():
        study._storage.set_trial_user_attr(trial._trial_id, name, value)


def set_failed(study: optuna.Study, trial: FrozenTrial) -> None:
    """Mark a trial failed, whoever has asked for it."""
    study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
