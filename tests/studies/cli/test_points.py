import io
from pathlib import Path

import pandas as pd
import pytest

import studies
from tests.studies.cli.shell import Oat, is_a_sentence


def test_points_are_those_of_storage_in_every_format(oat: Oat, study: Path, finished: Path) -> None:
    wanted = studies.points(study, storage=finished)
    command = ["points", study, "--storage", finished]
    as_csv = pd.read_csv(io.BytesIO(oat(*command, "--format", "csv").out))
    assert list(as_csv.columns) == list(wanted.columns)
    assert as_csv["ra"].tolist() == pytest.approx(wanted["ra"].tolist())
    as_json = oat(*command, "--format", "json").json
    assert [row["point_key"] for row in as_json] == wanted["point_key"].tolist()
    parquet = pd.read_parquet(io.BytesIO(oat(*command, "--format", "parquet").out))
    assert parquet["sa"].tolist() == wanted["sa"].tolist()
    table = oat(*command)
    assert f"{len(wanted)} rows" in table.text
    assert "variant" in table.text
    assert "data_fingerprint" not in table.text


def test_points_takes_columns_in_their_order(oat: Oat, study: Path, finished: Path) -> None:
    command = ["points", study, "--storage", finished, "--format", "csv"]
    found = pd.read_csv(io.BytesIO(oat(*command, "--columns", "ra, method,sa").out))
    assert list(found.columns) == ["ra", "method", "sa"]
    is_a_sentence(oat(*command, "--columns", "ra,robust"), "Unknown column 'robust'")


def test_a_study_without_points_says_how_to_make_them_and_leaves_nothing(
    oat: Oat, study: Path, tmp_path: Path
) -> None:
    said = oat("points", study, "--storage", tmp_path / "empty")
    is_a_sentence(said, "has no points", "`oat run ")
    assert not (tmp_path / "empty").exists()
