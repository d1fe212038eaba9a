"""One run of a study, seen from its end: what lies in storage and in MLflow."""

import json
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import yaml
from mlflow.tracking import MlflowClient
from PIL import Image

import studies
from oat import autoattack
from studies.cli import app as cli
from studies.commands import run as session
from studies.commands.run import RunOutcome
from studies.driver import lease, rounds
from studies.driver.lease import LEASE, LeaseError
from studies.errors import TrackingError
from studies.planning.plan import Plan
from studies.storage.local import LocalFolder
from studies.storage.sealed import write_sealed
from studies.study_file.loading import load_study
from studies.study_file.study import Study
from studies.tracking.tracker import Tracker
from tests.studies.marks import NOLOAD

pytestmark = [pytest.mark.mlflow, NOLOAD]


@pytest.fixture
def storage(storage: Path, empty_database: Path) -> Path:
    """The same with MLflow's database, which would be made anew for each test."""
    shutil.copy(empty_database, storage)
    return storage


def _run(tiny: dict[str, Any], storage: Path) -> RunOutcome:
    return studies.run(tiny, storage=storage, command="oat run tiny")


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


@pytest.mark.parametrize("call", ["sync", "close"])
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
    assert ("no links" in _page(storage)) == (call == "sync")


def _pictures(root: Path, classes: int) -> Path:
    """Write a folder of images of so many classes."""
    for half in ("train", "test"):
        for name in range(classes):
            place = root / half / f"class{name}"
            place.mkdir(parents=True)
            for i in range(8):
                Image.new("RGB", (8, 8), (10 * i,) * 3).save(place / f"{i}.png")
    return root


def _refused(
    study: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> str:
    """Run a study that cannot run; nothing is started or written. Return what is said."""
    started = Mock(side_effect=AssertionError("nothing may be started"))
    for name in ("join_cluster", "open_tracker"):
        monkeypatch.setattr(session, name, started)
    for name in ("run_followed", "_write_study"):
        monkeypatch.setattr(rounds, name, started)
    path, storage = tmp_path / "study.yaml", tmp_path / "storage"
    path.write_text(yaml.safe_dump(study))
    monkeypatch.setattr(sys, "argv", ["oat", "run", str(path), "--storage", str(storage)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    written = capsys.readouterr()
    assert ended.value.code == 2
    assert "Traceback" not in written.err
    assert written.out == ""
    assert not [file for file in storage.rglob("*") if file.is_file()]
    return " ".join(written.err.split())


def test_autoattack_with_too_few_classes_is_refused_before_anything_starts(
    tiny: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny["data"] = {"name": "imagefolder", "root": str(_pictures(tmp_path / "pictures", 5))}
    tiny["evaluate"]["attacks"].append({"name": "autoattack"})
    said = _refused(tiny, tmp_path, monkeypatch, capsys)
    assert "at least 10 classes, the data have 5; set `targets: 4`." in said


@pytest.mark.parametrize("name", ["autoattack", "square"])
def test_an_attack_whose_package_is_missing_is_refused_before_anything_starts(
    name: str,
    tiny: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(autoattack, "find_spec", lambda _: None)
    tiny["evaluate"]["attacks"].append({"name": name})
    said = _refused(tiny, tmp_path, monkeypatch, capsys)
    assert f"`{name}` needs the package pyautoattack; install 'oat-studies[autoattack]'." in said


def _prepared(monkeypatch: pytest.MonkeyPatch, launch: Callable[..., dict[str, str]]) -> None:
    """Let a run go as far as its launch, which is another."""
    monkeypatch.setattr("studies.tracking.reaching.check_server", lambda _: None)
    monkeypatch.setattr(session, "join_cluster", lambda *_: None)
    monkeypatch.setattr(session, "open_tracker", lambda *_: Mock())
    monkeypatch.setattr(rounds, "run_followed", launch)


def _launches(
    study: Study,
    storage: Path,
    monkeypatch: pytest.MonkeyPatch,
    leave: Callable[[int], None],
) -> list[list[str]]:
    """Run a study whose launches do what ``leave`` does, and return what each was to do."""
    launched: list[list[str]] = []

    def launch(current: Plan, *_: object) -> dict[str, str]:
        launched.append([trial.state for trial in current.to_run()])
        leave(len(launched))
        return {}

    _prepared(monkeypatch, launch)
    monkeypatch.setattr(session, "compare_and_report", lambda *_: (None, {}, []))
    studies.run(study, storage=storage)
    return launched


def _without_checks(tiny: dict[str, Any], *attacks: str) -> Study:
    tiny["evaluate"] |= {"masking_images": 0, "attacks": [{"name": name} for name in attacks]}
    return load_study(tiny)


def test_points_that_wait_for_other_networks_are_made_by_a_second_launch(
    tiny: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_up: Callable[..., None],
) -> None:
    study = _without_checks(tiny, "pgd", "transfer")

    def leave(number: int) -> None:
        make_up(study, tmp_path, lambda p: number == 2 or p["attack"]["name"] != "transfer")

    found = _launches(study, tmp_path, monkeypatch, leave)
    assert found == [["missing"] * 4, ["evaluate"] * 4]
    assert _launches(study, tmp_path, monkeypatch, leave) == []


def test_points_that_waited_for_nothing_need_no_second_launch(
    tiny: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_up: Callable[..., None],
) -> None:
    study = _without_checks(tiny, "pgd", "transfer")
    found = _launches(study, tmp_path, monkeypatch, lambda _: make_up(study, tmp_path))
    assert found == [["missing"] * 4]


def test_points_that_are_left_without_transfer_are_for_the_next_run(
    tiny: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_up: Callable[..., None],
) -> None:
    study = _without_checks(tiny, "pgd", "fgsm")

    def leave(_: int) -> None:
        make_up(study, tmp_path, lambda p: p["attack"]["name"] != "fgsm")

    assert len(_launches(study, tmp_path, monkeypatch, leave)) == 1


def _chain(tiny: dict[str, Any]) -> Study:
    """Return a study of a model, one that starts from it, one from that, and one of its own."""
    first = "pgd_at start=pgd_at:λ=1 epochs=1 λ=0.5"
    tiny["methods"] = [
        {"name": "pgd_at", "lam": 0.2, "start": {"from": first, "epochs": 1}},
        {"name": "pgd_at", "lam": 0.5, "start": {"from": "pgd_at λ=1", "epochs": 1}},
        {"name": "pgd_at", "lam": [0, 1]},
    ]
    return load_study(tiny)


def test_models_that_start_from_others_run_after_them_in_waves_of_any_depth(
    tiny: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    finish_trial: Callable[..., None],
) -> None:
    study, folder = _chain(tiny), LocalFolder(tmp_path / "tiny")
    launched: list[set[str]] = []

    def launch(current: Plan, *_: object) -> dict[str, str]:
        launched.append({trial.label.rpartition(" ")[2] for trial in current.ready()})
        for trial in current.ready():
            finish_trial(folder, trial)
        return {}

    _prepared(monkeypatch, launch)
    monkeypatch.setattr(session, "compare_and_report", lambda *_: (None, {}, []))
    outcome = studies.run(study, storage=tmp_path)
    assert launched == [{"λ=0", "λ=1"}, {"λ=0.5"}, {"λ=0.2"}]
    assert (outcome.worked_on, outcome.complete) == (4, True)


def test_what_waits_for_a_model_that_fails_is_told_and_left_to_the_next_run(
    tiny: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    finish_trial: Callable[..., None],
) -> None:
    study, folder = _chain(tiny), LocalFolder(tmp_path / "tiny")
    launched: list[int] = []
    fails = True

    def launch(current: Plan, *_: object) -> dict[str, str]:
        launched.append(len(current.ready()))
        for trial in current.ready():
            if fails and trial.label == "pgd_at λ=1":
                place = folder.sub(f"trials/{trial.run_key}")
                write_sealed(place, "failure.json", {"error": "It fell."})
            else:
                finish_trial(folder, trial)
        return {}

    _prepared(monkeypatch, launch)
    monkeypatch.setattr(session, "compare_and_report", lambda *_: (None, {}, []))
    outcome = studies.run(study, storage=tmp_path)
    assert launched == [2]
    assert (outcome.worked_on, outcome.complete) == (2, False)
    assert [(trial.state, trial.reason) for trial in outcome.plan.trials][1:] == [
        ("waiting", "It cannot start: pgd_at λ=1 seed 0 has failed."),
        ("done", None),
        ("failed", "It fell."),
    ]
    fails = False
    for trial in outcome.plan.trials:
        folder.sub(f"trials/{trial.run_key}").remove("failure.json")
    assert studies.run(study, storage=tmp_path).complete
    assert launched == [2, 1, 1, 1]


def test_a_run_that_could_start_nothing_starts_no_ray(
    tiny: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    finish_trial: Callable[..., None],
) -> None:
    study, folder = _chain(tiny), LocalFolder(tmp_path / "tiny")
    for trial in studies.plan(study, storage=tmp_path).ready():
        finish_trial(folder, trial)
        if trial.label == "pgd_at λ=1":
            place = folder.sub(f"trials/{trial.run_key}")
            write_sealed(place, "result.json", {"status": "diverged", "error": "It is nan."})
    refuse = Mock(side_effect=AssertionError("nothing may be started"))
    _prepared(monkeypatch, refuse)
    monkeypatch.setattr(session, "join_cluster", refuse)
    monkeypatch.setattr(session, "compare_and_report", lambda *_: (None, {}, []))
    outcome = studies.run(study, storage=tmp_path)
    assert (outcome.worked_on, outcome.complete) == (0, False)


def test_a_study_that_runs_is_not_run_nor_synced_by_another(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[str] = []

    def launch(*_: object) -> dict[str, str]:
        for call in (studies.run, studies.sync):
            with pytest.raises(LeaseError) as caught:
                call(tiny, storage=tmp_path)
            refused.append(str(caught.value))
        assert studies.plan(tiny, storage=tmp_path).trials  # looking is free
        assert len(studies.status(tiny, storage=tmp_path)) == 4
        raise TrackingError("that is enough.")

    _prepared(monkeypatch, launch)
    with pytest.raises(TrackingError, match="that is enough"):
        studies.run(tiny, storage=tmp_path)
    assert len(refused) == 2
    assert all("is being run already" in said for said in refused)
    assert not (tmp_path / "tiny" / LEASE).exists()


def test_a_run_that_was_taken_for_dead_stops_and_leaves_the_lease_to_the_other(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.05)
    path = tmp_path / "tiny" / LEASE
    ended: list[bool] = []

    def launch(*_: object) -> dict[str, str]:
        for _beat in range(600):  # at one beat both may write, and ours last
            LocalFolder(path.parent).write(LEASE, b'{"owner": "another"}')
            time.sleep(0.1)
        ended.append(True)
        return {}

    _prepared(monkeypatch, launch)
    with pytest.raises(LeaseError, match="has taken over"):
        studies.run(tiny, storage=tmp_path)
    assert ended == []
    assert path.read_bytes() == b'{"owner": "another"}'


@pytest.mark.parametrize(("address", "reused"), [(None, True), ("auto", False)])
def test_workers_are_reused_on_one_machine_alone(
    address: str | None,
    reused: bool,
    tiny: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[object] = []

    def launch(*given: object) -> dict[str, str]:
        *_, reuse, first_failure, brought = given
        assert first_failure is brought is None
        told.append(reuse)
        return {}

    _prepared(monkeypatch, launch)
    studies.run(tiny, storage=tmp_path, address=address)
    assert told == [reused]
