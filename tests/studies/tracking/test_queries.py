"""The blocks of docs/queries.md, against the page's own study with made-up results."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest

import studies
from studies.study_file.loading import load_study
from tests.studies.marks import NOLOAD

PAGE = (Path(__file__).parents[3] / "docs" / "queries.md").read_text()
SETUP, *QUESTIONS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
SETTINGS = re.findall(r'--set "(.*?)"', PAGE.partition("```python")[0])
URI = "sqlite:///outputs/mlflow.db"
ANSWERS = ["points", "cheapest", "difference", "told", "drop"]

pytestmark = [pytest.mark.mlflow, NOLOAD]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory, make_up: Callable[..., None]) -> str:
    """The quickstart as the page runs it, finished and in MLflow."""
    storage = tmp_path_factory.mktemp("queries")
    make_up(load_study("quickstart", SETTINGS), storage)
    assert studies.sync("quickstart", storage=storage, overrides=SETTINGS) == 56
    return f"sqlite:///{storage / 'mlflow.db'}"


@pytest.fixture
def _as_before() -> Iterator[None]:
    """Undo what the page sets for the whole process, also in its environment."""
    yield
    mlflow.set_tracking_uri(None)
    assert "MLFLOW_TRACKING_URI" not in os.environ
    pd.reset_option("display.width")
    pd.reset_option("display.max_columns")


def test_the_page_asks_five_questions_and_shows_five_answers() -> None:
    assert len(QUESTIONS) == len(ANSWERS) == PAGE.count("```text\n") == 5
    assert len(SETTINGS) == 2
    assert SETUP.count(URI) == 1
    for question in QUESTIONS:
        assert question.count("mlflow.search_runs(") == question.count("mlflow.") == 1


@pytest.mark.usefixtures("_as_before")
@pytest.mark.parametrize(
    ("question", "answer"), list(zip(QUESTIONS, ANSWERS, strict=True)), ids=ANSWERS
)
def test_each_question_of_the_page_has_an_answer(
    question: str, answer: str, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {}
    exec(SETUP.replace(URI, uri), names)
    exec(question, names)
    assert len(names[answer]) > 0
    said = capsys.readouterr().out
    assert len(said.splitlines()) > 1
    assert "Empty DataFrame" not in said
    shown = PAGE.partition(question)[2].split("```text\n")[1].splitlines()
    assert said.split()[:2] == " ".join(shown[:2]).split()[:2]
