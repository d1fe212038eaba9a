"""`docs/notebook.ipynb` runs, and what its cells end with shows itself as a table.

The cells are executed as they stand, in one namespace. A kernel would bring 25 packages more into
the lock for this one file, and nothing here depends on one.
"""

import ast
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from matplotlib import pyplot

import studies
from studies.results.meanings import meanings
from studies.results.points import COLUMNS
from studies.results.shown import Points
from tests.studies.marks import NOLOAD

DOCS = Path(__file__).parents[2] / "docs"


def _cells(kind: str) -> list[str]:
    cells = json.loads((DOCS / "notebook.ipynb").read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == kind]


def _shown(source: str, namespace: dict[str, Any]) -> str:
    """Execute a cell, and return the HTML of the value that it ends with."""
    body = ast.parse(source).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "cell", "exec"), namespace)
    if not isinstance(last, ast.Expr):
        return ""
    value = eval(compile(ast.Expression(last.value), "cell", "eval"), namespace)
    return value._repr_html_() if hasattr(value, "_repr_html_") else ""


@pytest.fixture
def _no_window() -> Iterator[None]:
    before = mpl.get_backend()
    pyplot.switch_backend("agg")
    yield
    pyplot.close("all")
    pyplot.switch_backend(before)


@pytest.mark.slow
@pytest.mark.mlflow
@NOLOAD
@pytest.mark.usefixtures("_no_window")
def test_the_notebook_runs_on_storage_that_is_there_and_shows_tables(
    tiny: dict[str, Any], storage: Path, empty_database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *cells = _cells("code")
    namespace: dict[str, Any] = {}
    _shown(first, namespace)
    assert (namespace["STUDY"], namespace["STORAGE"]) == ("quickstart", "outputs")
    namespace |= {"STUDY": tiny, "STORAGE": storage}
    shutil.copy(empty_database, storage / "mlflow.db")
    # what the cells run is finished: its models are compared and logged, and none is trained
    pages = [page for cell in cells if (page := _shown(cell, namespace))]
    assert namespace["outcome"].complete
    plan, after, comparison, points, some = pages
    for page in pages:
        assert "<table" in page
        assert "What the columns mean" in page
    assert "<caption" in plan
    assert "<caption" in after
    runs = studies.runs(tiny, storage=storage)
    assert sorted(runs["point_key"]) == sorted(namespace["points"]["point_key"])
    assert "SA and RA in percent, Δ in points" in comparison
    for name in ("lam", "sa", "ra"):
        assert f"<th>{name}</th>" in points
        assert f"<b>{name}</b>: " in some
    assert "checkpoint_rule" in points
    assert "checkpoint_rule" not in some
    assert pyplot.gca().get_xlabel() == "standard accuracy SA, %"
    assert "images and 1 seed" in capsys.readouterr().out


def test_the_links_of_the_notebook_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)", "\n".join(_cells("markdown")))
    assert len(links) == 4
    for link in links:
        assert (DOCS / link).exists(), link


def test_a_selection_of_points_shows_itself_and_keeps_what_it_is_of(
    tiny: dict[str, Any], finished: Path
) -> None:
    points = studies.points(tiny, storage=finished)
    few = points[points["method"] == "oat"][["lam", "ra"]]
    assert isinstance(few, Points)
    assert few.attrs == points.attrs
    page = few._repr_html_()
    assert f"{len(few)} rows" in page
    assert meanings()["ra"].text in page
    assert meanings()["sa"].text not in page
    counted = points.groupby("method")["ra"].agg(["count"])
    assert "What the columns mean" not in Points.of(counted)._repr_html_()


def test_every_column_of_a_point_has_a_meaning() -> None:
    known = meanings()
    assert known.keys() == COLUMNS.keys()
    assert all(meaning.text for meaning in known.values())
