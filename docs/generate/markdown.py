"""Tables and texts in Markdown."""

from collections.abc import Iterable, Sequence

BY_MACHINE = "% Written by `make docs` from the code: change the code, not this page.\n\n"
"""How every generated page begins; Markdown does not show it."""

Row = Sequence[str]


def table(head: Row, rows: Iterable[Row]) -> str:
    """Write a table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell(one) for one in line)} |\n" for line in lines)


def cell(text: str) -> str:
    """Write a text so that it stays in its cell."""
    text = " ".join(text.replace("``", "`").split()).replace("|", "\\|")
    parts = text.split("`")  # every second one is code
    parts[::2] = [part.replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts)
