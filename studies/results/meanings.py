"""What each column of a frame of points means, as the docstrings of its rows say it.

The docstrings are in `studies.trial.evaluated`, `studies.results.reading` and
`studies.results.masking`: what follows ``Unit:`` is the unit, and a sentence that begins with None
says when a value is missing.
"""

import inspect
import re
from typing import NamedTuple

from studies.results.masking import MaskingColumns
from studies.results.points import COLUMNS
from studies.results.reading import IntervalColumns, PlannedPointRow
from studies.trial.evaluated import MaskingCheck, PlaceColumns, Point

UNIT = re.compile(r"\s*Unit: ([^.]+?)\.(?=\s|$)")
MISSING = re.compile(r"\s*\bNone ([^.]+)\.")
HOMES = (PlannedPointRow, MaskingColumns, IntervalColumns, Point, PlaceColumns)


class Meaning(NamedTuple):
    """What a column means.

    Attributes:
        unit: Of its numbers; empty for a text and for a number without one.
        text: In a sentence or two.
        missing: When it is NaN; empty if it never is.
    """

    unit: str
    text: str
    missing: str


def meanings() -> dict[str, Meaning]:
    """Return what each of `studies.results.points.COLUMNS` means."""
    said: dict[str, str] = {}
    for home in reversed(HOMES):
        said |= _attributes(home)
    checks = {f"check_{name}": text for name, text in _attributes(MaskingCheck).items()}
    not_checked = MISSING.search(said["check_images"])
    found = {}
    for name in COLUMNS:
        text = checks.get(name, said[name])
        missing = MISSING.search(text) or (not_checked if name in checks else None)
        unit = UNIT.search(text)
        found[name] = Meaning(
            unit[1] if unit else "",
            MISSING.sub("", UNIT.sub("", text)).strip(),
            missing[1] if missing else "",
        )
    return found


def _attributes(home: type) -> dict[str, str]:
    """Return what a class says of each of its attributes, in one line each."""
    doc = inspect.cleandoc(home.__doc__ or "").partition("Attributes:\n")[2]
    found = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", doc, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}
