"""`oat runs`, `oat sync` and `oat ui`: a study in MLflow."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import pandas as pd
import typer

import studies
from studies.cli.options import Format, Overrides, Storage, StudyArgument, TrackingUri
from studies.cli.printing import err, print_frame


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
    chosen = [c.strip() for c in columns.split(",")] if columns else None
    table = studies.runs(
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
            print_frame((table if chosen else _brief(table)).round(4))


def _brief(table: pd.DataFrame) -> pd.DataFrame:
    """Choose the columns that tell points apart, and RA under attacks beyond a row's own."""
    from studies.results.points import COLUMNS, attack_column

    names = ["variant", "lam", "beta", "width_mult", "seed", "checkpoint_rule", "attack"]
    own = table["attack"].map(attack_column)
    others = [
        name
        for name in table.columns
        if name not in COLUMNS and (table[name].notna() & (own != name)).any()
    ]
    return table[[*names, "sa", "ra", *others]]


def sync(
    study: StudyArgument,
    storage: Storage = "./outputs",
    tracking_uri: TrackingUri = None,
    overrides: Overrides = None,
) -> None:
    """Rebuild or repair the study's experiment in MLflow from storage."""
    count = studies.sync(
        study, storage=storage, tracking_uri=tracking_uri, overrides=overrides or ()
    )
    print(f"MLflow has {count} points of this study.")


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
    stop = threading.Event()
    with (
        _signals_set(stop),
        studies.ui(
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
