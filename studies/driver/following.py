"""Around what runs on Ray: the connection, and MLflow and progress that follow it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from typing import TYPE_CHECKING

from rich.console import Console

from studies.errors import TrackingError
from studies.planning.plan import Plan, PlannedTrial
from studies.storage.folder import Folder
from studies.study_file.study import Study

if TYPE_CHECKING:
    from studies.cluster.progress import Progress
    from studies.cluster.retries import FirstFailure
    from studies.driver.same_data import KnownData
    from studies.tracking.tracker import Tracker


def join_cluster(
    study: Study,
    folder: Folder,
    address: str | None,
    stack: ExitStack,
    console: Console,
    known: "KnownData",
) -> None:
    """Connect to Ray until the stack closes, and check what only a cluster can tell.

    Args:
        study: The study.
        folder: Its folder.
        address: Ray cluster to use; None starts a Ray on this machine.
        stack: Closes the connection.
        console: Where warnings go.
        known: What the study's trials were trained on.

    Raises:
        StudyError: No cluster answers, or it cannot run the study.
        StorageError: A node does not see the storage.
    """
    import ray

    from studies.cluster.capacity import node_sizes
    from studies.cluster.connection import FirstLines, connect
    from studies.driver.checks import demand, tell
    from studies.driver.nodes import check_cluster, check_nodes

    stack.enter_context(redirect_stdout(FirstLines()))
    if connect(address):
        stack.callback(ray.shutdown)
    checks = [check_cluster(study, node_sizes(ray.nodes()))]
    demand(checks)
    if address is not None:
        checks += check_nodes(study, folder, ray.nodes(), known)
        demand(checks)
    tell(checks, console)


def open_tracker(uri: str, study: str, artifacts: str | None) -> "Tracker":
    """Open a study's experiment in MLflow and learn what it holds."""
    from studies.tracking.tracker import Tracker

    tracker = Tracker(uri, study, artifacts)
    tracker.load()
    return tracker


@contextmanager
def followed(
    current: Plan,
    folder: Folder,
    tracker: "Tracker",
    console: Console,
    title: str = "",
    brought: Callable[[str], None] | None = None,
) -> Iterator[tuple["Progress", Callable[[PlannedTrial], None]]]:
    """Let the console and MLflow follow what runs on Ray until the block is left.

    Args:
        current: The trials that are known when it begins.
        folder: The study's folder.
        tracker: Of its experiment.
        console: Where progress goes.
        title: What runs; empty is the study.
        brought: Called with the run key of a trial each time MLflow has taken what is new of it.

    Yields:
        A callback for Tune, and what is to be called with each trial that the plan does not have.
    """
    from studies.cluster.progress import Progress
    from studies.tracking.background import BackgroundSync

    follower = BackgroundSync(tracker, current, folder, brought)
    follower.start()
    try:
        with Progress(current, console, follower.changed, title) as progress:

            def begun(trial: PlannedTrial) -> None:
                follower.add(trial)
                progress.add(trial)

            yield progress, begun
    finally:
        follower.close()


def run_followed(
    current: Plan,
    folder: Folder,
    tracker: "Tracker",
    console: Console,
    reuse: bool,
    first_failure: "FirstFailure | None" = None,
    brought: Callable[[str], None] | None = None,
) -> dict[str, str]:
    """Run what is left under Ray while MLflow follows; return what was given up, and why."""
    from studies.cluster.launching import launch

    with followed(current, folder, tracker, console, brought=brought) as (progress, _):
        return launch(current, folder, [progress], reuse_workers=reuse, first_failure=first_failure)


def try_mlflow(call: Callable[[], None]) -> list[str]:
    """Call MLflow; a server that is gone costs a note, no result."""
    try:
        call()
    except TrackingError as error:
        return [str(error)]
    return []
