"""`oat submit`, `oat job` and `oat logs`: a study as a job of a cluster."""

import json
import shlex
from typing import TYPE_CHECKING, Annotated

import typer

import studies
from studies.cli.options import JobServer, Json, Overrides, Storage, StudyArgument, TrackingUri
from studies.cli.printing import err
from studies.cli.trial_log import print_trial_log
from studies.console import say
from studies.storage.addresses import DEFAULT_STORAGE

if TYPE_CHECKING:
    from studies.cluster.jobs import Job

OnlyStorage = Annotated[
    str | None, typer.Option("--storage", help="Only a job with this storage; default any.")
]


def submit(
    study: StudyArgument,
    job_server: JobServer,
    storage: Storage = DEFAULT_STORAGE,
    tracking_uri: TrackingUri = None,
    overrides: Overrides = None,
) -> None:
    """Submit `oat run` to a cluster as a job and return at once; you may close the shell."""
    chosen = overrides or ()
    job = studies.submit(
        study,
        job_server=job_server,
        storage=storage,
        tracking_uri=tracking_uri,
        overrides=chosen,
    )
    settings = [word for override in chosen for word in ("--set", override)]
    where = ["--storage", job.storage, *settings]
    there = [*where, "--job-server", job.job_server]
    mlflow = tracking_uri or (
        "what MLFLOW_TRACKING_URI of the cluster names; else a file in a folder of the head that "
        "Ray may remove"
        if "://" in job.storage
        else f"what MLFLOW_TRACKING_URI of the cluster names; else {job.storage}/mlflow.db"
    )
    print(f"Submitted study {job.study} as job {job.id}. You may close this shell.")
    print(f"MLflow:     {mlflow}")
    print(f"Its log:    {shlex.join(['oat', 'logs', study, '--follow', *there])}")
    print(f"Its state:  {shlex.join(['oat', 'job', study, *there])}")
    print(f"Its trials: {shlex.join(['oat', 'status', study, *where])}")
    print(f"Stop it:    {shlex.join(['ray', 'job', 'stop', job.id, '--address', job.job_server])}")


def job(
    study: StudyArgument,
    job_server: JobServer,
    storage: OnlyStorage = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Show the newest job of a study on a cluster; exit code 1 if there is none."""
    found = studies.job(study, job_server=job_server, storage=storage, overrides=overrides or ())
    if as_json:
        told = None if found is None else {**vars(found), "since": found.since.isoformat()}
        print(json.dumps(told, indent=1))
    elif found is not None:
        print(_job_line(found))
    else:
        where = "" if storage is None else " with this storage"
        say(err, f"The job server at {job_server} knows no job of this study{where}.")
    if found is None:
        raise typer.Exit(1)


def logs(
    study: StudyArgument,
    job_server: Annotated[
        str | None,
        typer.Option("--job-server", help="Job server of a cluster, such as http://HEAD:8265."),
    ] = None,
    trial: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="Instead what storage has of one trial: its run key, how that begins, or its "
            "label, with 'seed N' where there are several.",
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Until the job ends; exit code 1 if it failed.")
    ] = False,
    storage: Annotated[
        str | None,
        typer.Option(
            help="Only a job with this storage, default any; of a trial where the results are, "
            f"default {DEFAULT_STORAGE}."
        ),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Print what the newest job of a study says, or with --trial what one trial said."""
    chosen = overrides or ()
    if trial is not None:
        print_trial_log(
            studies.logs(
                study,
                job_server=job_server,
                trial=trial,
                storage=storage,
                follow=follow,
                overrides=chosen,
            )
        )
        return
    log = studies.logs(
        study, job_server=job_server, storage=storage, follow=follow, overrides=chosen
    )
    say(err, _job_line(log.job))
    lived = log.job.live
    for text in log:
        print(text, end="", flush=True)
    if follow:
        if lived:
            say(err, _job_line(log.job))
        if log.job.status != "SUCCEEDED":
            raise typer.Exit(1)


def _job_line(job: "Job") -> str:
    since = f"{job.since.astimezone():%Y-%m-%d %H:%M:%S}"
    return f"Job {job.id} with storage {job.storage}: {job.status} since {since}. {job.message}"
