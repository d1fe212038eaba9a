"""A comparison in a terminal: the answer, then tables laid out by its width, then caveats."""

from collections.abc import Iterator
from dataclasses import replace

from rich import box
from rich.table import Table

from studies.comparison.answer import Comparison
from studies.comparison.wording import heading
from studies.report.cells import Cell
from studies.report.radius_rows import BY_RADIUS, PAGE_ALONE, radius_rows
from studies.report.rows import (
    GAINED,
    SAME_HEADINGS,
    SAME_KNOB,
    front_rows,
    gain_rows,
    headings_of,
    rows,
    same_knob_rows,
    variant_rows,
)
from studies.statistics.intervals import LEVEL

NARROW = 100
"""Columns of a terminal below which a table leaves out what would decide a row."""

IN_TERMINAL = (
    "front",
    "models",
    "operating points",
    "hypervolume",
    "training time",
    "stored weights",
)
"""Columns of the table of fronts that a terminal shows."""

MOST_CAVEATS = 5
"""Caveats that a terminal shows unless it is to show everything."""


def terminal_parts(
    comparison: Comparison, width: int, *, everything: bool = True
) -> Iterator[Table | str]:
    """Yield what a terminal of so many columns shows of a comparison, in order.

    Args:
        comparison: The comparison.
        width: Columns of the terminal.
        everything: Show all tables and all caveats, not only the main table and the most important
            caveats with the number of the rest.
    """
    yield comparison.answer()
    if len(comparison.table):
        tables = list(comparison.table.groupby("once", sort=False))
        for once, table in tables:
            name = str(once) if len(tables) > 1 or comparison.own_rows.empty else "OAT"
            yield ""
            yield _main_table(replace(comparison, table=table), name, width)
    if everything or comparison.table.empty:
        for further in _further_tables(comparison, width):
            yield from ("", further)
    yield from _caveats(comparison.told(), everything)


def _caveats(told: list[str], everything: bool) -> Iterator[str]:
    """Yield the caveats, a paragraph for each."""
    shown = told if everything else told[:MOST_CAVEATS]
    if shown:
        yield from ("", "Caveats")
    for caveat in shown:
        yield f"- {caveat}"
    if more := len(told) - len(shown):
        said = "1 more caveat" if more == 1 else f"{more} more caveats"
        yield f"{said}: `--verbose` and the page (index.html) show everything."


def _further_tables(comparison: Comparison, width: int) -> Iterator[Table]:
    """Yield the tables beside the main one."""
    if texts := same_knob_rows(comparison):
        yield _terminal_table(
            f"{SAME_KNOB}, in points",
            list(SAME_HEADINGS.values()),
            [list(row.values()) for row in texts],
            left=2,
            width=width,
        )
    if texts := radius_rows(comparison):
        names = [name for name in texts[0] if name not in PAGE_ALONE]
        yield _terminal_table(
            BY_RADIUS,
            names,
            [[row[name] for name in names] for row in texts],
            left=2,
            width=width,
        )
    if comparison.reference is not None:
        texts = variant_rows(comparison)
        yield _terminal_table(
            f"Against '{comparison.reference}', RA under {comparison.under}, in percent",
            list(texts[0]),
            [list(row.values()) for row in texts],
            left=1,
            width=width,
        )
    yield _terminal_table(
        f"Hypervolume above (0, 0), as a fraction, with {LEVEL:.0%} interval; and price",
        list(IN_TERMINAL),
        [[row[key] for key in IN_TERMINAL] for row in front_rows(comparison)],
        left=1,
        width=width,
    )
    if comparison.gains is not None:
        texts = gain_rows(comparison.gains.table)
        yield _terminal_table(
            GAINED, list(texts[0]), [list(row.values()) for row in texts], left=1, width=width
        )


def _main_table(comparison: Comparison, name: str, width: int) -> Table:
    """Make the table of one once-for-all model against all retrained ones."""
    body = rows(comparison)
    # the training time stands in the table of fronts
    left_out = {"cost"} if width >= NARROW else {"cost", "decide"}
    shown = {key: text for key, text in headings_of(body).items() if key not in left_out}
    title = heading(comparison.table, comparison.question, name)
    return _terminal_table(
        f"{title}, in percent (Δ in points); RA under {comparison.under}",
        list(shown.values()),
        [[row[key] for key in shown] for row in body],
        left=2,
        width=width,
    )


def _terminal_table(
    title: str, headings: list[str], body: list[list[Cell]], *, left: int, width: int
) -> Table:
    """Make a table; where the terminal is too narrow, intervals stand under their values.

    Names, the columns at the left, are broken between words, and within one where even that is too
    wide.
    """
    for narrow in (False, True):
        table = _laid_out(title, headings, body, left=left, narrow=narrow)
        gaps = (1 if narrow else 2) * (len(headings) - 1)
        if sum(column.min_width or 0 for column in table.columns) + gaps <= width:
            return table
    for column in table.columns[:left]:
        column.min_width = None
    return table


def _laid_out(
    title: str, headings: list[str], body: list[list[Cell]], *, left: int, narrow: bool
) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 0 if narrow else 1),
        collapse_padding=True,
        pad_edge=False,
        show_edge=False,
    )
    for i, name in enumerate(headings):
        shown = name.replace(" ", "\n", 1)
        if narrow and i >= left:
            shown = shown.replace("retrained", "retr.")
        texts = [_folded(row[i], narrow) for row in body]
        pieces = [part for text in texts for part in text.split(None if i < left else "\n")]
        table.add_column(
            shown,
            justify="left" if i < left else "right",
            # names give way to numbers, which are never cut
            no_wrap=i >= left,
            overflow="fold",
            min_width=max(map(len, [*shown.split("\n"), *pieces])),
        )
    for row in body:
        table.add_row(*(_folded(text, narrow) for text in row))
    return table


def _folded(text: str, narrow: bool) -> str:
    """Put the interval of a value on a line of its own."""
    return text.replace(" [", "\n[") if narrow else str(text)
