"""What tuning gained: on held-out images by the record, on test images by the points in storage."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import studies
from studies.comparison.gained import Gains
from studies.planning.expand import make_plan
from studies.report.markdown import markdown_tables
from studies.report.rows import gain_rows
from studies.report.terminal import terminal_parts
from studies.statistics.frontier import hypervolume
from studies.storage.local import LocalFolder
from studies.study_file.loading import load_study
from studies.study_file.study import Study
from studies.tuning.candidates import Tunable, tuned_methods
from studies.tuning.gains import gains_of, gains_of_searches, with_gains
from studies.tuning.record import TUNING_FILE, keep, read_record, tuned_study
from studies.tuning.winners import Search, SearchTrial

Values = dict[tuple[float, ...], tuple[float, float]]

TEST: dict[tuple[str, float], tuple[float, float]] = {
    ("pgd_at 0.4", 0.1): (0.8, 0.3),
    ("pgd_at 0.6", 0.1): (0.6, 0.5),
    ("pgd_at 0.4", 0.2): (0.85, 0.35),
    ("pgd_at 0.6", 0.4): (0.65, 0.6),
    ("oat", 0.1): (0.7, 0.3),
    ("oat", 0.3): (0.75, 0.45),
    ("trades", 0.1): (0.5, 0.5),
}
"""SA and RA on test images, by model and learning rate."""


def _search(tuned: Tunable, trials: list[tuple[dict[str, Any], bool, bool]]) -> Search:
    made = []
    for number, (params, start, _) in enumerate(trials):
        entry = tuned.entry(params)
        (planned,) = make_plan(tuned.judged(entry), LocalFolder("/nowhere"), "val").trials
        sa = 0.5 + params["train.lr"] / 2
        point = {"lam": None, "beta": None, "width_mult": 1.0, "sa": sa, "ra": 0.4}
        made.append(
            SearchTrial(
                number, "done", planned.run_key, entry, start, sa, 0.4, [point], device_seconds=5.0
            )
        )
    winners = [m.run_key for m, (_, _, won) in zip(made, trials, strict=True) if won]
    once = tuned.block.name == "oat"
    starts = len(tuned.starts())
    ended = "the budget is spent"
    spent = 5.0 * len(made)
    dims = list(tuned.dimensions)
    return Search(tuned.name, once, starts, 100.0, spent, ended, made, winners, dims)


@pytest.fixture
def tuned(tunable: dict[str, Any], tmp_path: Path) -> tuple[Study, Study, LocalFolder]:
    """A study, that of its winners, and the folder in which both were tuned."""
    tunable["methods"][1]["lam"] = [0.4, 0.6]
    own = load_study(tunable)
    folder = LocalFolder(tmp_path / "tiny")
    oat, pgd_at, trades = tuned_methods(own)
    tried = [({"train.lr": 0.1}, True, False), ({"train.lr": 0.3}, False, True)]
    keep(own, folder, _search(oat, tried))
    keep(
        own,
        folder,
        _search(
            pgd_at,
            [
                ({"train.lr": 0.1, "lam": 0.4}, True, False),
                ({"train.lr": 0.1, "lam": 0.6}, True, False),
                ({"train.lr": 0.2, "lam": 0.4}, False, True),
                ({"train.lr": 0.4, "lam": 0.6}, False, True),
            ],
        ),
    )
    keep(own, folder, _search(trades, [({"train.lr": 0.1}, True, True)]))
    record = read_record(folder)
    assert record is not None
    return own, load_study(tuned_study(record)), folder


def _finish(study: Study, folder: LocalFolder, finish: Callable[..., None]) -> None:
    """Finish what a study lacks on test images."""
    for trial in make_plan(study, folder).to_run():
        config = trial.job["config"]
        method = config["method"]
        name = method["name"] + (f" {method['lam']:g}" if "lam" in method else "")
        finish(folder, trial, *TEST[name, config["train"]["lr"]])


def _gains(study: Study, folder: LocalFolder) -> Gains:
    found = gains_of(study, folder, ["pgd1"], "last")
    assert found is not None
    return found


def test_held_out_gains_are_areas_of_the_own_settings_and_the_winners(
    tuned: tuple[Study, Study, LocalFolder],
) -> None:
    _, winners, folder = tuned
    table = _gains(winners, folder).table.set_index("method")
    row = table.loc["pgd_at"]
    assert row["start"] == pytest.approx(0.55 * 0.4)
    assert row["tuned"] == pytest.approx(0.7 * 0.4)
    assert row["gain"] == pytest.approx(0.15 * 0.4)
    assert (row["trials"], row["winners"]) == (4, 2)
    assert (row["device_seconds"], row["budget_seconds"]) == (20.0, 100.0)
    assert table.loc["trades", "gain"] == 0
    assert set(table["budget_seconds"]) == {100.0}


def test_what_was_not_run_on_test_images_is_not_known(
    tuned: tuple[Study, Study, LocalFolder], finish_trial: Callable[..., None]
) -> None:
    own, winners, folder = tuned
    table = _gains(winners, folder).table
    assert table[["test_start", "test_tuned", "test_gain"]].isna().all(axis=None)
    _finish(winners, folder, finish_trial)
    table = _gains(winners, folder).table.set_index("method")
    assert table.loc[["oat lambda_choices=(0.0,1.0)", "pgd_at"], "test_gain"].isna().all()
    assert table.loc["trades", "test_gain"] == 0, "its own settings have won"
    # with another seed nothing is known until that is run too
    more = load_study({**winners.dump(), "seeds": [0, 1]})
    assert _gains(more, folder).table["test_gain"].isna().all()
    _finish(more, folder, finish_trial)
    _finish(load_study({**own.dump(), "seeds": [0, 1]}), folder, finish_trial)
    assert _gains(more, folder).table["test_gain"].notna().all()


@pytest.mark.parametrize("attacks", [[], [{"name": "transfer"}]])
def test_gains_on_test_images_are_areas_under_the_attack(
    tuned: tuple[Study, Study, LocalFolder],
    finish_trial: Callable[..., None],
    attacks: list[Any],
) -> None:
    own, winners, folder = (*tuned,)
    evaluate = own.dump()["evaluate"]
    evaluate["attacks"] = [*evaluate["attacks"], *attacks]
    # the winners are judged by more than the study that was tuned
    own, winners = (load_study({**s.dump(), "evaluate": evaluate}) for s in (own, winners))
    _finish(own, folder, finish_trial)
    _finish(winners, folder, finish_trial)
    table = _gains(winners, folder).table.set_index("method")
    start = hypervolume([(0.8, 0.3), (0.6, 0.5)])
    after = hypervolume([(0.85, 0.35), (0.65, 0.6)])
    row = table.loc["pgd_at"]
    assert row["test_start"] == pytest.approx(start)
    assert row["test_tuned"] == pytest.approx(after)
    assert row["test_gain"] == pytest.approx(after - start)
    assert row["test_gain_low"] <= row["test_gain"] <= row["test_gain_high"]
    # the images are the same, and so the interval of a gain is narrower than of two apart
    assert row["test_gain_high"] - row["test_gain_low"] < 0.2
    once = table.loc["oat lambda_choices=(0.0,1.0)"]
    assert once["test_gain"] == pytest.approx(0.75 * 0.45 - 0.7 * 0.3)


def test_two_winners_that_differ_in_an_option_are_two_points_and_no_two_seeds_of_one(
    tunable: dict[str, Any], tmp_path: Path, finish_trial: Callable[..., None]
) -> None:
    places = {("own", 0.1): (0.6, 0.4), ("own", 0.2): (0.9, 0.4), ("study", 0.2): (0.8, 0.6)}
    tunable["tune"]["space"]["trades"] = {"attack": {"choices": ["own", "study"]}}
    own, folder = load_study(tunable), LocalFolder(tmp_path / "tiny")
    tried: dict[str, list[tuple[dict[str, Any], bool, bool]]] = {
        "oat": [({"train.lr": 0.1}, True, True)],
        "pgd_at": [({"train.lr": 0.1, "lam": lam}, True, True) for lam in (0.4, 0.6)],
        "trades": [
            ({"train.lr": lr, "attack": attack}, lr == 0.1, lr > 0.1) for attack, lr in places
        ],
    }
    tunable["methods"][1]["lam"] = [0.4, 0.6]
    own = load_study(tunable)
    for some in tuned_methods(own):
        keep(own, folder, _search(some, tried[some.block.name]))
    record = read_record(folder)
    assert record is not None
    winners = load_study(tuned_study(record))
    for study in (own, winners):
        for trial in make_plan(study, folder).to_run():
            config = trial.job["config"]
            method, lr = config["method"], config["train"]["lr"]
            trades = method["name"] == "trades"
            finish_trial(folder, trial, *(places[method["attack"], lr] if trades else (0.7, 0.3)))
    row = _gains(winners, folder).table.set_index("method").loc["trades"]
    assert row["test_tuned"] == pytest.approx(hypervolume([(0.9, 0.4), (0.8, 0.6)]))
    assert row["test_gain"] == pytest.approx(row["test_tuned"] - 0.6 * 0.4)


def test_the_test_points_of_another_study_are_not_taken_for_the_tuned_ones(
    tuned: tuple[Study, Study, LocalFolder], finish_trial: Callable[..., None]
) -> None:
    own, winners, folder = tuned
    _finish(own, folder, finish_trial)
    _finish(winners, folder, finish_trial)
    one = [entry for entry in winners.dump()["methods"] if entry["name"] == "trades"]
    part = load_study({**winners.dump(), "methods": one})
    table = _gains(part, folder).table.set_index("method")
    assert np.isnan(table.loc["pgd_at", "test_tuned"]), "its winners are not compared"
    assert table.loc["trades", "test_gain"] == 0


def test_a_study_that_was_not_tuned_or_has_none_of_the_winners_has_no_gains(
    tuned: tuple[Study, Study, LocalFolder], tiny: dict[str, Any], tmp_path: Path
) -> None:
    _, _, folder = tuned
    assert gains_of(load_study(tiny), LocalFolder(tmp_path / "other"), ["pgd1"], "last") is None
    tiny["methods"] = [{"name": "pgd_at", "lam": 0.9}]
    assert gains_of(load_study(tiny), folder, ["pgd1"], "last") is None


def test_early_stopping_is_said_and_notes_of_searches_are_kept(
    tuned: tuple[Study, Study, LocalFolder], tunable: dict[str, Any]
) -> None:
    _, winners, folder = tuned
    assert _gains(winners, folder).notes == []
    tunable["tune"]["early_stopping"] = {"slack": 0.05}
    tunable["methods"][1]["lam"] = [0.4, 0.6]
    study = load_study(tunable)
    search = _search(tuned_methods(study)[2], [({"train.lr": 0.1}, True, True)])
    keep(study, folder, Search(**{**search.__dict__, "notes": ["beware."]}))
    first, second = _gains(winners, folder).notes
    assert first == "trades: beware."
    assert second.startswith("In tuning, trials were stopped early")
    assert "5 points more" in second


def test_unfinished_own_settings_leave_the_gain_unknown(tunable: dict[str, Any]) -> None:
    (_, pgd_at, _) = tuned_methods(load_study(tunable))
    search = _search(pgd_at, [({"train.lr": 0.1, "lam": 0.0}, True, True)])
    (row,) = gains_of_searches([search]).to_dict("records")
    assert np.isnan(row["start"])
    assert np.isnan(row["gain"])
    assert row["tuned"] > 0
    (shown,) = gain_rows(gains_of_searches([search]))
    assert "gain" not in shown, "what no method has is left out"


def test_the_comparison_shows_the_table_everywhere(
    tuned: tuple[Study, Study, LocalFolder], finish_trial: Callable[..., None], tmp_path: Path
) -> None:
    own, winners, folder = tuned
    _finish(own, folder, finish_trial)
    _finish(winners, folder, finish_trial)
    points = studies.points(winners, storage=tmp_path)
    comparison = with_gains(studies.compare(points), winners, folder)
    assert comparison.gains is not None
    text = markdown_tables(comparison)
    assert "gain there" in text
    assert "20 of 100 s" in text
    parts = list(terminal_parts(comparison, 200))
    titles = [str(part.title) for part in parts if not isinstance(part, str)]
    assert any("What tuning gained" in title for title in titles)


def test_a_damaged_record_is_a_note_and_no_reason_to_lose_the_comparison(
    tuned: tuple[Study, Study, LocalFolder], finish_trial: Callable[..., None], tmp_path: Path
) -> None:
    _, winners, folder = tuned
    _finish(winners, folder, finish_trial)
    comparison = studies.compare(studies.points(winners, storage=tmp_path))
    folder.write(TUNING_FILE, b"{}")
    found = with_gains(comparison, winners, folder)
    assert found.gains is None
    assert found.table.equals(comparison.table)
    assert "`oat tune` writes it anew" in found.notes[-1]
