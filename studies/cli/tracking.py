"""`oat runs`, `oat sync` and `oat ui`: a study in MLflow."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

import studies
from studies.cli.options import (
    AsFormat,
    Columns,
    Format,
    HeldOut,
    Overrides,
    Storage,
    StudyArgument,
    TrackingUri,
)
from studies.cli.printing import column_names, err, print_points
from studies.console import say
from studies.storage.addresses import DEFAULT_STORAGE


def runs(
    study: StudyArgument,
    where: Annotated[
        str | None,
        typer.Option(help="Condition, such as \"method == 'oat' and ra_pgd20 > 0.4\"."),
    ] = None,
    columns: Columns = None,
    as_format: AsFormat = Format.table,
    storage: Storage = DEFAULT_STORAGE,
    tracking_uri: TrackingUri = None,
    held_out: HeldOut = False,
    overrides: Overrides = None,
) -> None:
    """Query the points of a study in MLflow."""
    from studies.commands.tracking import OTHERS

    table = studies.runs(
        study,
        where=where,
        columns=column_names(columns),
        storage=storage,
        tracking_uri=tracking_uri,
        held_out=held_out,
        overrides=overrides or (),
    )
    print_points(table, columns, as_format)
    if left_out := table.attrs.get(OTHERS, 0):
        say(
            err,
            f"{left_out} points of other settings under the same name are left out: of another "
            "file, or of this one before it was changed.",
        )


def sync(
    study: StudyArgument,
    storage: Storage = DEFAULT_STORAGE,
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
    storage: Storage = DEFAULT_STORAGE,
    tracking_uri: TrackingUri = None,
    host: Annotated[str, typer.Option(help="Name or address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any that is free.")
    ] = 5000,
    overrides: Overrides = None,
) -> None:
    """Start MLflow's own page on the study's store and print its address; Ctrl-C ends it."""
    stop = threading.Event()
    with (
        signals_set(stop),
        studies.ui(
            study,
            storage=storage,
            tracking_uri=tracking_uri,
            host=host,
            port=port,
            overrides=overrides or (),
            stop=stop,
            console=err,
        ) as page,
    ):
        if not stop.is_set():
            print(page.address, flush=True)
        page.wait(stop)


@contextmanager
def signals_set(stop: threading.Event) -> Iterator[None]:
    """Set an event on Ctrl-C and on SIGTERM, and do nothing else then."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: stop.set()) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
