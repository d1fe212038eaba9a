"""One run of a study: check, train what is missing, evaluate, log, compare: `studies.run`.

Ray, MLflow and the charts take seconds to import, so a function imports those it needs.
"""

import tempfile
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from rich.console import Console

from oat.adversaries import Transfer
from studies.commands.compare import compare_and_report
from studies.console import say
from studies.driver.choosing import Choice, choose
from studies.driver.following import join_cluster, open_tracker, run_followed, try_mlflow
from studies.driver.lease import only_driver
from studies.driver.places import study_folder, tracking_place
from studies.driver.same_data import data_of_plan
from studies.errors import TrackingError
from studies.naming import listed
from studies.planning.expand import make_plan
from studies.planning.plan import Plan, PlannedTrial, asking_as
from studies.results.reading import study_points
from studies.results.shown import Points
from studies.storage.addresses import DEFAULT_STORAGE
from studies.storage.folder import Folder
from studies.study_file.loading import Source, load_study
from studies.study_file.plain_yaml import write_yaml
from studies.study_file.study import Study

if TYPE_CHECKING:
    from studies.cluster.retries import FirstFailure
    from studies.deploying.model_logger import ModelLogger
    from studies.report.answer import Answer
    from studies.tracking.tracker import Tracker


@dataclass(frozen=True)
class RunOutcome:
    """What a run left behind.

    Attributes:
        plan: The plan as storage has it now.
        points: All points of the study.
        comparison: Free against retrained; None if there is nothing to compare.
        report: URIs of what was written, by file name.
        worked_on: How many trials this run worked on.
        notes: What the user must know.
        left_out: Run keys of the trials that ``only`` did not choose and that are not done.
    """

    plan: Plan
    points: pd.DataFrame
    comparison: "Answer | None"
    report: dict[str, str]
    worked_on: int
    notes: list[str] = field(default_factory=list)
    left_out: frozenset[str] = frozenset()

    @property
    def complete(self) -> bool:
        """Whether every trial is done."""
        return all(trial.state == "done" for trial in self.plan.trials)


def run(
    study: Source,
    *,
    storage: str | Path = DEFAULT_STORAGE,
    address: str | None = None,
    tracking_uri: str | None = None,
    overrides: Sequence[str] = (),
    only: str | None = None,
    fail_fast: bool = False,
    console: Console | None = None,
    command: str = "",
) -> RunOutcome:
    """Run what a study lacks, judge it, log it, compare it. Safe to call again after anything.

    Args:
        study: A preset's name, a YAML file, a mapping, or a study.
        storage: Folder or URI of all studies' results; every node must reach it.
        address: Ray cluster to use; None starts a Ray on this machine.
        tracking_uri: MLflow; see `tracking_place`.
        overrides: ``path.to.key=value`` each.
        only: Condition such as ``method == 'trades'`` over `studies.driver.choosing.COLUMNS`: run
            the trials for which it holds, and what these start from. The others stay planned.
        fail_fast: Whether the first trial that fails ends the run. Those that run go on to their
            next checkpoint, and the others stay planned.
        console: Where progress goes; None is standard error.
        command: What the report names as the command that made it; empty is "from Python".

    Raises:
        StudyError: The study is faulty, or cannot run here; nothing was started.
        QueryError: ``only`` is faulty, or chooses no trial; nothing was started.
        StorageError: The storage cannot be written; nothing was started.
        TrackingError: MLflow does not answer; nothing was started.
    """
    from studies.deploying.model_logger import logging_models
    from studies.driver.checks import check_evaluation, check_here, demand, tell

    resolved = load_study(study, overrides)
    folder = study_folder(resolved, storage)
    if only is not None:  # before anything is written
        choose(make_plan(resolved, folder), only)
    console = console or Console(stderr=True)
    uri, artifacts = tracking_place(storage, tracking_uri)
    demand(check_here(resolved, folder, uri))
    with only_driver(resolved, folder, console):
        before = make_plan(resolved, folder)
        choice = choose(before, only)
        chosen = choice.plan
        _announce(before, console)
        _announce_choice(choice, console)
        known = data_of_plan(before, folder)
        if chosen.ready() and address is None:
            checks = check_evaluation(resolved, known)
            demand(checks)
            tell(checks, console)
        with ExitStack() as stack:
            # MLflow takes seconds to import and to create its database, and so does Ray to start
            with ThreadPoolExecutor(1) as pool:
                opening = pool.submit(open_tracker, uri, resolved.name, artifacts)
                if chosen.ready():
                    join_cluster(resolved, folder, address, stack, console, known)
                tracker = opening.result()
            packed = chosen
            if chosen.ready():
                from studies.measuring.packing import choose_share, with_share

                packed = with_share(chosen, choose_share(chosen.to_run(), folder, console))
            first = _first_failure() if fail_fast else None
            with logging_models(resolved, folder, uri) as models:
                gave_up = _train_and_judge(
                    packed, folder, tracker, console, address is None, first, models
                )
            after = _with_reasons(make_plan(resolved, folder), gave_up)
        table = study_points(after, folder)
        # MLflow comes first: the report links to its runs
        refused = try_mlflow(lambda: tracker.sync(after, folder))
        comparison, report, notes = compare_and_report(after, table, folder, command)
        refused = refused or _keep_report(tracker, after, folder, table, report)
        refused = refused or _models_left(tracker, after, folder, console, models)
        waiting = {trial.run_key for trial in after.trials if trial.state == "waiting"}
        worked_on = sum(trial.run_key not in waiting for trial in chosen.to_run())
        left_out = frozenset(
            trial.run_key
            for trial in after.trials
            if trial.run_key in choice.left_out and trial.state != "done"
        )
        notes = [*notes, *refused, *_ended_early(first, after)]
        return RunOutcome(after, Points.of(table), comparison, report, worked_on, notes, left_out)


def _first_failure() -> "FirstFailure":
    from studies.cluster.retries import FirstFailure

    return FirstFailure()


def _ended_early(first: "FirstFailure | None", after: Plan) -> list[str]:
    """Say that the first failure has ended the run, and what is left."""
    if first is None or first.said is None:
        return []
    left = sum(trial.state != "done" for trial in after.trials)
    trials = "trial is" if left == 1 else "trials are"
    return [
        f"`--fail-fast` ended the run at its first failure; {left} {trials} not finished. The same "
        "command goes on, from checkpoints where there are any."
    ]


def _train_and_judge(
    before: Plan,
    folder: Folder,
    tracker: "Tracker",
    console: Console,
    reuse: bool,
    first: "FirstFailure | None" = None,
    models: "ModelLogger | None" = None,
) -> dict[str, str]:
    """Run what is left, Ray being connected if anything is; return what was given up, and why."""
    if not before.ready():
        return {}
    _write_study(before.study, folder)
    current, gave_up, tried = before, dict[str, str](), set[str]()

    def run_now(some: Plan) -> None:
        brought = None if models is None else models.brought
        gave_up.update(run_followed(some, folder, tracker, console, reuse, first, brought))

    while left := _untried(current, tried):
        if tried:
            say(console, "Now the models that start from others; their sources are trained.")
        tried |= {trial.run_key for trial in left.ready()}
        run_now(left)
        if first is not None and first.said is not None:
            return gave_up
        current = asking_as(make_plan(before.study, folder), before)
    if waiting := _waits_for_others(current):
        console.print("The models are trained; now they are judged by transfer.")
        run_now(replace(current, trials=waiting))
    return gave_up


def _untried(current: Plan, tried: Collection[str]) -> Plan | None:
    """Return a plan without the trials left over from this run's launches; None if none is ready.

    A launch ends when no trial is running. Then those may start that have waited for the weights
    of others, while what has failed is left to the next run.
    """
    kept = (trial for trial in current.trials if not (trial.needs_run and trial.run_key in tried))
    left = replace(current, trials=tuple(kept))
    return left if left.ready() else None


def _with_reasons(current: Plan, gave_up: Mapping[str, str]) -> Plan:
    """Return a plan that says of trials without a reason of their own what their worker said."""
    trials = [
        replace(trial, reason=f"given up: {gave_up[trial.run_key]} again and again")
        if trial.run_key in gave_up and trial.reason is None
        else trial
        for trial in current.trials
    ]
    return replace(current, trials=tuple(trials))


def _waits_for_others(current: Plan) -> tuple[PlannedTrial, ...]:
    """Return the trials whose points may need the networks of others; none without `Transfer`."""
    if not any(isinstance(attack, Transfer) for attack in current.study.attacks()):
        return ()
    return tuple(trial for trial in current.trials if trial.state == "evaluate")


def _write_study(study: Study, folder: Folder) -> None:
    text = write_yaml(study.dump())
    folder.write("study.yaml", text.encode())


def _keep_report(
    tracker: "Tracker",
    current: Plan,
    folder: Folder,
    table: pd.DataFrame,
    report: Mapping[str, str],
) -> list[str]:
    """Log the files of the report to the study's run, and close that; notes if it is refused."""
    with tempfile.TemporaryDirectory() as scratch:
        for name in report:
            (Path(scratch) / name).write_bytes(folder.read(f"report/{name}"))
        artifacts = scratch if report else None
        return try_mlflow(lambda: tracker.close(current, folder, table, artifacts))


def _models_left(
    tracker: "Tracker",
    current: Plan,
    folder: Folder,
    console: Console,
    models: "ModelLogger | None",
) -> list[str]:
    """Log the models that MLflow lacks; notes on those that cannot be, or if it is refused."""
    if models is None:
        return []
    from studies.deploying.logged import log_models

    try:
        return log_models(current, folder, tracker, console, models.faults)
    except TrackingError as error:
        return [str(error)]


def _announce_choice(choice: Choice, console: Console) -> None:
    if choice.left_out:
        count = len(choice.plan.trials) - len(choice.added)
        total = len(choice.plan.trials) + len(choice.left_out)
        say(console, f"`--only` chooses {count} of {total} trials; the others stay planned.")
    if choice.added:
        names = listed(choice.added)
        say(console, f"Trained as well, as chosen trials are made from them: {names}.")


def _announce(current: Plan, console: Console) -> None:
    left = current.to_run()
    total = len(current.trials)
    said = f"Study {current.study.name}: {total - len(left)} of {total} trials are finished"
    resumed = sum(trial.state == "unfinished" for trial in left)
    if not left:
        said += "; nothing to train"
    elif resumed:
        said += f", {resumed} go on from a checkpoint"
    if waiting := sum(trial.state == "waiting" for trial in left):
        said += f"; {waiting} wait for the weights of others"
    say(console, f"{said}.")
    if current.foreign:
        say(
            console,
            f"{len(current.foreign)} finished trials in storage no longer belong to this study "
            "(other settings); they are kept.",
        )
