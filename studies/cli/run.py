"""`oat plan`, `preflight`, `run`, `status` and `logs`: a study before, while and after it runs."""

import json
import shlex
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

import studies
from studies.cli.options import Address, Json, Overrides, Storage, StudyArgument, TrackingUri
from studies.cli.printing import err, out, print_comparison, print_frame, this_command
from studies.errors import JobError


def plan(
    study: StudyArgument,
    storage: Storage = "./outputs",
    address: Address = None,
    overrides: Overrides = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Time each kind of trial on its device first.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List every trial with its state and estimated time; starts nothing."""
    from studies.naming import duration
    from studies.planning.estimates import basis_in_words

    current = studies.plan(
        study,
        storage=storage,
        overrides=overrides or (),
        probe=probe,
        address=address,
        console=err,
    )
    if as_json:
        print(json.dumps({"trials": current.records(), "foreign": list(current.foreign)}, indent=1))
        return
    table = Table(title=f"Study {current.study.name}: {len(current.trials)} trials")
    for name in ("trial", "seed", "cpu", "gpu", "state", "training", "basis", "run key"):
        table.add_column(name, justify="right" if name in {"seed", "cpu", "gpu"} else "left")
    for t in current.trials:
        need, found = t.job["resources"], current.estimate(t)
        gpu = need["gpu"] if isinstance(need["gpu"], str) else f"{need['gpu']:.4g}"
        trained = found.training + found.validation
        time = _between(*(duration(trained * found.factor(end)) for end in ENDS))
        table.add_row(
            t.label, str(t.seed), f"{need['cpu']:g}", gpu, t.state, time, found.basis, t.run_key,
        )  # fmt: skip
    out.print(table)
    left = current.to_run()
    hours = (sum(current.seconds_left(t, end) for t in left) / 3600 for end in ENDS)
    spans = (
        _between(*(duration(current.makespan(slots, end)) for end in ENDS)) for slots in (1, 2, 8)
    )
    one, two, eight = spans
    print(
        f"{len(left)} to run, {_between(*(f'{h:.2f}' for h in hours))} device hours: "
        f"{one} one at a time, {two} two, {eight} eight at a time."
    )
    print(f"Times are {basis_in_words([current.estimate(t) for t in left or current.trials])}.")
    if current.foreign:
        print(f"{len(current.foreign)} finished trials in storage do not belong to this study.")


ENDS: tuple[Literal["low", "high"], ...] = ("low", "high")


def _between(low: str, high: str) -> str:
    """Write a range; one number if its ends read the same."""
    return f"~{low}" if low == high else f"{low} to {high}"


def run(
    study: StudyArgument,
    storage: Storage = "./outputs",
    address: Address = None,
    tracking_uri: TrackingUri = None,
    overrides: Overrides = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Submit to the job server at --address; return.")
    ] = False,
) -> None:
    """Run what is missing, judge it, log it to MLflow, compare. Safe to call again."""
    if detach:
        if address is None:
            raise JobError(
                "`--detach` needs the cluster's job server, such as `--address http://HEAD:8265`."
            )
        job = studies.submit(
            study,
            storage=storage,
            address=address,
            tracking_uri=tracking_uri,
            overrides=overrides or (),
        )
        _submitted(job, study, overrides or (), tracking_uri)
        return
    outcome = studies.run(
        study,
        storage=storage,
        address=address,
        tracking_uri=tracking_uri,
        overrides=overrides or (),
        console=err,
        command=this_command(),
    )
    if outcome.trained == 0 and outcome.complete:
        print(f"Nothing to train: all {len(outcome.plan.trials)} trials are finished.")
    if outcome.comparison is not None:
        print_comparison(outcome.comparison)
    for name in ("index.html", "front.png", "front.svg"):
        if name in outcome.report:
            print(f"{name:10} {outcome.report[name]}")
    for note in outcome.notes:
        err.print(note, highlight=False, markup=False, soft_wrap=True)
    bad = [t for t in outcome.plan.trials if t.state != "done"]
    for t in bad:
        reason = t.reason or "Run again to continue."
        err.print(
            f"{t.label} seed {t.seed} ({t.run_key}): {t.state}. {reason}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    if bad:
        raise typer.Exit(1)


def preflight(
    study: StudyArgument,
    storage: Storage = "./outputs",
    address: Address = None,
    tracking_uri: TrackingUri = None,
    overrides: Overrides = None,
) -> None:
    """Check all that must hold before a study starts, here and on every node; starts nothing."""
    checks = studies.preflight(
        study,
        storage=storage,
        address=address,
        tracking_uri=tracking_uri,
        overrides=overrides or (),
    )
    table = Table("check", "state", "what")
    for check in checks:
        table.add_row(check.name, check.state, check.said)
    out.print(table)
    if any(check.error is not None for check in checks):
        raise typer.Exit(2)


def status(
    study: StudyArgument,
    storage: Storage = "./outputs",
    address: Annotated[
        str | None, typer.Option(help="Job server; shows the job of a detached run as well.")
    ] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Show how far each trial is, from storage, while a study runs or after."""
    chosen = overrides or ()
    job = (
        studies.job(study, address=address, storage=storage, overrides=chosen) if address else None
    )
    table = studies.status(study, storage=storage, overrides=chosen)
    if as_json and address:
        told = None if job is None else {**vars(job), "since": job.since.isoformat()}
        trials = json.loads(table.to_json(orient="records"))
        print(json.dumps({"job": told, "trials": trials}, indent=1))
    elif as_json:
        print(table.to_json(orient="records", indent=1))
    else:
        if address:
            print(_job_line(job, address))
        print_frame(table.round(4))


def logs(
    study: StudyArgument,
    address: Annotated[str, typer.Option(help="Job server, such as http://HEAD:8265.")],
    follow: Annotated[
        bool, typer.Option("--follow", help="Until the job ends; exit code 1 if it failed.")
    ] = False,
    storage: Annotated[
        str | None, typer.Option(help="Only a job with this storage; default any.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Print what the newest detached run of a study says."""
    log = studies.logs(
        study, address=address, storage=storage, follow=follow, overrides=overrides or ()
    )
    err.print(_job_line(log.job, address), highlight=False, markup=False, soft_wrap=True)
    lived = log.job.live
    for text in log:
        print(text, end="", flush=True)
    if follow:
        if lived:
            err.print(_job_line(log.job, address), highlight=False, markup=False, soft_wrap=True)
        if log.job.status != "SUCCEEDED":
            raise typer.Exit(1)


def _job_line(job: Any, address: str) -> str:
    if job is None:
        return f"The job server at {address} knows no job of this study with this storage."
    since = f"{job.since.astimezone():%Y-%m-%d %H:%M:%S}"
    return f"Job {job.id} with storage {job.storage}: {job.status} since {since}. {job.message}"


def _submitted(job: Any, study: str, overrides: Sequence[str], tracking_uri: str | None) -> None:
    """Tell how to follow a job."""
    settings = [word for override in overrides for word in ("--set", override)]
    where = ["--storage", job.storage, "--address", job.address, *settings]
    mlflow = tracking_uri or (
        "what MLFLOW_TRACKING_URI of the cluster names; else a file in a folder of the head that "
        "Ray may remove"
        if "://" in job.storage
        else f"what MLFLOW_TRACKING_URI of the cluster names; else {job.storage}/mlflow.db"
    )
    print(f"Submitted study {job.study} as job {job.id}. You may close this shell.")
    print(f"MLflow:    {mlflow}")
    print(f"Its log:   {shlex.join(['oat', 'logs', study, '--follow', *where])}")
    print(f"Its state: {shlex.join(['oat', 'status', study, *where])}")
    print(f"Stop it:   {shlex.join(['ray', 'job', 'stop', job.id, '--address', job.address])}")
