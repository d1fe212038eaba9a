"""Where the commands print, and how they print frames, comparisons and notes."""

import shlex
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from studies.cli.options import Format
from studies.console import fitted, plain_console

if TYPE_CHECKING:
    import pandas as pd

    from studies.planning.plan import Plan

out, err = plain_console(), plain_console(stderr=True)
if not out.is_terminal:
    out = plain_console(width=120)  # a file or a pipe has no width of its own


def progress(quiet: bool) -> Console:
    """Return where progress goes: standard error, or nowhere."""
    return plain_console(stderr=True, quiet=True) if quiet else err


def this_command() -> str:
    """Return the command as a shell would take it."""
    return shlex.join(["oat", *sys.argv[1:]])


def print_comparison(result: Any, *, verbose: bool) -> None:
    """Print a comparison: the answer, the main table, caveats; all of it if ``verbose``."""
    from studies.report.terminal import terminal_parts

    for part in terminal_parts(result, out.width, everything=verbose):
        if isinstance(part, str):
            print(_wrapped(part))
        else:
            print_table(part)


def _wrapped(text: str) -> str:
    """Break a text between its words to the width of the terminal; a list is indented."""
    return textwrap.fill(
        text,
        out.width,
        subsequent_indent="  " if text.startswith("- ") else "",
        break_long_words=False,
        break_on_hyphens=False,
    )


def print_table(table: Table) -> None:
    """Print a table, so that nothing of it is cut off in a narrow terminal."""
    for column in table.columns:
        column.overflow = "fold"
    out.print(fitted(table, out.width))


def print_sentence(text: str) -> None:
    """Print a sentence; a terminal's lines end between words."""
    out.print(text, highlight=False, markup=False, soft_wrap=not out.is_terminal)


WRAPPED = ("state", "basis", "trial")
"""Columns of a plan that may take several lines, between words; the last gives way first."""


def print_plan(plan: "Plan", verbose: bool) -> None:
    """Print the table of a plan, and what it says beside it."""
    rows = plan.rows(verbose)
    least = sum(_longest(rows, name, words=name in WRAPPED) for name in rows[0])
    gap = 2 if least + 2 * (len(rows[0]) - 1) <= out.width else 1
    table = Table(
        title=plan.title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, gap - 1),
        collapse_padding=True,
        show_edge=False,
        pad_edge=False,
    )
    for name, width in _plan_widths(rows, out.width - gap * (len(rows[0]) - 1)).items():
        right = name in {"seed", "seeds", "cpu", "gpu"}
        table.add_column(name, justify="right" if right else "left", width=width, min_width=width)
    for row in rows:
        table.add_row(*row.values())
    print_table(table)
    for sentence in plan.sentences():
        print_sentence(sentence)


def _plan_widths(rows: Sequence[Mapping[str, str]], width: int) -> dict[str, int]:
    """Share a width among the columns of a plan; none is narrower than it can be read."""
    widths = {name: _longest(rows, name, words=name in WRAPPED) for name in rows[0]}
    spare = max(0, width - sum(widths.values()))
    for name in WRAPPED:
        if name in widths:
            more = min(spare, _longest(rows, name, words=False) - widths[name])
            widths[name] += more
            spare -= more
    return widths


def _longest(rows: Sequence[Mapping[str, str]], name: str, words: bool) -> int:
    """Return the length of the longest text of a column, or of the longest word in it."""
    texts = [row[name] for row in rows]
    return max(map(len, [name, *(" ".join(texts).split() if words else texts)]))


def print_frame(frame: "pd.DataFrame") -> None:
    """Print a frame as a table, and the number of its rows; what was measured has four digits."""
    import pandas as pd

    table = Table()
    for name in frame.columns:
        table.add_column(name)
    measured = frame.columns.difference(["lam", "beta", "width_mult", "eps"])
    for row in frame.round(dict.fromkeys(measured, 4)).itertuples(index=False):
        table.add_row(*("" if pd.isna(v) else str(v) for v in row))
    print_table(table)
    print(f"{len(frame)} rows")


def column_names(columns: str | None) -> list[str] | None:
    """Return the names of a list that is separated by commas; None stays None."""
    return [name.strip() for name in columns.split(",")] if columns else None


def print_points(table: "pd.DataFrame", columns: str | None, as_format: Format) -> None:
    """Print points in a format; without columns a table shows those that tell points apart."""
    match as_format:
        case Format.csv:
            table.to_csv(sys.stdout, index=False)
        case Format.json:
            print(table.to_json(orient="records", indent=1))
        case Format.parquet:
            table.to_parquet(sys.stdout.buffer, index=False)
        case Format.table:
            from studies.results.shown import brief

            print_frame(table if columns else brief(table))
