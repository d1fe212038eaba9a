"""A study with three radii as a user runs it: each number of the report from what is stored."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

import studies
from studies.results.reading import correctness
from tests.studies.cli.shell import Oat
from tests.studies.marks import NOLOAD

pytestmark = [pytest.mark.ray, pytest.mark.mlflow, pytest.mark.slow, NOLOAD]

RADII = [0.05, 0.1, 0.2]


def _out(oat: Oat, *words: str) -> str:
    said = oat(*words)
    assert said.code == 0, said.err
    return said.text


@pytest.mark.timeout(600)
def test_three_radii_from_the_study_file_to_the_report(
    tiny: dict[str, Any], tmp_path: Path, oat: Oat
) -> None:
    tiny["seeds"] = [0, 1]
    tiny["evaluate"]["attacks"] = [{"steps": 2, "eps": RADII}, {"name": "fgsm", "eps": [0.1, 0.2]}]
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny))
    place = ("--storage", str(tmp_path / "outputs"))
    said = _out(oat, "run", str(path), "--verbose", *place)
    assert "By radius (* decides)" in said
    assert "The answer is for ε=0.1, the radius of training" in said
    report = tmp_path / "outputs" / "tiny" / "report"
    tables = {
        name: pd.read_csv(io.StringIO((report / f"{name}.csv").read_text()))
        for name in ("radii", "areas", "by_radius")
    }
    assert (report / "radii.png").stat().st_size > 10_000
    assert "At each radius" in (report / "index.html").read_text()
    assert tables["by_radius"]["eps"].tolist() == RADII
    assert tables["by_radius"]["decides"].tolist() == [False, True, False]

    points = studies.points(path, storage=tmp_path / "outputs")
    correct = correctness(points)
    places = points.groupby(["method", "lam", "beta"], dropna=False)
    assert len(tables["areas"]) == len(places) == 5
    for (method, lam, beta), own in places:
        value = f"β={beta:g}" if np.isnan(lam) else f"λ={lam:g}"
        curve = tables["radii"][tables["radii"]["point"] == f"{method} {value}"]
        assert curve["eps"].tolist() == [0, *RADII]
        each = []  # the area of each image, of each seed
        for _, seed in own.groupby("seed"):
            keys = seed.groupby("eps")["point_key"].agg(list)
            robust = [
                np.logical_and.reduce([correct[f"{key}.robust"] for key in keys[eps]])
                for eps in RADII
            ]
            clean = correct[f"{keys[0.1][0]}.clean"]
            each.append(np.array([clean, *robust], float))
        rates = np.mean(each, axis=(0, 2))
        assert curve["ra"].to_numpy() == pytest.approx(rates)
        (area,) = tables["areas"].loc[tables["areas"]["point"] == f"{method} {value}", "area"]
        assert area == pytest.approx(np.trapezoid(rates, [0, *RADII]) / 0.2)

    # λ is chosen at each radius by points there, and the whole is the record's as well
    record = json.loads(_out(oat, "compare", str(path), *place, "--json"))
    assert {row["question"] for row in record["by_radius"]} == {"best λ"}
    assert len(record["radii"]) == 20
    again = _out(oat, "run", str(path), *place)
    assert "ε=0.1, the radius of training" in again
