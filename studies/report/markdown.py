"""The tables of a comparison as Markdown."""

from collections.abc import Iterable, Mapping

from studies.comparison.answer import Comparison
from studies.report.cells import Row
from studies.report.radius_rows import BY_RADIUS, CURVES, curve_rows, radius_rows
from studies.report.rows import (
    SAME_HEADINGS,
    SAME_KNOB,
    front_rows,
    gain_rows,
    heading_of,
    headings_of,
    rows,
    same_knob_rows,
    variant_rows,
)


def markdown_tables(comparison: Comparison, others: Iterable[Comparison] = ()) -> str:
    """Write all tables, the answer and the notes as Markdown.

    Args:
        comparison: The comparison that the answer is of.
        others: The same study under other attacks, each under a heading of its own.
    """
    texts, variants = rows(comparison), variant_rows(comparison)
    same, radii = same_knob_rows(comparison), radius_rows(comparison)
    parts = [
        *([_markdown_table(texts, headings_of(texts))] if texts else []),
        *([f"{SAME_KNOB}:", _markdown_table(same, SAME_HEADINGS)] if same else []),
        *([f"{BY_RADIUS}:", _markdown_table(radii)] if radii else []),
        *([f"{CURVES}:", _markdown_table(curve_rows(comparison))] if radii else []),
        *([_markdown_table(variants)] if variants else []),
        *([_markdown_table(fronts)] if (fronts := front_rows(comparison)) else []),
        *([_markdown_table(gain_rows(comparison.gains.table))] if comparison.gains else []),
        comparison.answer(),
        *comparison.told(),
    ]
    for other in others:
        parts.append(f"## {heading_of(other)}")
        if texts := rows(other):
            parts.append(_markdown_table(texts, headings_of(texts)))
        parts.append(other.answer())
    return "\n\n".join(parts) + "\n"


def _markdown_table(body: list[Row], headings: Mapping[str, str] | None = None) -> str:
    names: list[str] = list(headings.values()) if headings else list(body[0])
    lines: list[Iterable[str]] = [names, ["---"] * len(names), *(row.values() for row in body)]
    return "\n".join(
        "| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines
    )
