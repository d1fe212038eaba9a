"""Sentences and tables on a console: no markup, no colours of their own, nothing cut off."""

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Column, Table

LONG_WORD = 12
"""Characters of a word that stay together in a column; a longer one may be broken."""
LONG_NAME = 16
"""The same of the names of columns where each has a line of its own."""


def plain_console(**options: Any) -> Console:
    """Return a console that prints texts as they are: a name or an error may hold brackets."""
    return Console(markup=False, **options)


def say(console: Console, sentence: str) -> None:
    """Print a sentence that may hold names and brackets of the user's."""
    console.print(sentence, highlight=False, markup=False, soft_wrap=True)


def fitted(table: Table, width: int) -> Table:
    """Return a table of texts, or one with a line for each cell where columns do not fit."""
    between, around = (3, 4) if table.show_edge else (1, 0)
    columns = table.columns
    needed = sum(map(_needed, columns)) + between * (len(columns) - 1) + around
    return table if needed <= width else _in_lines(table)


def _needed(column: Column) -> int:
    """Return the least width in which a column can be read."""
    if column.min_width is not None:
        return column.min_width
    words = [word for text in (column.header, *column.cells) for word in str(text).split()]
    return min(LONG_WORD, max(map(len, words), default=0))


def _in_lines(table: Table) -> Table:
    lines = Table(
        title=table.title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_header=False,
        show_edge=False,
        pad_edge=False,
    )
    lines.add_column(overflow="fold", max_width=LONG_NAME)
    lines.add_column(overflow="fold")
    names = [" ".join(str(column.header).split()) for column in table.columns]
    for cells in zip(*(column.cells for column in table.columns), strict=True):
        for name, cell in zip(names, cells, strict=True):
            if str(cell):
                lines.add_row(name, cell)
        lines.add_section()
    return lines
