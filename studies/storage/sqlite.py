"""SQLite files behind a URL: looked at before anybody opens them and waits for minutes."""

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

LIMITS = "`?` and `%`"
"""What the path of a database may not hold: in a URL they mean something else."""


def is_missing_file(url: str) -> bool:
    """Tell whether a URL is of a SQLite file that is not there, in a path that could be one."""
    name, _ = _parts(url) or ("", "")
    return name not in {"", ":memory:"} and "%" not in name and not Path(name).exists()


def _parts(url: str) -> tuple[str, str] | None:
    """Return path and parameters of a SQLite URL; None of another one."""
    kind, mark, rest = url.partition("://")
    if not mark or kind.partition("+")[0] != "sqlite":
        return None
    name, _, query = rest.removeprefix("/").partition("?")
    return name if rest.startswith("/") else "", query


def why_no_file(url: str) -> str | None:
    """Say why the SQLite file of a URL cannot be used, and what to do; None if it can be.

    One that is locked by another process can be: whoever needs it waits. None as well where the
    URL is of another database.
    """
    if (parts := _parts(url)) is None:
        return None
    name, query = parts
    if name in {"", ":memory:"}:
        return "it names no file; write `sqlite:////absolute/path.db`"
    if "%" in name or (query and ("=" not in query or "/" in query)):
        return f"its path may not hold {LIMITS}; give it another"
    path = Path(name)
    if path.is_dir():
        return "it is a folder; name a file"
    if not path.parent.is_dir():
        return f"there is no folder '{path.parent}'; make it, or correct the path"
    if not path.exists():
        return None
    try:
        # not read-only: what a killed process had begun to write is first taken back
        uri = f"file:{quote(str(path.absolute()))}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, timeout=0)) as database:
            database.execute("PRAGMA schema_version").fetchone()
    except sqlite3.OperationalError as error:
        return None if "locked" in str(error) else f"{error}; check who may read it"
    except sqlite3.DatabaseError as error:
        return f"{error}; move it away, or give another path"
    return None
