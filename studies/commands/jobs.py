"""A study as a job of a cluster: `studies.submit`, `studies.job` and `studies.logs`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

from studies.driver.places import study_folder
from studies.errors import QueryError
from studies.storage.addresses import DEFAULT_STORAGE
from studies.study_file.loading import Source, load_study

if TYPE_CHECKING:
    from studies.cluster.jobs import Job, Log
    from studies.results.trial_log import TrialLog


def submit(
    study: Source,
    *,
    job_server: str,
    storage: str | Path,
    tracking_uri: str | None = None,
    overrides: Sequence[str] = (),
) -> "Job":
    """Submit a study to a cluster as a job that calls `run` there; return at once.

    The study is checked here; the resolved one is sent, and the job has the environment of the
    cluster, credentials included.

    Args:
        study: The study. Its ``data.root`` is a folder of the cluster's nodes.
        job_server: URL of the cluster's job server, such as ``http://HEAD:8265``.
        storage: Absolute path or URI that every node of the cluster reaches.
        tracking_uri: MLflow as the cluster reaches it, without credentials; None leaves it to
            ``MLFLOW_TRACKING_URI`` there.
        overrides: ``path.to.key=value`` each.

    Raises:
        StudyError: The study is faulty; nothing was submitted.
        JobError: It cannot travel, a job of it has not ended, or the server does not take it.
    """
    from studies.cluster.job_checks import check_travels
    from studies.cluster.jobs import JobServer

    resolved = load_study(study, overrides)
    check_travels(resolved, str(storage), tracking_uri)
    return JobServer(job_server).submit(resolved, str(storage), tracking_uri)


def job(
    study: Source,
    *,
    job_server: str,
    storage: str | Path | None = None,
    overrides: Sequence[str] = (),
) -> "Job | None":
    """Return the newest job of a study on a cluster; None if the server knows none.

    Args:
        study: The study.
        job_server: URL of the cluster's job server.
        storage: Only jobs with this storage; None is any.
        overrides: ``path.to.key=value`` each.

    Raises:
        JobError: The server does not answer, or refuses the token.
    """
    from studies.cluster.jobs import JobServer

    name = load_study(study, overrides).name
    return JobServer(job_server).newest(name, None if storage is None else str(storage))


@overload
def logs(
    study: Source,
    *,
    job_server: str | None = None,
    trial: None = None,
    storage: str | Path | None = None,
    follow: bool = False,
    overrides: Sequence[str] = (),
) -> "Log": ...


@overload
def logs(
    study: Source,
    *,
    job_server: str | None = None,
    trial: str,
    storage: str | Path | None = None,
    follow: bool = False,
    overrides: Sequence[str] = (),
) -> "TrialLog": ...


def logs(
    study: Source,
    *,
    job_server: str | None = None,
    trial: str | None = None,
    storage: str | Path | None = None,
    follow: bool = False,
    overrides: Sequence[str] = (),
) -> "Log | TrialLog":
    """Find the newest job of a study on a cluster to read what its driver says; or one trial's log.

    Args:
        study: The study.
        job_server: URL of the cluster's job server; for a trial no server is asked.
        trial: Run key of a trial, its beginning, or its label, with ``seed N`` where there are
            several: read what storage has of that trial instead, while it runs or after.
        storage: Only jobs with this storage; None is any. Of a trial the folder or URI of all
            studies' results; None is the default.
        follow: Whether the log of a job ends with the job, not with what there is now.
        overrides: ``path.to.key=value`` each.

    Returns:
        The log, to be iterated over; its ``job`` says how the job stands, at last how it ended.
        Or what is stored of the trial.

    Raises:
        JobError: The server does not answer, refuses the token, or knows no job of the study.
        QueryError: There is no such trial, or there are several; or neither or both are named.
    """
    if trial is not None:
        if job_server is not None or follow:
            raise QueryError(
                "`--trial` reads what storage has now; leave out `--job-server` and `--follow`, "
                "which are for the log of a job."
            )
        from studies.planning.expand import make_plan
        from studies.results.trial_log import read_trial_log

        resolved = load_study(study, overrides)
        folder = study_folder(resolved, DEFAULT_STORAGE if storage is None else storage)
        return read_trial_log(make_plan(resolved, folder), folder, trial)
    if job_server is None:
        raise QueryError(
            "`--job-server` must name the job server of a cluster, such as http://HEAD:8265, for "
            "the log of a job; or `--trial` a trial, for what that said."
        )
    from studies.cluster.jobs import JobServer

    name = load_study(study, overrides).name
    server = JobServer(job_server)
    return server.log(name, None if storage is None else str(storage), follow=follow)
