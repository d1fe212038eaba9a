"""Every check that must hold before a study starts: `studies.preflight`."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from studies.driver.checks import Check, check_evaluation, check_here
from studies.driver.nodes import check_cluster, check_nodes
from studies.driver.places import study_folder, tracking_place
from studies.driver.same_data import data_of_plan
from studies.planning.expand import make_plan
from studies.storage.addresses import DEFAULT_STORAGE
from studies.study_file.loading import Source, load_study


def preflight(
    study: Source,
    *,
    storage: str | Path = DEFAULT_STORAGE,
    address: str | None = None,
    tracking_uri: str | None = None,
    overrides: Sequence[str] = (),
) -> list[Check]:
    """Check all that `run` checks before it starts anything; every failure, not only the first.

    Args:
        study: A preset's name, a YAML file, a mapping, or a study.
        storage: Folder or URI of all studies' results.
        address: Ray cluster to ask; None starts a Ray on this machine.
        tracking_uri: MLflow; see `tracking_place`.
        overrides: ``path.to.key=value`` each.

    Raises:
        StudyError: The study is faulty, or no cluster answers.
    """
    import ray

    from studies.cluster.capacity import node_sizes
    from studies.cluster.connection import connect

    resolved = load_study(study, overrides)
    folder = study_folder(resolved, storage)
    uri, _ = tracking_place(storage, tracking_uri)
    trials = len(resolved.trials())
    checks = [Check("study", f"{resolved.name}: {trials} trials")]
    checks += check_here(resolved, folder, uri, ask_mlflow=True)
    known = data_of_plan(make_plan(resolved, folder), folder)
    if address is None:
        checks += check_evaluation(resolved, known)
    with ExitStack() as stack:
        if connect(address):
            stack.callback(ray.shutdown)
        checks.append(check_cluster(resolved, node_sizes(ray.nodes())))
        if address is not None and checks[1].error is None:
            checks += check_nodes(resolved, folder, ray.nodes(), known)
    return checks
