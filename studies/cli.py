"""The `oat` command: results on standard output, everything else on standard error."""

import json
import logging
import shlex
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
import typer
from rich.console import Console
from rich.table import Table

from studies.errors import JobError, UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
out, err = Console(), Console(stderr=True)
if not out.is_terminal:
    out = Console(width=120)  # a file or a pipe has no width of its own

StudyArgument = Annotated[str, typer.Argument(metavar="STUDY", help="A preset, or a YAML file.")]
Storage = Annotated[str, typer.Option(help="Folder or URI that holds the results.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one value, such as train.epochs=30."),
]
TrackingUri = Annotated[
    str | None,
    typer.Option(help="MLflow; default MLFLOW_TRACKING_URI, else <storage>/mlflow.db."),
]
Address = Annotated[
    str | None, typer.Option(help="Ray cluster, such as `auto`; default this machine.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


INTERRUPTED = 130
"""Exit code of typer after Ctrl-C: 128 + SIGINT."""


class Format(StrEnum):
    """How `oat runs` prints."""

    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"


def _version(asked: bool) -> None:
    if asked:
        print(f"oat-studies {metadata.version('oat-studies')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Is the trade-off of once-for-all adversarial training free? Studies that answer it."""


@app.command()
def init(
    preset: Annotated[
        str, typer.Option("--from", metavar="PRESET", help="What to start from; a file as well.")
    ] = "quickstart",
) -> None:
    """Write a commented study file to standard output, with every key that there is."""
    from studies import api

    print(api.template(preset), end="")


@app.command()
def schema() -> None:
    """Print the JSON Schema of the study file, for editors."""
    from studies import api

    print(json.dumps(api.schema(), indent=1, ensure_ascii=False))


@app.command()
def validate(study: StudyArgument, overrides: Overrides = None) -> None:
    """Check a study file without running anything; exit code 2 if it is faulty."""
    from studies.loading import load_study
    from studies.planning import count_points

    found = load_study(study, overrides or ())
    methods = Counter(method.name for method in found.all_methods())
    counts = ", ".join(f"{count} {name}" for name, count in methods.items())
    seeds = f"{len(found.seeds)} seed{'s' if len(found.seeds) > 1 else ''}"
    trials = methods.total() * len(found.seeds)
    print(
        f"Study {found.name} is valid: {trials} trials ({counts}; {seeds}), "
        f"{count_points(found)} points to judge."
    )


@app.command()
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
    from studies import api
    from studies.estimates import basis_in_words
    from studies.progress import duration

    current = api.plan(
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


@app.command()
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
    from studies import api

    if detach:
        if address is None:
            raise JobError(
                "`--detach` needs the cluster's job server, such as `--address http://HEAD:8265`."
            )
        job = api.submit(
            study,
            storage=storage,
            address=address,
            tracking_uri=tracking_uri,
            overrides=overrides or (),
        )
        _submitted(job, study, overrides or (), tracking_uri)
        return
    outcome = api.run(
        study,
        storage=storage,
        address=address,
        tracking_uri=tracking_uri,
        overrides=overrides or (),
        console=err,
        command=_command(),
    )
    if outcome.trained == 0 and outcome.complete:
        print(f"Nothing to train: all {len(outcome.plan.trials)} trials are finished.")
    if outcome.comparison is not None:
        _show(outcome.comparison)
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


@app.command()
def tune(
    study: StudyArgument,
    storage: Storage = "./outputs",
    address: Address = None,
    tracking_uri: TrackingUri = None,
    optuna_storage: Annotated[
        str | None, typer.Option(help="Optuna's database; default <storage>/optuna.db.")
    ] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Search the best settings of each method, all on one budget. Safe to call again."""
    from studies import api
    from studies.gains import gains_of_searches
    from studies.progress import duration
    from studies.tables import gain_rows

    outcome = api.tune(
        study,
        storage=storage,
        address=address,
        tracking_uri=tracking_uri,
        optuna_storage=optuna_storage,
        overrides=overrides or (),
        console=err,
    )
    if as_json:
        searches = [search.dump() for search in outcome.searches]
        print(json.dumps({"tuned": outcome.tuned, "searches": searches}, indent=1))
    else:
        budget = duration(outcome.searches[0].budget)
        table = Table(title=f"Tuning on {budget} of training for each method, held-out images")
        rows = gain_rows(gains_of_searches(outcome.searches))
        for name in rows[0]:
            table.add_column(name, justify="left" if name == "method" else "right")
        for row in rows:
            table.add_row(*row.values())
        out.print(table)
        for search in outcome.searches:
            print(f"{search.method}: {search.ended}.")
        print(f"Winners   {outcome.tuned}")
        print(f"Optuna    {outcome.storage}")
        print(f"Next      {shlex.join(['oat', 'run', outcome.tuned, '--storage', storage])}")
    for note in outcome.notes:
        err.print(note, highlight=False, markup=False, soft_wrap=True)
    if not outcome.complete:
        raise typer.Exit(1)


@app.command()
def preflight(
    study: StudyArgument,
    storage: Storage = "./outputs",
    address: Address = None,
    tracking_uri: TrackingUri = None,
    overrides: Overrides = None,
) -> None:
    """Check all that must hold before a study starts, here and on every node; starts nothing."""
    from studies import api

    checks = api.preflight(
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


@app.command()
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
    from studies import api

    chosen = overrides or ()
    job = api.job(study, address=address, storage=storage, overrides=chosen) if address else None
    table = api.status(study, storage=storage, overrides=chosen)
    if as_json and address:
        told = None if job is None else {**vars(job), "since": job.since.isoformat()}
        trials = json.loads(table.to_json(orient="records"))
        print(json.dumps({"job": told, "trials": trials}, indent=1))
    elif as_json:
        print(table.to_json(orient="records", indent=1))
    else:
        if address:
            print(_job_line(job, address))
        _print_frame(table.round(4))


@app.command()
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
    from studies import api

    log = api.logs(
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


@app.command()
def compare(
    studies: Annotated[list[str], typer.Argument(metavar="STUDY...", help="Presets or files.")],
    storage: Storage = "./outputs",
    overrides: Overrides = None,
    to: Annotated[
        Path | None, typer.Option("--out", help="Folder for the table, figures and page.")
    ] = None,
    attack: Annotated[str | None, typer.Option(help="RA under this attack.")] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(help="last, averaged or chosen; else the first of the study's own."),
    ] = None,
    margin: Annotated[float, typer.Option(help="How much worse is free, as a fraction.")] = 0.01,
    force: Annotated[bool, typer.Option(help="Compare different settings all the same.")] = False,
    as_json: Json = False,
) -> None:
    """Compare one model for every trade-off with one retrained for each."""
    from studies import api
    from studies.comparison import compare_all
    from studies.gains import with_gains
    from studies.loading import load_study
    from studies.origin import gather
    from studies.report import render
    from studies.session import study_folder

    chosen = overrides or ()
    frames = [api.points(name, storage=storage, overrides=chosen) for name in studies]
    points = pd.concat(frames, ignore_index=True).drop_duplicates("point_key", ignore_index=True)
    if checkpoint is None:  # as `oat run` does
        checkpoint = load_study(studies[0], chosen).evaluate.checkpoints[0]
    plans = [api.plan(name, storage=storage, overrides=chosen) for name in studies]
    result, others = compare_all(
        points,
        attack=attack,
        checkpoint=checkpoint,
        margin=margin,
        force=force,
        unfinished=[trial for current in plans for trial in current.unfinished()],
    )
    main = plans[0].study
    result = with_gains(result, main, study_folder(main, storage))
    if to is not None:
        origin = gather(plans[0], study_folder(plans[0].study, storage), _command())
        to.mkdir(parents=True, exist_ok=True)
        for name, data in render(result, origin, others).items():
            (to / name).write_bytes(data)
    if as_json:
        print(json.dumps(_plain(result), indent=1))
    else:
        _show(result)


@app.command()
def runs(
    study: StudyArgument,
    where: Annotated[
        str | None,
        typer.Option(help="Condition, such as \"method == 'oat' and ra_pgd20 > 0.4\"."),
    ] = None,
    columns: Annotated[str | None, typer.Option(help="Columns, separated by commas.")] = None,
    as_format: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.table,
    storage: Storage = "./outputs",
    tracking_uri: TrackingUri = None,
    tuning: Annotated[
        bool, typer.Option("--tuning", help="Points of tuning, on held-out images.")
    ] = False,
) -> None:
    """Query the points of a study in MLflow."""
    from studies import api

    chosen = [c.strip() for c in columns.split(",")] if columns else None
    table = api.runs(
        study,
        where=where,
        columns=chosen,
        storage=storage,
        tracking_uri=tracking_uri,
        tuning=tuning,
    )
    match as_format:
        case Format.csv:
            table.to_csv(sys.stdout, index=False)
        case Format.json:
            print(table.to_json(orient="records", indent=1))
        case Format.parquet:
            table.to_parquet(sys.stdout.buffer, index=False)
        case Format.table:
            _print_frame((table if chosen else _brief(table)).round(4))


def _brief(table: pd.DataFrame) -> pd.DataFrame:
    """Choose the columns that tell points apart, and RA under attacks beyond a row's own."""
    from studies.results import COLUMNS, attack_column

    names = ["variant", "lam", "beta", "width_mult", "seed", "checkpoint_rule", "attack"]
    own = table["attack"].map(attack_column)
    others = [
        name
        for name in table.columns
        if name not in COLUMNS and (table[name].notna() & (own != name)).any()
    ]
    return table[[*names, "sa", "ra", *others]]


@app.command()
def sync(
    study: StudyArgument,
    storage: Storage = "./outputs",
    tracking_uri: TrackingUri = None,
    overrides: Overrides = None,
) -> None:
    """Rebuild or repair the study's experiment in MLflow from storage."""
    from studies import api

    count = api.sync(study, storage=storage, tracking_uri=tracking_uri, overrides=overrides or ())
    print(f"MLflow has {count} points of this study.")


@app.command()
def ui(
    study: StudyArgument,
    storage: Storage = "./outputs",
    tracking_uri: TrackingUri = None,
    host: Annotated[str, typer.Option(help="Name or address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any that is free.")
    ] = 5000,
) -> None:
    """Start MLflow's own page on the study's store and print its address; Ctrl-C ends it."""
    from studies import api

    stop = threading.Event()
    with (
        _signals_set(stop),
        api.ui(
            study,
            storage=storage,
            tracking_uri=tracking_uri,
            host=host,
            port=port,
            stop=stop,
            console=err,
        ) as page,
    ):
        if not stop.is_set():
            print(page.address, flush=True)
        page.wait(stop)


@contextmanager
def _signals_set(stop: threading.Event) -> Iterator[None]:
    """Set an event on Ctrl-C and on SIGTERM, and do nothing else then."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: stop.set()) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _command() -> str:
    """Return the command as a shell would take it."""
    return shlex.join(["oat", *sys.argv[1:]])


def _plain(result: Any) -> dict[str, Any]:
    """Return a comparison as plain values for JSON."""

    def records(table: pd.DataFrame) -> Any:
        return json.loads(table.to_json(orient="records"))

    return {
        "attack": result.attack,
        "verdict": result.verdict,
        "answer": result.answer(),
        "margin": result.margin,
        "checkpoint": result.checkpoint,
        "hypervolume_ratios": {name: vars(ratio) for name, ratio in result.ratios.items()},
        "table": records(result.table),
        "variants": records(result.variants),
        "cells": records(result.cells),
        "fronts": records(result.fronts),
        "masking": records(result.masking),
        "tuning": None if result.gains is None else records(result.gains.table),
        "remarks": result.remarks(),
        "notes": result.notes,
    }


def _show(result: Any) -> None:
    from studies.tables import terminal

    for part in terminal(result, out.width):
        if isinstance(part, str):
            print(part)
        else:
            out.print(part)


def _print_frame(frame: pd.DataFrame) -> None:
    table = Table(*frame.columns)
    for row in frame.itertuples(index=False):
        table.add_row(*("" if pd.isna(v) else str(v) for v in row))
    out.print(table)
    print(f"{len(frame)} rows")


def main() -> None:
    """Run the command; turn what the user can mend into one sentence and exit code 2."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    for name in ("mlflow", "alembic", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        app(standalone_mode=True)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            if sys.argv[1:2] == ["logs"]:
                err.print("Stopped. The job goes on.")
            else:
                err.print("Stopped. The same command goes on from the last checkpoints.")
        raise
    except UserError as error:
        err.print(str(error), highlight=False, markup=False, soft_wrap=True)
        raise SystemExit(2) from None
