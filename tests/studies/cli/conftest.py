import sys
from pathlib import Path

import pytest

from studies.cli import app as cli
from tests.studies.cli.shell import Oat, Said


@pytest.fixture
def oat(monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> Oat:
    """Run the command in this process, from its arguments to its exit code."""

    def call(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["oat", *map(str, arguments)])
        capsysbinary.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        written = capsysbinary.readouterr()
        return Said(int(ended.value.code or 0), written.out, written.err.decode())

    return call


@pytest.fixture
def study(tiny_file: Path) -> Path:
    """The file of the tiny study."""
    return tiny_file
