"""OAT beside mixed and interpolated models, which cost little or nothing."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import studies
from studies.comparison.comparing import compare
from studies.study_file.loading import load_study
from tests.studies.comparison.models import Model, bare_points, first_of, stored_points

IMAGES = 2000


def _model(method: str, value: float, sa: float, ra: float, seed: int = 0) -> Model:
    right = [first_of(round(share * IMAGES), IMAGES) for share in (sa, ra)]
    return Model(method, right[0], right[1], lam=value, seed=seed)


def _study(oat: float, mix: float) -> list[Model]:
    """Return OAT and a mixture at two places each, beside two dedicated models."""
    return [
        _model("oat", 0.0, 0.9, oat / 2),
        _model("oat", 1.0, 0.8, oat),
        _model("mix", 0.0, 0.9, mix / 2),
        _model("mix", 1.0, 0.8, mix),
        _model("pgd_at", 0.0, 0.9, 0.25),
        _model("pgd_at", 1.0, 0.8, 0.5),
    ]


@pytest.mark.parametrize(
    ("oat", "mix", "verdict"),
    [(0.3, 0.5, "loses to"), (0.5, 0.3, "beats"), (0.5, 0.5, "cannot be told from")],
)
def test_oat_stands_to_a_rival_by_the_area_of_their_fronts(
    oat: float, mix: float, verdict: str, tmp_path: Path
) -> None:
    result = compare(stored_points(tmp_path, *_study(oat, mix)))
    (row,) = result.rivals.to_dict("records")
    assert (row["once"], row["rival"], row["verdict"]) == ("oat", "mix", verdict)
    assert row["area"] == pytest.approx(oat / mix)
    assert row["area_low"] <= row["area"] <= row["area_high"]
    assert any(said.startswith(f"oat {verdict} mix: its front has") for said in result.remarks())
    assert result.answer().startswith("OAT loses to mix") == (verdict == "loses to")


@pytest.mark.parametrize("spread", [0.01, 0.05])
def test_a_loss_to_a_rival_never_vanishes_for_what_two_seeds_may_have_of_luck(
    spread: float, tmp_path: Path
) -> None:
    """One degree of freedom spreads so widely that some drawn area is cut at 0."""
    models = [
        _model(m.method, m.lam or 0.0, m.clean.mean(), m.robust.mean() + sign * spread, seed)
        for m in _study(0.3, 0.5)
        for seed, sign in ((0, -1), (1, 1))
    ]
    result = compare(stored_points(tmp_path, *models))
    (row,) = result.rivals.to_dict("records")
    assert row["area"] == pytest.approx(0.6, abs=0.01)
    assert 0 <= row["area_low"] <= row["area"] <= row["area_high"]
    assert {"oat"} <= result.ratios.keys()
    json.dumps(result.record())


def test_oat_and_a_rival_are_priced_also_where_there_are_several_widths(tmp_path: Path) -> None:
    full = _study(0.5, 0.3)
    narrow = replace(_model("pgd_at", 1.0, 0.7, 0.4), width=0.5)
    half = replace(_model("oat", 1.0, 0.7, 0.4), width=0.5)
    (row,) = compare(stored_points(tmp_path, *full, half, narrow)).rivals.to_dict("records")
    assert row["work"] == pytest.approx(1.1), "both took 10 passes, and FiLM adds a tenth to OAT's"


def test_the_price_of_a_start_says_what_it_leaves_out(tmp_path: Path) -> None:
    started = replace(_model("pgd_at", 0.5, 0.85, 0.45), options=" start=pgd_at:λ=1 epochs=5")
    notes = compare(stored_points(tmp_path, *_study(0.5, 0.3), started)).notes
    (said,) = [note for note in notes if "its start" in note]
    assert said.startswith("The training time and cost of 'pgd_at start=pgd_at:λ=1 epochs=5'")


def test_rivals_have_rows_of_their_own_which_do_not_count_in_the_verdict_on_oat(
    tmp_path: Path,
) -> None:
    models = [replace(m, seed=seed) for seed in range(3) for m in _study(0.5, 0.3)]
    points = stored_points(tmp_path, *models)
    held = bare_points(*(replace(m, clean=m.clean[::10], robust=m.robust[::10]) for m in models))
    result = compare(points, held_out=held)
    rows = result.table.set_index(["once", "lam"])["verdict"]
    assert rows["oat"].tolist() == ["free", "free"]
    assert rows["mix"].tolist() == ["not free", "not free"]
    assert result.verdict == "free"
    assert "OAT matches 2 of 2 retrained models" in result.answer()
    # α is no λ: nothing of a mixture stands at the same λ as a dedicated model
    assert set(result.same_knob["once"]) == {"oat"}
    assert result.reference is None, "a rival is no variant of OAT"


@pytest.mark.slow
def test_rivals_of_a_real_study_are_compared_and_shown(
    tiny: dict[str, Any], tmp_path: Path, train_all: Any
) -> None:
    ends = ["pgd_at λ=0", "pgd_at λ=1"]
    tiny["methods"] += [
        {"name": "mix", "of": ends, "alphas": [0, 0.5, 1]},
        {"name": "interpolate", "of": ends, "alphas": [0, 0.5, 1]},
    ]
    for _ in range(2):  # rivals wait for the models that they are made of
        train_all(load_study(tiny), tmp_path)
    assert studies.plan(tiny, storage=tmp_path).to_run() == []
    result = studies.compare(tiny, storage=tmp_path, out=tmp_path / "report")
    assert set(result.rivals["rival"]) == {"mix", "interpolate"}
    assert set(result.table["once"]) == {"oat", "mix", "interpolate"}
    page = (tmp_path / "report" / "index.html").read_text()
    assert all(said in page for said in ("mix α=0.5", "its front has"))
    assert (tmp_path / "report" / "rivals.csv").exists()
    price = result.fronts.set_index("front")["train_cost"]
    assert price["mix"] == price["interpolate"] == pytest.approx(price["pgd_at"])
