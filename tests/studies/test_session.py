"""One run of a study, seen from its end: what lies in storage and in MLflow."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from studies import api
from studies.errors import TrackingError
from studies.session import RunOutcome
from studies.tracking import Tracker

NOLOAD = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"
)
pytestmark = [pytest.mark.mlflow, pytest.mark.timeout(60), NOLOAD]


def _run(tiny: dict[str, Any], storage: Path) -> RunOutcome:
    return api.run(tiny, storage=storage, command="oat run tiny")


def _page(storage: Path) -> str:
    return (storage / "tiny" / "report" / "index.html").read_text()


def test_the_report_links_to_runs_and_is_kept_with_the_studys(
    tiny: dict[str, Any], storage: Path, tmp_path: Path
) -> None:
    outcome = _run(tiny, storage)
    assert outcome.notes == []
    index = json.loads((storage / "tiny" / "mlflow.json").read_text())
    text = _page(storage)
    base = f"http://127.0.0.1:5000/#/experiments/{index['experiment']}/runs/"
    linked = set(re.findall(re.escape(base) + "([0-9a-f]{32})", text))
    assert linked == {index["study"], *index["trials"].values(), *index["runs"].values()}
    assert f"mlflow ui --backend-store-uri sqlite:///{storage}/mlflow.db" in text
    assert "oat run tiny" in text
    client = MlflowClient(tracking_uri=f"sqlite:///{storage}/mlflow.db")
    study = client.get_run(index["study"])
    assert study.info.status == "FINISHED"
    kept = client.download_artifacts(index["study"], "report", str(tmp_path))
    assert {path.name for path in Path(kept).iterdir()} == outcome.report.keys()
    assert (Path(kept) / "index.html").read_text() == text


@pytest.mark.parametrize("call", ["catch_up", "close"])
def test_a_server_that_goes_away_costs_a_note_and_no_report(
    call: str, tiny: dict[str, Any], storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise TrackingError("MLflow is gone.")

    monkeypatch.setattr(Tracker, call, refuse)
    outcome = _run(tiny, storage)
    assert outcome.notes == ["MLflow is gone."]
    assert outcome.comparison is not None
    assert outcome.comparison.answer().partition(";")[0] in _page(storage)
    assert ("no links" in _page(storage)) == (call == "catch_up")
