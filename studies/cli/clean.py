"""`oat clean`: what a study's folder no longer needs, listed first and removed when told."""

from typing import Annotated

import typer
from rich.table import Table

import studies
from studies.cli.options import Overrides, Storage, StudyArgument
from studies.cli.printing import print_table
from studies.storage.addresses import DEFAULT_STORAGE


def clean(
    study: StudyArgument,
    storage: Storage = DEFAULT_STORAGE,
    overrides: Overrides = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove what is listed.")] = False,
) -> None:
    """List what a study no longer needs: other trials, old checkpoints. `--yes` removes it."""
    result = studies.clean(study, storage=storage, overrides=overrides or (), yes=yes)
    if result.found:
        table = Table("what", "where", "size", "which")
        for one in result.found:
            table.add_row(one.what, one.place, _bytes(one.size), one.said)
        print_table(table)
    if result.kept:
        count = len(result.kept)
        print(f"{count} trials that are not in the plan stay: tuning or other models need them.")
    if not result.found:
        print("There is nothing to remove.")
    elif not result.removed:
        print(f"Nothing is removed yet: `--yes` removes these {_bytes(result.size)}.")
    else:
        print(f"Removed {_bytes(result.size)}.")
        if any(one.what == "trial" for one in result.found):
            print("MLflow keeps the runs of these trials; `oat runs` leaves them out.")


def _bytes(size: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
