"""Where the commands print, and how they print frames, comparisons and notes."""

import json
import shlex
import sys
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

out, err = Console(), Console(stderr=True)
if not out.is_terminal:
    out = Console(width=120)  # a file or a pipe has no width of its own


def this_command() -> str:
    """Return the command as a shell would take it."""
    return shlex.join(["oat", *sys.argv[1:]])


def comparison_record(result: Any) -> dict[str, Any]:
    """Return a comparison as plain values for JSON."""

    def records(table: pd.DataFrame) -> Any:
        return json.loads(table.to_json(orient="records"))

    return {
        "attack": result.attack,
        "verdict": result.verdict,
        "answer": result.answer(),
        "margin": result.margin,
        "checkpoint": result.checkpoint,
        "hypervolume_ratios": {name: vars(ratio) for name, ratio in result.ratios.items()},
        "table": records(result.table),
        "variants": records(result.variants),
        "cells": records(result.cells),
        "fronts": records(result.fronts),
        "masking": records(result.masking),
        "tuning": None if result.gains is None else records(result.gains.table),
        "remarks": result.remarks(),
        "notes": result.notes,
    }


def print_comparison(result: Any) -> None:
    """Print the tables and sentences of a comparison, laid out for the terminal."""
    from studies.report.terminal import terminal

    for part in terminal(result, out.width):
        if isinstance(part, str):
            print(part)
        else:
            out.print(part)


def print_frame(frame: pd.DataFrame) -> None:
    """Print a frame as a table, and the number of its rows."""
    table = Table(*frame.columns)
    for row in frame.itertuples(index=False):
        table.add_row(*("" if pd.isna(v) else str(v) for v in row))
    out.print(table)
    print(f"{len(frame)} rows")
