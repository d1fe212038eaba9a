"""What is said of a SQLite file before anybody opens it."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from studies.storage.sqlite import is_missing_file, why_no_file

# commits one row, begins to write many more, and dies
DIES_WHILE_IT_WRITES = """
import os, signal, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("CREATE TABLE rows (value)")
database.execute("INSERT INTO rows VALUES ('kept')")
database.execute("PRAGMA cache_size = 1")
database.execute("BEGIN")
database.executemany("INSERT INTO rows VALUES (?)", [("x" * 1000,)] * 100)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "kept.db"
    with closing(sqlite3.connect(path)) as opened, opened:
        opened.execute("CREATE TABLE rows (value)")
    return path


def test_a_file_that_another_process_was_killed_in_can_be_used(tmp_path: Path) -> None:
    path = tmp_path / "killed.db"
    subprocess.run([sys.executable, "-c", DIES_WHILE_IT_WRITES, path], check=False)
    journal = path.with_name("killed.db-journal")
    assert journal.stat().st_size > 0, "nothing was begun"
    assert why_no_file(f"sqlite:///{path}") is None
    with closing(sqlite3.connect(path)) as opened:
        assert opened.execute("SELECT value FROM rows").fetchall() == [("kept",)]


def test_a_good_file_and_one_to_be_made_can_be_used_and_are_left_as_they_are(
    database: Path, tmp_path: Path
) -> None:
    before = database.read_bytes(), database.stat().st_mtime_ns
    assert why_no_file(f"sqlite:///{database}") is None
    assert (database.read_bytes(), database.stat().st_mtime_ns) == before
    missing = f"sqlite:///{tmp_path / 'missing.db'}"
    assert is_missing_file(missing)
    assert why_no_file(missing) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept.db"]


def test_a_file_that_somebody_else_holds_can_be_used(database: Path) -> None:
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert why_no_file(f"sqlite:///{database}") is None


def test_a_file_that_may_only_be_read_is_no_fault_of_its_own(database: Path) -> None:
    database.chmod(0o444)
    assert why_no_file(f"sqlite:///{database}") is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "it names no file"),
        (":memory:", "it names no file"),
        ("{}/100%.db", "its path may not hold"),
        ("{}/a?b/c.db", "its path may not hold"),
        ("{}", "it is a folder"),
        ("{}/none/a.db", "there is no folder"),
        ("{}/text.db", "file is not a database; move it away"),
    ],
)
def test_what_is_no_database_is_told_with_its_cure(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "text.db").write_text("Dear reader, this is a letter, not a database.\n" * 20)
    why = why_no_file(f"sqlite:///{name.format(tmp_path)}")
    assert why is not None
    assert said in why


def test_another_database_is_not_looked_at() -> None:
    assert why_no_file("postgresql://host/name") is None
    assert not is_missing_file("postgresql://host/name")
