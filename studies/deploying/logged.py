"""Trained models of a study in MLflow, each with the run of its trial: what `log_models` asks for.

They are logged and not registered: the versions of a registered model are releases of one thing,
while the models of a study are rivals, of which `oat export --to mlflow` registers the chosen one.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from rich.console import Console

from studies.console import say
from studies.deploying.loading import data_of, open_trial
from studies.deploying.serving import to_log
from studies.errors import ModelError, StudyError, TrackingError, UserError
from studies.planning.plan import Plan, PlannedTrial
from studies.storage.folder import Folder
from studies.storage.sealed import ResultError
from studies.tracking.experiment import Experiment
from studies.tracking.logged_models import WEIGHTS, runs_without, say_logged, whole_model
from studies.tracking.model_registry import log_unregistered
from studies.trial.records import read_result


def log_models(
    plan: Plan,
    folder: Folder,
    experiment: Experiment,
    console: Console,
    known_faults: Mapping[str, str] | None = None,
) -> list[str]:
    """Log the model of each trained trial with its run, where MLflow lacks it.

    Args:
        plan: The plan of the study as storage has it now.
        folder: The study's folder.
        experiment: Of the study; it has the trials' runs.
        console: Where it is said that models are logged.
        known_faults: Why models cannot be exported, by run key; those are not tried again.

    Returns:
        A sentence for each model that cannot be exported.

    Raises:
        TrackingError: MLflow does not take a model; what it has taken stays.
    """
    if not plan.study.tracking.log_models:
        return []
    try:
        lacking = runs_without(experiment, weights_of(plan, folder))
        faults = {key: said for key, said in (known_faults or {}).items() if key in lacking}
        left = [key for key in lacking if key not in faults]
        if left:
            models = "model" if len(left) == 1 else "models"
            say(console, f"Logging {len(left)} trained {models} in MLflow.")
        for trial in plan.trials:
            if trial.run_key not in left:
                continue
            try:
                log_model(plan, trial, folder, experiment, lacking[trial.run_key].info.run_id)
            except (ModelError, StudyError) as error:
                faults[trial.run_key] = fault_of(trial, error)
    except TrackingError as error:
        raise TrackingError(
            f"MLflow did not take all models ({str(error).rstrip('.')}); "
            f"`oat sync {plan.study.name}` logs the rest."
        ) from error
    return [faults[key] for key in lacking if key in faults]


def weights_of(plan: Plan, folder: Folder) -> dict[str, str]:
    """Return the SHA-256 of the weights that are logged of each trained trial, by run key."""
    rule, found = rule_of(plan), dict[str, str]()
    for trial in plan.trials:
        try:
            result = read_result(folder.sub(f"trials/{trial.run_key}"))
        except ResultError:  # damaged, and redone by the next run
            continue
        if result is not None and result["status"] == "done":
            kept = result["trained"]["weights"].get(rule)
            found |= {} if kept is None else {trial.run_key: kept["sha256"]}
    return found


def rule_of(plan: Plan) -> str:
    """Return the checkpoint rule whose weights are logged: the one that `oat run` reports."""
    return plan.study.evaluate.checkpoints[0]


def log_model(
    plan: Plan, trial: PlannedTrial, folder: Folder, experiment: Experiment, run_id: str
) -> None:
    """Log the model of a trial with its run, and say so there.

    Args:
        plan: Of the study.
        trial: One that is trained.
        folder: The study's folder.
        experiment: Of the study.
        run_id: The trial's run; it does not say yet that it has the model.

    Raises:
        ModelError: The model cannot be exported.
        StudyError: Its data cannot be read here, on which the export is checked.
        TrackingError: MLflow does not take it.
    """
    rule = rule_of(plan)
    model = open_trial(trial, folder, rule, torch.device("cpu"))
    sha256 = weights_of(replace(plan, trials=(trial,)), folder)[trial.run_key]
    logged = whole_model(experiment, run_id, sha256)
    if logged is None:
        held_out = data_of(trial, folder).val
        with to_log(model, held_out, study=experiment.study) as made:
            logged = log_unregistered(experiment.uri, run_id, made, {WEIGHTS: sha256})
    say_logged(experiment, run_id, logged, sha256)


def fault_of(trial: PlannedTrial, error: UserError) -> str:
    """Say why the model of a trial is not in MLflow."""
    return f"The model of {trial.label} seed {trial.seed} is not logged in MLflow: {error}"
