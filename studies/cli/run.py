"""`oat plan`, `preflight`, `run`, `status` and `logs`: a study before, while and after it runs."""

import json
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

import studies
from studies.cli.options import (
    Address,
    AsFormat,
    Columns,
    Format,
    HeldOut,
    Json,
    Overrides,
    Quiet,
    Storage,
    StudyArgument,
    TrackingUri,
    Verbose,
)
from studies.cli.printing import (
    column_names,
    err,
    print_comparison,
    print_frame,
    print_plan,
    print_points,
    print_sentence,
    print_table,
    progress,
    this_command,
)
from studies.console import say
from studies.errors import QueryError
from studies.storage.addresses import DEFAULT_STORAGE


def plan(
    study: StudyArgument,
    storage: Storage = DEFAULT_STORAGE,
    address: Address = None,
    overrides: Overrides = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Time each kind of trial on its device first.")
    ] = False,
    quiet: Quiet = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="A row for each trial, with its run key.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List all trials with their state and estimated time; starts nothing."""
    from studies.commands.power import comparisons

    current = studies.plan(
        study,
        storage=storage,
        overrides=overrides or (),
        probe=probe,
        address=address,
        console=progress(quiet),
    )
    if as_json:
        print(json.dumps({"trials": current.records(), "foreign": list(current.foreign)}, indent=1))
        return
    print_plan(current, verbose)
    if comparisons(current.study):
        print_sentence(f"What it can decide: {studies.power(current.study)}")


def run(
    study: StudyArgument,
    storage: Storage = DEFAULT_STORAGE,
    address: Address = None,
    tracking_uri: TrackingUri = None,
    overrides: Overrides = None,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="CONDITION",
            help="Run the trials alone for which it holds, such as \"method == 'trades'\".",
        ),
    ] = None,
    fail_fast: Annotated[
        bool,
        typer.Option(
            "--fail-fast",
            help="End the run at the first trial that fails; others go on to a checkpoint.",
        ),
    ] = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Run what is missing, evaluate it, log it to MLflow, compare. Safe to call again."""
    outcome = studies.run(
        study,
        storage=storage,
        address=address,
        tracking_uri=tracking_uri,
        overrides=overrides or (),
        only=only,
        fail_fast=fail_fast,
        console=progress(quiet),
        command=this_command(),
    )
    asked = [t for t in outcome.plan.trials if t.run_key not in outcome.left_out]
    bad = [t for t in asked if t.state != "done"]
    if outcome.worked_on == 0 and not bad:
        what = "what `--only` chooses is" if only else f"all {len(asked)} trials are"
        print(f"Nothing to train: {what} finished.")
    if outcome.comparison is not None:
        print_comparison(outcome.comparison, verbose=verbose)
    for name in ("index.html", "front.png", "front.svg"):
        if name in outcome.report:
            print(f"{name:10} {outcome.report[name]}")
    for note in outcome.notes:
        say(err, note)
    for t in bad:
        reason = t.reason or "Run again to continue."
        say(err, f"{t.label} seed {t.seed} ({t.run_key}): {t.state}. {reason}")
    if count := len(outcome.left_out):
        trials = "trial that is" if count == 1 else "trials that are"
        say(err, f"`--only` left out {count} {trials} not finished, on purpose; the same command "
            "without it runs them.")  # fmt: skip
    if bad:
        raise typer.Exit(1)


def preflight(
    study: StudyArgument,
    storage: Storage = DEFAULT_STORAGE,
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
        table.add_row(check.name, check.state, Text(check.said))  # a name may hold brackets
    print_table(table)
    if any(check.error is not None for check in checks):
        raise typer.Exit(2)


def status(
    study: StudyArgument,
    storage: Storage = DEFAULT_STORAGE,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Show how far each trial is, from storage, while a study runs or after."""
    table = studies.status(study, storage=storage, overrides=overrides or ())
    if as_json:
        print(table.to_json(orient="records", indent=1))
    else:
        print_frame(table.dropna(axis="columns", how="all"))


def points(
    study: StudyArgument,
    columns: Columns = None,
    as_format: AsFormat = Format.table,
    storage: Storage = DEFAULT_STORAGE,
    held_out: HeldOut = False,
    overrides: Overrides = None,
) -> None:
    """Print the points of a study from storage; no MLflow is asked."""
    table = studies.points(
        study,
        columns=column_names(columns),
        storage=storage,
        held_out=held_out,
        overrides=overrides or (),
    )
    if table.empty:
        raise QueryError(
            f"Study '{study}' has no points in '{storage}' yet; `oat run {study}` makes them."
        )
    print_points(table, columns, as_format)
