"""`oat tune`: the best settings of each method, all on one budget."""

import json
import shlex
from typing import Annotated

import typer
from rich.table import Table

import studies
from studies.cli.options import Address, Json, Overrides, Quiet, Storage, StudyArgument, TrackingUri
from studies.cli.printing import err, print_table, progress
from studies.console import say
from studies.storage.addresses import DEFAULT_STORAGE


def tune(
    study: StudyArgument,
    storage: Storage = DEFAULT_STORAGE,
    address: Address = None,
    tracking_uri: TrackingUri = None,
    optuna_storage: Annotated[
        str | None, typer.Option(help="Optuna's database; default <storage>/optuna.db.")
    ] = None,
    overrides: Overrides = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Search the best settings of each method, all on one budget. Safe to call again."""
    from studies.naming import duration
    from studies.report.rows import gain_rows
    from studies.tuning.gains import gains_of_searches

    outcome = studies.tune(
        study,
        storage=storage,
        address=address,
        tracking_uri=tracking_uri,
        optuna_storage=optuna_storage,
        overrides=overrides or (),
        console=progress(quiet),
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
        print_table(table)
        for search in outcome.searches:
            print(f"{search.method}: {search.ended}.")
        print(f"Winners   {outcome.tuned}")
        print(f"Optuna    {outcome.storage}")
        print(f"Next      {shlex.join(['oat', 'run', outcome.tuned, '--storage', storage])}")
    for note in outcome.notes:
        say(err, note)
    if not outcome.complete:
        raise typer.Exit(1)
