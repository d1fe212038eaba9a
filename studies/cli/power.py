"""`oat power`: what a study can decide, before anything is trained."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

import studies
from studies.cli.options import Json, Overrides, StudyArgument
from studies.comparison.assumed import MARGIN, Rates


def power(
    study: StudyArgument,
    overrides: Overrides = None,
    margin: Annotated[float, typer.Option(help="How much worse is free, as a fraction.")] = MARGIN,
    sa_discordance: Annotated[
        float, typer.Option(help="Test images that exactly one of two models has right, a share.")
    ] = Rates.sa_discordance,
    ra_discordance: Annotated[
        float, typer.Option(help="The same under attack.")
    ] = Rates.ra_discordance,
    sa_spread: Annotated[
        float, typer.Option(help="Standard deviation of SA between trainings, as a fraction.")
    ] = Rates.sa_spread,
    ra_spread: Annotated[float, typer.Option(help="The same of RA.")] = Rates.ra_spread,
    as_json: Json = False,
) -> None:
    """Say what a study can decide with its test images and seeds; starts nothing."""
    found = studies.power(
        study,
        overrides=overrides or (),
        margin=margin,
        sa_discordance=sa_discordance,
        ra_discordance=ra_discordance,
        sa_spread=sa_spread,
        ra_spread=ra_spread,
    )
    print(json.dumps(asdict(found), indent=1) if as_json else found)
