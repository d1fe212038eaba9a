import optuna
import pytest
from optuna.trial import TrialState

from studies.tuning import optuna_internals


def test_a_trial_of_another_process_can_be_written_and_marked_failed() -> None:
    study = optuna.create_study(directions=["maximize", "maximize"])
    study.ask()
    (trial,) = study.trials
    try:
        optuna_internals.set_attributes(study, trial, {"ended": "died", "seconds": 1.5})
        optuna_internals.set_failed(study, trial)
    except AttributeError as error:
        pytest.fail(
            f"Optuna {optuna.__version__} has moved what `studies/tuning/optuna_internals.py` uses "
            f"({error}); it was tried with {optuna_internals.TRIED_WITH}."
        )
    (written,) = study.trials
    assert written.user_attrs == {"ended": "died", "seconds": 1.5}
    assert written.state == TrialState.FAIL
