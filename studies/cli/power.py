"""`oat power`: what a study can decide, before anything is trained."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

import studies
from studies.cli import completing
from studies.cli.options import Json, Overrides, Storage, StudyArgument
from studies.comparison.assumed import MARGIN, Rates
from studies.storage.addresses import DEFAULT_STORAGE


def power(
    study: StudyArgument,
    overrides: Overrides = None,
    margin: Annotated[float, typer.Option(help="How much worse is free, as a fraction.")] = MARGIN,
    like: Annotated[
        str | None,
        typer.Option(
            metavar="STUDY",
            help="A study with results, in which to measure the four rates below.",
            autocompletion=completing.study,
        ),
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
    sa_discordance: Annotated[
        float | None,
        typer.Option(
            help="Test images that exactly one of two models has right, a share; "
            f"{Rates.sa_discordance} if not measured."
        ),
    ] = None,
    ra_discordance: Annotated[
        float | None, typer.Option(help=f"The same under attack; {Rates.ra_discordance}.")
    ] = None,
    sa_spread: Annotated[
        float | None,
        typer.Option(
            help="Standard deviation of SA between trainings, as a fraction; "
            f"{Rates.sa_spread} if not measured."
        ),
    ] = None,
    ra_spread: Annotated[
        float | None, typer.Option(help=f"The same of RA; {Rates.ra_spread}.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what a study can decide with its test images and seeds; starts nothing."""
    found = studies.power(
        study,
        overrides=overrides or (),
        margin=margin,
        like=like,
        storage=storage,
        sa_discordance=sa_discordance,
        ra_discordance=ra_discordance,
        sa_spread=sa_spread,
        ra_spread=ra_spread,
    )
    print(json.dumps(asdict(found), indent=1) if as_json else found)
