"""One run of a study: check, train what is missing, judge, log, compare.

Ray, MLflow and the charts take seconds to import, so a function imports those it needs.
"""

import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml
from rich.console import Console

from oat.adversaries import Transfer
from studies.comparison import Comparison, compare_all
from studies.config import Study
from studies.errors import ComparisonError, StorageError, TrackingError
from studies.lease import Lease, LeaseError
from studies.loading import load_study
from studies.planning import Plan, PlannedTrial, asking_as, make_plan
from studies.results import study_points
from studies.storage import Folder, open_folder

if TYPE_CHECKING:
    from studies.tracking import Tracker

Source = str | Path | Mapping[str, Any] | Study
STORAGE = "./outputs"


@dataclass(frozen=True)
class RunOutcome:
    """What a run left behind.

    Attributes:
        plan: The plan as storage has it now.
        points: All points of the study.
        comparison: Free against retrained; None if there is nothing to compare.
        report: URIs of what was written, by file name.
        trained: How many trials this run worked on.
        notes: What the user must know.
    """

    plan: Plan
    points: pd.DataFrame
    comparison: Comparison | None
    report: dict[str, str]
    trained: int
    notes: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every trial is done."""
        return all(trial.state == "done" for trial in self.plan.trials)


def study_folder(study: Study, storage: str | Path) -> Folder:
    """Return the study's own folder, ``<storage>/<name>``."""
    return open_folder(storage).sub(study.name)


def tracking_place(
    storage: str | Path, tracking_uri: str | None, *, make: bool = True
) -> tuple[str, str | None]:
    """Return where MLflow is, and where a database of our own keeps artifacts.

    The order is: the argument, ``MLFLOW_TRACKING_URI``, a SQLite file in the storage folder, or
    in ``./outputs`` where storage is not a local path (SQLite needs one).

    Args:
        storage: Folder or URI of all studies' results.
        tracking_uri: MLflow, if it is named.
        make: Whether to make the folder of that file.

    Raises:
        StorageError: The storage folder cannot be made.
    """
    named = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if named:
        return named, None
    home = home_of(storage, make=make)
    return f"sqlite:///{home / 'mlflow.db'}", (home / "mlflow-artifacts").as_uri()


def home_of(storage: str | Path, *, make: bool = True) -> Path:
    """Return the local folder of databases: the storage, or ``./outputs`` if that is remote.

    Args:
        storage: Folder or URI of all studies' results.
        make: Whether to make the folder.

    Raises:
        StorageError: It cannot be made.
    """
    home = Path(STORAGE if "://" in str(storage) else storage).absolute()
    try:
        if make:
            home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"`--storage` '{storage}' cannot be made ({error}); choose a folder that can."
        ) from error
    return home


def run(
    study: Source,
    *,
    storage: str | Path = STORAGE,
    address: str | None = None,
    tracking_uri: str | None = None,
    overrides: Sequence[str] = (),
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
        console: Where progress goes; None is standard error.
        command: What the report names as the command that made it; empty is "from Python".

    Raises:
        StudyError: The study is faulty, or cannot run here; nothing was started.
        StorageError: The storage cannot be written; nothing was started.
        TrackingError: MLflow does not answer; nothing was started.
    """
    from studies.preconditions import check_evaluation, check_here, demand

    resolved = load_study(study, overrides)
    folder = study_folder(resolved, storage)
    console = console or Console(stderr=True)
    uri, artifacts = tracking_place(storage, tracking_uri)
    demand(check_here(resolved, folder, uri))
    with only_driver(resolved, folder, console):
        before = make_plan(resolved, folder)
        _announce(before, console)
        if before.to_run() and address is None:
            demand([check_evaluation(resolved)])
        with ExitStack() as stack:
            # MLflow takes seconds to import and to create its database, and so does Ray to start
            with ThreadPoolExecutor(1) as pool:
                opening = pool.submit(open_tracker, uri, resolved.name, artifacts)
                if before.to_run():
                    join_cluster(resolved, folder, address, stack, console)
                tracker = opening.result()
            packed = before
            if before.to_run():
                from studies.packing import choose_share, with_share

                packed = with_share(before, choose_share(before.to_run(), folder, console))
            gave_up = _train_and_judge(packed, folder, tracker, console, address is None)
            after = _with_reasons(make_plan(resolved, folder), gave_up)
        table = study_points(after, folder)
        # MLflow comes first: the report links to its runs
        refused = refusal(lambda: tracker.catch_up(after, folder))
        comparison, report, notes = _compare_and_report(after, table, folder, command)
        refused = refused or _keep_report(tracker, after, folder, table, report)
        worked_on = len(before.to_run())
        return RunOutcome(after, table, comparison, report, worked_on, notes + refused)


def _train_and_judge(
    before: Plan, folder: Folder, tracker: "Tracker", console: Console, reuse: bool
) -> dict[str, str]:
    """Run what is left, Ray being connected if anything is; return what was given up, and why."""
    if not before.to_run():
        return {}
    _write_study(before.study, folder)
    gave_up = _launch(before, folder, tracker, console, reuse)
    trained = asking_as(make_plan(before.study, folder), before)
    if waiting := _waits_for_others(trained):
        console.print("The models are trained; now they are judged by transfer.")
        gave_up |= _launch(replace(trained, trials=waiting), folder, tracker, console, reuse)
    return gave_up


@contextmanager
def only_driver(study: Study, folder: Folder, console: Console) -> Iterator[None]:
    """Hold the study's lease; stop, as by Ctrl-C, if another driver takes it.

    Raises:
        LeaseError: Another driver has it, or has taken it.
    """
    taken = threading.Event()
    # elsewhere than in the main thread Python takes no signals: the run then ends in its own time
    main = threading.current_thread() is threading.main_thread()

    def lost() -> None:
        taken.set()
        if main:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR2)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    def say(sentence: str) -> None:
        console.print(sentence, highlight=False)

    # not SIGINT, which a shell's background processes ignore; nor SIGUSR1, which is Tune's
    before = signal.signal(signal.SIGUSR2, stop) if main else None
    try:
        with Lease(folder, study.name, lost=lost, waiting=say):
            yield
            if taken.is_set():
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        if not taken.is_set():
            raise
        raise LeaseError(
            f"Another run of study '{study.name}' has taken over, as this one gave no sign of "
            "life; that one goes on."
        ) from None
    finally:
        if main:
            signal.signal(signal.SIGUSR2, before)


def join_cluster(
    study: Study, folder: Folder, address: str | None, stack: ExitStack, console: Console
) -> None:
    """Connect to Ray until the stack closes, and check what only a cluster can tell.

    Raises:
        StudyError: No cluster answers, or it cannot run the study.
        StorageError: A node does not see the storage.
    """
    import ray

    from studies.capacity import node_sizes
    from studies.preconditions import check_cluster, check_nodes, demand
    from studies.runner import FirstLines, connect

    stack.enter_context(redirect_stdout(FirstLines()))
    if connect(address):
        stack.callback(ray.shutdown)
    checks = [check_cluster(study, node_sizes(ray.nodes()))]
    demand(checks)
    if address is not None:
        checks += check_nodes(study, folder, ray.nodes())
        demand(checks)
    for check in checks:
        if check.warning:
            console.print(check.said, highlight=False)


def _with_reasons(current: Plan, gave_up: Mapping[str, str]) -> Plan:
    """Return a plan that says of trials without a reason of their own what their worker said."""
    trials = [
        replace(trial, reason=f"given up: {gave_up[trial.run_key]} again and again")
        if trial.run_key in gave_up and trial.reason is None
        else trial
        for trial in current.trials
    ]
    return replace(current, trials=tuple(trials))


def open_tracker(uri: str, study: str, artifacts: str | None) -> "Tracker":
    """Open a study's experiment in MLflow and learn what it holds."""
    from studies.tracking import Tracker

    tracker = Tracker(uri, study, artifacts)
    tracker.load()
    return tracker


def _waits_for_others(current: Plan) -> tuple[PlannedTrial, ...]:
    """Return the trials whose points may need the networks of others; none without `Transfer`."""
    if not any(isinstance(attack, Transfer) for attack in current.study.attacks()):
        return ()
    return tuple(trial for trial in current.trials if trial.state == "evaluate")


def _write_study(study: Study, folder: Folder) -> None:
    text = yaml.safe_dump(study.dump(), sort_keys=False, allow_unicode=True)
    folder.write("study.yaml", text.encode())


def _launch(
    current: Plan, folder: Folder, tracker: "Tracker", console: Console, reuse: bool
) -> dict[str, str]:
    """Run what is left under Ray while MLflow follows; return what was given up, and why."""
    from studies.background import BackgroundSync
    from studies.progress import Progress
    from studies.runner import launch

    follower = BackgroundSync(tracker, current, folder)
    follower.start()
    try:
        with Progress(current, console, follower.changed) as progress:
            return launch(current, folder, [progress], reuse_workers=reuse)
    finally:
        follower.close()


def _compare_and_report(
    current: Plan, table: pd.DataFrame, folder: Folder, command: str
) -> tuple[Comparison | None, dict[str, str], list[str]]:
    """Compare, and write the report into the study's folder; say so where that cannot be done."""
    from studies.gains import with_gains
    from studies.origin import gather
    from studies.report import render

    if table.empty:
        return None, {}, []
    rule = current.study.evaluate.checkpoints[0]
    try:
        comparison, others = compare_all(table, checkpoint=rule, unfinished=current.unfinished())
    except ComparisonError as error:
        return None, {}, [str(error)]
    comparison = with_gains(comparison, current.study, folder)
    place = folder.sub("report")
    files = render(comparison, gather(current, folder, command), others)
    for name, data in files.items():
        place.write(name, data)
    return comparison, {name: place.sub(name).uri for name in files}, []


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
        return refusal(lambda: tracker.close(current, folder, table, artifacts))


def refusal(call: Callable[[], None]) -> list[str]:
    """Call MLflow; a server that is gone costs a note, no result."""
    try:
        call()
    except TrackingError as error:
        return [str(error)]
    return []


def _announce(current: Plan, console: Console) -> None:
    left = current.to_run()
    total = len(current.trials)
    said = f"Study {current.study.name}: {total - len(left)} of {total} trials are finished"
    resumed = sum(trial.state == "unfinished" for trial in left)
    if not left:
        said += "; nothing to train"
    elif resumed:
        said += f", {resumed} go on from a checkpoint"
    console.print(f"{said}.", highlight=False)
    if current.foreign:
        console.print(
            f"{len(current.foreign)} finished trials in storage no longer belong to this study "
            "(other settings); they are kept.",
            highlight=False,
        )
