"""The options that several commands share."""

from enum import StrEnum
from typing import Annotated

import typer

from studies.cli import completing

StudyArgument = Annotated[
    str,
    typer.Argument(
        metavar="STUDY", help="A preset, or a YAML file.", autocompletion=completing.study
    ),
]
Storage = Annotated[str, typer.Option(help="Folder or URI that holds the results.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override one value, such as train.epochs=30.",
        autocompletion=completing.setting,
    ),
]
TrackingUri = Annotated[
    str | None,
    typer.Option(help="MLflow; default MLFLOW_TRACKING_URI, else <storage>/mlflow.db."),
]
Address = Annotated[
    str | None, typer.Option(help="Ray cluster, such as `auto`; default this machine.")
]
JobServer = Annotated[
    str, typer.Option("--job-server", help="Job server of a cluster, such as http://HEAD:8265.")
]
Columns = Annotated[
    str | None,
    typer.Option(help="Columns, separated by commas.", autocompletion=completing.columns),
]
HeldOut = Annotated[
    bool,
    typer.Option(
        "--held-out", help="Points on held-out images instead, by which λ and settings are chosen."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show all tables and all caveats.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Format(StrEnum):
    """How `oat runs` and `oat points` print."""

    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"


AsFormat = Annotated[Format, typer.Option("--format", help="How to print.")]
