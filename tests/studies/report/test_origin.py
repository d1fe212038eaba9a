import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from studies.planning.expand import make_plan
from studies.report.origin import demo_command, gather
from studies.results.mlflow_index import INDEX, Links, write_index
from studies.storage.addresses import without_credentials
from studies.storage.local import LocalFolder
from studies.study_file.loading import load_study


def _folder(storage: Path) -> LocalFolder:
    return LocalFolder(storage / "tiny")


def _gather(tiny: dict[str, Any], storage: Path) -> Any:
    return gather(make_plan(load_study(tiny), _folder(storage)), _folder(storage), "oat run tiny")


def test_every_finished_trial_has_its_curve_and_its_provenance(
    tiny: dict[str, Any], finished: Path
) -> None:
    origin = _gather(tiny, finished)
    keys = {trial.run_key for trial in origin.plan.trials}
    assert origin.epochs.keys() == origin.provenance.keys() == keys
    assert all(record["versions"]["torch"] for record in origin.provenance.values())
    assert all([e["epoch"] for e in epochs] == [1] for epochs in origin.epochs.values())
    assert origin.command == "oat run tiny"
    assert origin.links == Links()


@pytest.mark.parametrize(
    ("command", "demo"),
    [
        ("oat run my.yaml --only x", "oat demo my.yaml"),
        (
            "oat compare 'my study.yml' quickstart --set train.lr=1 --attack fgsm --storage s3://b/c",
            "oat demo 'my study.yml' --set train.lr=1 --storage s3://b/c",
        ),
        ("oat run --storage=/x quickstart --set=a=[0]", "oat demo tiny --storage=/x --set=a=[0]"),
        ("", "oat demo tiny"),
        ("it's from Python", "oat demo tiny"),
    ],
)
def test_the_demo_is_of_the_study_that_the_reports_command_named(
    command: str, demo: str, tiny: dict[str, Any], finished: Path
) -> None:
    plan, folder = make_plan(load_study(tiny), _folder(finished)), _folder(finished)
    found = demo_command(gather(plan, folder, command))
    assert shlex.split(found) == shlex.split(demo)
    only = load_study({**tiny, "methods": tiny["methods"][1:]})
    without_oat = demo_command(gather(make_plan(only, folder), folder, command))
    assert "pgd_at λ=0" in shlex.split(without_oat)


@pytest.mark.parametrize("damage", [None, b"", b"[1]", b"{", b"\xff\xfe"])
def test_provenance_that_cannot_be_read_is_absent(
    damage: bytes | None, tiny: dict[str, Any], storage: Path
) -> None:
    key = _gather(tiny, storage).plan.trials[0].run_key
    path = storage / "tiny" / "trials" / key / "provenance.json"
    path.unlink() if damage is None else path.write_bytes(damage)
    origin = _gather(tiny, storage)
    assert key not in origin.provenance
    assert len(origin.provenance) == len(origin.plan.trials) - 1


@pytest.mark.parametrize(
    ("uri", "base", "serve"),
    [
        ("http://host:5001", "http://host:5001", None),
        ("https://me:secret@host/mlflow/", "https://host/mlflow", None),
        (
            "sqlite:////data/my runs/mlflow.db",
            "http://127.0.0.1:5000",
            "mlflow ui --backend-store-uri 'sqlite:////data/my runs/mlflow.db'",
        ),
        (
            "postgresql://me:secret@host/runs?password=secret",
            "http://127.0.0.1:5000",
            "mlflow ui --backend-store-uri postgresql://host/runs",
        ),
    ],
)
def test_links_lead_to_the_runs_and_hold_no_secret(
    uri: str, base: str, serve: str | None, tiny: dict[str, Any], storage: Path
) -> None:
    write_index(_folder(storage), uri, "7", "s", {"run": "t"}, {"point": "p"})
    links = _gather(tiny, storage).links
    assert links.study == f"{base}/#/experiments/7/runs/s"
    assert links.trials == {"run": f"{base}/#/experiments/7/runs/t"}
    assert links.points == {"point": f"{base}/#/experiments/7/runs/p"}
    assert links.serve == serve
    assert "secret" not in (storage / "tiny" / INDEX).read_text()


@pytest.mark.parametrize(
    "index",
    [
        [],
        {},
        {"uri": 3},
        {"uri": "http://h", "experiment": "1", "study": None, "trials": {}, "runs": {}},
        {"uri": "http://h", "experiment": "1", "study": "s", "trials": [], "runs": {}},
    ],
)
def test_a_faulty_index_gives_no_links(index: Any, tiny: dict[str, Any], storage: Path) -> None:
    (storage / "tiny" / INDEX).write_text(json.dumps(index))
    assert _gather(tiny, storage).links == Links()


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("oat run x --tracking-uri http://me:pw@host:1", "oat run x --tracking-uri http://host:1"),
        ("oat run x --tracking-uri=http://m@e:p/w@host", "oat run x --tracking-uri=http://host"),
        ("'postgresql://h/db?password=pw' y", "'postgresql://h/db' y"),
        ("http://me:pw@a http://me:pw@b", "http://a http://b"),
        ("sqlite:////tmp/a@b/mlflow.db", "sqlite:////tmp/a@b/mlflow.db"),
        ("oat run study.yaml --set a=b?", "oat run study.yaml --set a=b?"),
        ("'s3://b/x?endpoint_override=h:1&scheme=http'",) * 2,
        ("s3://b/x?secret_key=pw", "s3://b/x"),
    ],
)
def test_credentials_are_left_out_of_any_text(text: str, clean: str) -> None:
    assert without_credentials(text) == clean
