from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import studies
from studies.comparison.answer import Comparison
from studies.errors import ComparisonError


def _same(one: Comparison, other: Comparison) -> None:
    pd.testing.assert_frame_equal(one.table, other.table)
    pd.testing.assert_frame_equal(one.fronts, other.fronts)
    assert one.answer() == other.answer()


def test_a_study_is_compared_as_the_frame_of_its_points_is(tiny_file: Path, finished: Path) -> None:
    named = studies.compare(tiny_file, storage=finished)
    _same(named, studies.compare([str(tiny_file)], storage=finished))
    _same(named, studies.compare(studies.points(tiny_file, storage=finished)))


def test_a_study_named_twice_counts_once(tiny_file: Path, finished: Path) -> None:
    once = studies.compare(tiny_file, storage=finished)
    _same(once, studies.compare([tiny_file, tiny_file], storage=finished))


def test_the_report_is_written_where_it_is_asked_for(
    tiny_file: Path, finished: Path, tmp_path: Path
) -> None:
    before = sorted(finished.rglob("*"))
    studies.compare(tiny_file, storage=finished, out=tmp_path / "report")
    assert "from Python" in (tmp_path / "report" / "index.html").read_text()
    assert {"front.png", "table.csv"} <= {path.name for path in (tmp_path / "report").iterdir()}
    assert sorted(finished.rglob("*")) == before


def test_what_cannot_be_compared_is_one_sentence(
    tiny_file: Path, finished: Path, tmp_path: Path
) -> None:
    points = studies.points(tiny_file, storage=finished)
    with pytest.raises(ComparisonError, match="`out` needs a study"):
        studies.compare(points, out=tmp_path / "report")
    assert not (tmp_path / "report").exists()
    with pytest.raises(ComparisonError, match="at least one study"):
        studies.compare([])
    with pytest.raises(ComparisonError, match="no points"):
        studies.compare(tiny_file, storage=tmp_path / "nowhere")


def test_where_no_points_are_is_said_and_what_is_there_instead(
    tiny: dict[str, Any], storage: Path, tmp_path: Path
) -> None:
    tiny["train"] |= {"lr": 0.07}
    with pytest.raises(ComparisonError) as caught:
        studies.compare(tiny, storage=storage)
    said = (
        f"There are no points to compare yet in '{storage}/tiny'; `oat run` makes them. 4 finished"
    )
    assert str(caught.value).startswith(said)
    with pytest.raises(ComparisonError, match=r"'; `oat run` makes them\.$"):
        studies.compare(tiny, storage=tmp_path / "empty")
