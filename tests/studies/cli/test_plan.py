"""What `oat plan` prints: seeds together, times as ranges, and nothing cut off."""

from pathlib import Path

import pytest
from rich.console import Console

import studies
from studies.cli import printing
from studies.planning.plan import Plan
from tests.studies.cli.shell import Oat

SEEDS = ("--set", "seeds=[0, 1, 2]")


def _terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> Console:
    console = Console(width=width, force_terminal=True, color_system=None)
    monkeypatch.setattr(printing, "out", console)
    return console


def test_seeds_share_a_row_that_counts_their_states(oat: Oat, study: Path, finished: Path) -> None:
    said = oat("plan", study, "--storage", finished, *SEEDS)
    assert (said.code, said.err) == (0, "")
    rows = [line.split() for line in said.text.splitlines() if "pgd_at λ=1" in line]
    assert len(rows) == 1
    assert rows[0][:7] == ["pgd_at", "λ=1", "0-2", "1", "0", "1", "done,"]
    assert rows[0][7:9] == ["2", "missing"]
    assert "8 to run" in said.text
    for trial in studies.plan(study, storage=finished).trials:
        assert trial.run_key not in said.text


def test_with_verbose_each_trial_has_a_row_with_its_run_key(
    oat: Oat, study: Path, finished: Path
) -> None:
    said = oat("plan", study, "--storage", finished, *SEEDS, "--verbose")
    trials = studies.plan(study, storage=finished, overrides=[SEEDS[1]]).trials
    assert len(trials) == 12
    for trial in trials:
        (row,) = [line for line in said.text.splitlines() if trial.run_key in line]
        assert row.startswith(trial.label)
        assert trial.state in row


@pytest.mark.parametrize("width", [40, 72, 80, 120])
@pytest.mark.parametrize("preset", ["quickstart", "cifar10"])
def test_no_word_of_a_plan_is_cut(
    preset: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan: Plan = studies.plan(preset, storage="nowhere")
    _terminal(monkeypatch, width)
    for verbose in (False, True):
        printing.print_plan(plan, verbose)
        text = capsys.readouterr().out
        assert max(map(len, text.splitlines())) <= width
        there = set(text.split())
        for row in plan.rows(verbose):
            assert {word for cell in row.values() for word in cell.split()} <= there
        for sentence in plan.sentences():
            assert set(sentence.split()) <= there


def test_a_plan_says_of_its_times_what_is_in_them(oat: Oat, study: Path, tmp_path: Path) -> None:
    said = oat("plan", study, "--storage", tmp_path)
    heading = said.text.splitlines()[1].split()
    assert heading[-2:] == ["training", "evaluation"]
    assert "times of one trial, alone on its device" in said.text
    assert "Training and evaluation together take" in said.text
    for slots in ("one at a time", "two at a time", "eight at a time"):
        assert slots in said.text
