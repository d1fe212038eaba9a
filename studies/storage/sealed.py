"""Records that carry their own digest, by which a changed bit is noticed."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from studies.storage.folder import Folder

SEAL = "check"
"""Key of a record's own digest."""


class ResultError(Exception):
    """A stored result does not match what was written."""


def digest(value: Any) -> str:
    """Return 12 hex digits of SHA-256 over the canonical JSON of plain values."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def seal(record: Mapping[str, object]) -> dict[str, object]:
    """Return a record with its own digest, by which a changed bit is noticed."""
    return {**record, SEAL: digest(record)}


def unseal(text: bytes) -> dict[str, Any]:
    """Read what `seal` made, from JSON.

    Raises:
        ResultError: It is not what was written.
    """
    try:
        record = json.loads(text)
        claimed = record.pop(SEAL)
        if claimed == digest(record):
            return dict(record)
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    raise ResultError("A record is damaged: its digest does not match.")


def write_lines(folder: Folder, name: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows as lines of JSON."""
    folder.write(name, "".join(json.dumps(row) + "\n" for row in rows).encode())


def write_sealed(folder: Folder, name: str, record: Mapping[str, object]) -> None:
    """Write a sealed record, such as ``result.json``."""
    folder.write(name, json.dumps(seal(record), indent=1).encode())
