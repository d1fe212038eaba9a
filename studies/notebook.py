"""HTML of what shows itself in a notebook: a table with a caption, and what its columns mean."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape


def table(caption: str, rows: Sequence[Mapping[str, str]], headings: Mapping[str, str]) -> str:
    """Write a table.

    Args:
        caption: What it shows, with the unit of its numbers.
        rows: The text of each cell, by column.
        headings: The heading of each column, in order.
    """
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings.values())
    lines = ("".join(f"<td>{escape(row[name])}</td>" for name in headings) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return (
        f'<table><caption style="text-align: left; font-weight: bold">{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def bullets(sentences: Iterable[str]) -> str:
    """Write sentences as a list."""
    return f"<ul>{''.join(f'<li>{escape(sentence)}</li>' for sentence in sentences)}</ul>"


def legend(meanings: Mapping[str, str]) -> str:
    """Write what columns mean, by their headings; it opens with a click."""
    said = "".join(
        f"<li><b>{escape(name)}</b>: {escape(text)}</li>" for name, text in meanings.items()
    )
    return f"<details><summary>What the columns mean</summary><ul>{said}</ul></details>"
