"""`oat compare`: one network for every trade-off beside one retrained for each."""

import json
from typing import Annotated

import typer

import studies
from studies.cli import completing
from studies.cli.options import Json, Overrides, Storage, Verbose
from studies.cli.printing import print_comparison, this_command
from studies.comparison.assumed import MARGIN
from studies.storage.addresses import DEFAULT_STORAGE


def compare(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="STUDY...", help="Presets or files.", autocompletion=completing.study
        ),
    ],
    storage: Storage = DEFAULT_STORAGE,
    overrides: Overrides = None,
    out: Annotated[
        str | None, typer.Option("--out", help="Folder for the table, figures and page.")
    ] = None,
    attack: Annotated[
        str | None, typer.Option(help="RA under this attack.", autocompletion=completing.attack)
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(help="last, averaged or chosen; else the first of the study's own."),
    ] = None,
    margin: Annotated[float, typer.Option(help="How much worse is free, as a fraction.")] = MARGIN,
    force: Annotated[bool, typer.Option(help="Compare different settings anyway.")] = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Compare one model for every trade-off with one retrained for each."""
    result = studies.compare(
        names,
        storage=storage,
        overrides=overrides or (),
        out=out,
        attack=attack,
        checkpoint=checkpoint,
        margin=margin,
        force=force,
        command=this_command(),
    )
    if as_json:
        print(json.dumps(result.record(), indent=1))
    else:
        print_comparison(result, verbose=verbose)
