"""`oat compare`: one network for every trade-off beside one retrained for each."""

import json
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

import studies
from studies.cli.options import Json, Overrides, Storage
from studies.cli.printing import comparison_record, print_comparison, this_command


def compare(
    names: Annotated[list[str], typer.Argument(metavar="STUDY...", help="Presets or files.")],
    storage: Storage = "./outputs",
    overrides: Overrides = None,
    to: Annotated[
        Path | None, typer.Option("--out", help="Folder for the table, figures and page.")
    ] = None,
    attack: Annotated[str | None, typer.Option(help="RA under this attack.")] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(help="last, averaged or chosen; else the first of the study's own."),
    ] = None,
    margin: Annotated[float, typer.Option(help="How much worse is free, as a fraction.")] = 0.01,
    force: Annotated[bool, typer.Option(help="Compare different settings all the same.")] = False,
    as_json: Json = False,
) -> None:
    """Compare one model for every trade-off with one retrained for each."""
    from studies.comparison.comparing import compare_all
    from studies.driver.places import study_folder
    from studies.report.files import render
    from studies.report.origin import gather
    from studies.study_file.loading import load_study
    from studies.tuning.gains import with_gains

    chosen = overrides or ()
    frames = [studies.points(name, storage=storage, overrides=chosen) for name in names]
    points = pd.concat(frames, ignore_index=True).drop_duplicates("point_key", ignore_index=True)
    if checkpoint is None:  # as `oat run` does
        checkpoint = load_study(names[0], chosen).evaluate.checkpoints[0]
    plans = [studies.plan(name, storage=storage, overrides=chosen) for name in names]
    result, others = compare_all(
        points,
        attack=attack,
        checkpoint=checkpoint,
        margin=margin,
        force=force,
        unfinished=[trial for current in plans for trial in current.unfinished()],
    )
    main = plans[0].study
    result = with_gains(result, main, study_folder(main, storage))
    if to is not None:
        origin = gather(plans[0], study_folder(plans[0].study, storage), this_command())
        to.mkdir(parents=True, exist_ok=True)
        for name, data in render(result, origin, others).items():
            (to / name).write_bytes(data)
    if as_json:
        print(json.dumps(comparison_record(result), indent=1))
    else:
        print_comparison(result)
