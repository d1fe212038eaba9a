"""`oat calibrate` and `oat export`: from a trained model to what is deployed."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

import studies
from studies.cli import completing
from studies.cli.options import Json, Overrides, Storage, StudyArgument, TrackingUri
from studies.cli.printing import print_table
from studies.naming import listed
from studies.storage.addresses import DEFAULT_STORAGE

if TYPE_CHECKING:
    from studies.deploying.calibrating import Calibration, Candidate, Rate
    from studies.deploying.constraints import Constraints

Method = Annotated[
    str | None,
    typer.Argument(
        metavar="[METHOD]",
        help="Model as `oat plan` names it, such as 'pgd_at λ=1'; default the one with λ as input.",
        autocompletion=completing.method,
    ),
]
Lam = Annotated[float | None, typer.Option(help="λ of a retrained model.")]
Beta = Annotated[float | None, typer.Option(help="β of a retrained model.")]
WidthMult = Annotated[float | None, typer.Option(help="Width of a retrained model.")]
Seed = Annotated[int | None, typer.Option(help="Seed of the training; default the first.")]
Checkpoint = Annotated[str | None, typer.Option(help="Which weights; default the study's first.")]

FEW = 12
"""Candidates that are printed, at most."""


def calibrate(
    study: StudyArgument,
    method: Method = None,
    min_sa: Annotated[float | None, typer.Option(help="Least SA, such as 0.9.")] = None,
    min_ra: Annotated[float | None, typer.Option(help="Least RA, such as 0.4.")] = None,
    max_flops: Annotated[
        float | None, typer.Option(help="Most operations for one image, such as 1e8.")
    ] = None,
    max_latency_ms: Annotated[
        float | None, typer.Option(help="Longest time of one image on this machine's CPU, in ms.")
    ] = None,
    weight_robust: Annotated[
        float | None,
        typer.Option(help="Weight w of RA in what is wanted most: (1 - w) SA + w RA."),
    ] = None,
    lam: Lam = None,
    beta: Beta = None,
    width_mult: WidthMult = None,
    seed: Seed = None,
    checkpoint: Checkpoint = None,
    storage: Storage = DEFAULT_STORAGE,
    as_json: Json = False,
    overrides: Overrides = None,
) -> None:
    """Choose the λ and width to deploy on held-out images, and confirm them on test images."""
    found = studies.calibrate(
        study,
        method,
        lam=lam,
        beta=beta,
        width_mult=width_mult,
        seed=seed,
        checkpoint=checkpoint,
        min_sa=min_sa,
        min_ra=min_ra,
        max_flops=max_flops,
        max_latency_ms=max_latency_ms,
        weight_robust=weight_robust,
        storage=storage,
        overrides=overrides or (),
    )
    if as_json:
        print(json.dumps(asdict(found), indent=1, ensure_ascii=False))
    else:
        _print(found)
    if not found.met:
        raise typer.Exit(1)


def _print(found: "Calibration") -> None:
    chosen, bounds = found.chosen, found.constraints
    place = _place(chosen)
    if found.met:
        print(f"{found.model}: run it at {place}.")
    else:
        lacking = listed(_missed(chosen, bounds, name) for name in chosen.short_of)
        print(
            f"{found.model}: no operating point holds every constraint. The nearest is {place}; it "
            f"has {lacking}."
        )
    print(
        f"On {found.test_images:,} test images it has SA {_rate(found.sa)} and RA {_rate(found.ra)}"
        f" ({', '.join(found.attacks)})."
    )
    said = {
        "yes": "test images confirm",
        "no": "test images refute",
        "open": "test images leave open",
    }
    for name, verdict in found.confirmed.items():
        bound = getattr(bounds, name)
        print(f"  {said[verdict]} that {name[4:].upper()} is at least {100 * bound:.1f} %.")
    for note in found.notes:
        print(note)
    print(
        f"Chosen on {found.held_out_images:,} held-out images under {found.choosing_attack}, by "
        f"the most {bounds.wanted} among what holds the constraints:"
    )
    timed = chosen.latency_ms is not None
    table = Table("λ", "width", "SA %", "RA %", "MFLOPs", *(["ms"] if timed else []), "holds")
    for one in _few(found):
        mark = " *" if one == chosen else ""
        table.add_row(
            ("-" if one.lam is None else f"{one.lam:g}") + mark,
            f"{one.width:g}",
            f"{100 * one.sa:.1f}",
            f"{100 * one.ra:.1f}",
            f"{one.flops / 1e6:.1f}",
            *([f"{one.latency_ms:.3g}"] if timed else []),
            "yes" if not one.short_of else "not " + ", ".join(one.short_of),
        )
    print_table(table)


def _missed(chosen: "Candidate", bounds: "Constraints", name: str) -> str:
    """Say what the nearest point has beside what was asked for."""
    bound = getattr(bounds, name)
    return {
        "min_sa": lambda: f"SA {100 * chosen.sa:.1f} % instead of {100 * bound:.1f} %",
        "min_ra": lambda: f"RA {100 * chosen.ra:.1f} % instead of {100 * bound:.1f} %",
        "max_flops": lambda: f"{chosen.flops:,} operations instead of {bound:,.6g}",
        "max_latency_ms": lambda: f"{chosen.latency_ms:.3g} ms instead of {bound:.3g} ms",
    }[name]()


def _few(found: "Calibration") -> "list[Candidate]":
    """Return the candidates around the chosen one where there are too many to print."""
    every = list(found.candidates)
    place = every.index(found.chosen)
    first = max(0, min(place - FEW // 2, len(every) - FEW))
    return every[first : first + FEW]


def _place(one: "Candidate") -> str:
    lam = [] if one.lam is None else [f"λ={one.lam:g}"]
    return " ".join([*lam, f"width={one.width:g}"])


def _rate(rate: "Rate") -> str:
    return f"{100 * rate.value:.1f} % [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"


def export(
    study: StudyArgument,
    method: Method = None,
    *,
    to: Annotated[str, typer.Option(help="safetensors, pt2, onnx or mlflow.")],
    at_lam: Annotated[
        float | None,
        typer.Option(help="λ of one operating point; default the whole knob, with λ as an input."),
    ] = None,
    at_width: Annotated[
        float | None, typer.Option(help="Width of the operating point; default the widest.")
    ] = None,
    lam: Lam = None,
    beta: Beta = None,
    width_mult: WidthMult = None,
    seed: Seed = None,
    checkpoint: Checkpoint = None,
    out: Annotated[Path | None, typer.Option(help="File to write.")] = None,
    alias: Annotated[
        str | None, typer.Option(help="Alias of the new version in MLflow's registry.")
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
    tracking_uri: TrackingUri = None,
    overrides: Overrides = None,
) -> None:
    """Write a trained model to a file or into MLflow, and check it against the network."""
    done = studies.export(
        study,
        method,
        to=to,
        at_lam=at_lam,
        at_width=at_width,
        lam=lam,
        beta=beta,
        width_mult=width_mult,
        seed=seed,
        checkpoint=checkpoint,
        out=out,
        alias=alias,
        storage=storage,
        tracking_uri=tracking_uri,
        overrides=overrides or (),
    )
    print(done.sentence())
