"""One run of a study: check, train what is missing, evaluate, log, compare: `studies.run`.

Ray, MLflow and the charts take seconds to import, so a function imports those it needs.
"""

import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from rich.console import Console

from studies.commands.compare import compare_and_report
from studies.console import plain_console
from studies.driver.announcing import announce, announce_choice, ended_early
from studies.driver.choosing import choose
from studies.driver.following import join_cluster, open_tracker, try_mlflow
from studies.driver.lease import only_driver
from studies.driver.places import study_folder, tracking_place
from studies.driver.rounds import train_and_judge, with_reasons
from studies.driver.same_data import data_of_plan
from studies.errors import TrackingError
from studies.planning.expand import make_plan
from studies.planning.plan import Plan
from studies.results.reading import study_points
from studies.results.shown import Points
from studies.storage.addresses import DEFAULT_STORAGE
from studies.storage.folder import Folder
from studies.study_file.loading import Source, load_study

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
    console = console or plain_console(stderr=True)
    uri, artifacts = tracking_place(storage, tracking_uri)
    here = check_here(resolved, folder, uri)
    demand(here)
    tell(here, console)
    with only_driver(resolved, folder, console):
        before = make_plan(resolved, folder)
        choice = choose(before, only)
        chosen = choice.plan
        announce(before, console)
        announce_choice(choice, console)
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
                brought = None if models is None else models.brought
                gave_up = train_and_judge(
                    packed, folder, tracker, console, address is None, first, brought
                )
            after = with_reasons(make_plan(resolved, folder), gave_up)
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
        notes = [*notes, *refused, *ended_early(first, after)]
        return RunOutcome(after, Points.of(table), comparison, report, worked_on, notes, left_out)


def _first_failure() -> "FirstFailure":
    from studies.cluster.retries import FirstFailure

    return FirstFailure()


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
