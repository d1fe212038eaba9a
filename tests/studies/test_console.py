"""Nothing of a table is cut off, however narrow the terminal."""

import io
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

import studies
from studies.cli import printing
from studies.cli.run import plan
from studies.console import fitted

CELLS = [
    ["oat lambda_choices=(0.0,0.1,0.2,0.5,1.0)", "0", "missing", "c74783a26cb0"],
    ["pgd_at start=pgd_at:λ=1 epochs=1 λ=0.5", "1", "done", "5e38650f328b"],
]


def _printed(width: int) -> str:
    table = Table()
    for name in ("trial", "seed", "state", "run key"):
        table.add_column(name, overflow="fold")
    for row in CELLS:
        table.add_row(*row)
    told = io.StringIO()
    Console(file=told, width=width).print(fitted(table, width))
    return told.getvalue()


@pytest.mark.parametrize("width", [24, 30, 40, 60, 80, 120])
def test_every_text_is_shown_at_any_width(width: int) -> None:
    text = _printed(width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    together = "".join(text.split())
    if width <= 40:  # a line for each cell
        for cell in (cell for row in CELLS for cell in row):
            assert "".join(cell.split()) in together
    if width >= 60:
        assert text.count("run key") == 1


def test_a_table_that_fits_stays_a_table() -> None:
    for row in CELLS:
        assert all(cell in _printed(120) for cell in row)
    assert len(_printed(120).splitlines()) == len(CELLS) + 4


@pytest.mark.parametrize("width", [40, 120])
def test_a_plan_in_a_narrow_terminal_names_every_trial(
    width: int, tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = io.StringIO()
    monkeypatch.setattr(printing, "out", Console(file=told, width=width))
    plan(str(tiny_file), storage=str(tmp_path), verbose=True)
    together = "".join(told.getvalue().split())
    for trial in studies.plan(tiny_file, storage=tmp_path).trials:
        assert "".join(trial.label.split()) in together
        assert trial.run_key in together
