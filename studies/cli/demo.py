"""`oat demo`: a trained model at work on images, as a page."""

import threading
from typing import Annotated

import typer

import studies
from studies.cli.deploying import Beta, Checkpoint, Lam, Method, Seed, WidthMult
from studies.cli.options import Overrides, Storage, StudyArgument
from studies.cli.tracking import signals_set
from studies.storage.addresses import DEFAULT_STORAGE


def demo(
    study: StudyArgument,
    method: Method = None,
    lam: Lam = None,
    beta: Beta = None,
    width_mult: WidthMult = None,
    seed: Seed = None,
    checkpoint: Checkpoint = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any that is free.")
    ] = 5050,
    storage: Storage = DEFAULT_STORAGE,
    tracking_uri: Annotated[
        str | None,
        typer.Option(help="MLflow's address in links; default that of the study's run."),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Serve a page that tries a model on images, also under attack; Ctrl-C ends it."""
    stop = threading.Event()
    with (
        signals_set(stop),
        studies.demo(
            study,
            method,
            lam=lam,
            beta=beta,
            width_mult=width_mult,
            seed=seed,
            checkpoint=checkpoint,
            port=port,
            storage=storage,
            tracking_uri=tracking_uri,
            overrides=overrides or (),
        ) as page,
    ):
        if not stop.is_set():
            print(page.address, flush=True)
        page.wait(stop)
