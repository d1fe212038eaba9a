"""What goes from a study's folder, what stays, and when."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import studies
from studies.driver.lease import LEASE, LeaseError, only_driver
from studies.errors import TuningError
from studies.planning.expand import make_plan
from studies.storage.local import LocalFolder
from studies.storage.opening import open_folder
from studies.study_file.loading import load_study
from studies.trial.checkpoints import SLOTS
from studies.tuning.candidates import tuned_methods
from studies.tuning.record import TUNING_FILE, keep
from studies.tuning.winners import Search, SearchTrial


@pytest.fixture
def only_oat(tiny: dict[str, Any]) -> dict[str, Any]:
    """The tiny study without its dedicated models, which are three of its four trials."""
    return {**tiny, "methods": tiny["methods"][:1]}


def _files(storage: Path) -> set[str]:
    return {str(path.relative_to(storage)) for path in storage.rglob("*") if path.is_file()}


def _keys(study: dict[str, Any], storage: Path) -> list[str]:
    return [trial.run_key for trial in studies.plan(study, storage=storage).trials]


def test_other_trials_are_listed_and_removed_when_told(
    only_oat: dict[str, Any], tiny: dict[str, Any], storage: Path
) -> None:
    before = _files(storage)
    _, *others = _keys(tiny, storage)
    listed = studies.clean(only_oat, storage=storage)
    assert not listed.removed
    assert _files(storage) == before
    assert {one.place for one in listed.found} == {f"trials/{key}" for key in others}
    sizes = [sum(file.stat().st_size for file in (storage / "tiny" / one.place).iterdir())
             for one in listed.found]  # fmt: skip
    assert [one.size for one in listed.found] == sizes
    assert listed.size == sum(sizes) > 0
    said = {"pgd_at λ=0", "pgd_at λ=1", "trades β=1"}
    assert {one.said for one in listed.found} == {f"{name} seed 0, finished" for name in said}

    removed = studies.clean(only_oat, storage=storage, yes=True)
    assert removed.removed
    assert removed.found == listed.found
    assert _files(storage) == {name for name in before if not set(name.split("/")) & {*others}}
    states = [trial.state for trial in studies.plan(tiny, storage=storage).trials]
    assert states == ["done", "missing", "missing", "missing"]
    assert studies.clean(only_oat, storage=storage, yes=True).found == ()


def test_a_trial_of_code_that_is_gone_can_be_removed(tiny: dict[str, Any], storage: Path) -> None:
    key = _keys(tiny, storage)[-1]
    path = storage / "tiny" / "trials" / key / "config.json"
    config = json.loads(path.read_text())
    config["method"] = {"name": "my_pkg.gone:Mine", "lam": 1.0, "code": "0" * 12}
    path.write_text(json.dumps(config))
    tiny["methods"] = [block for block in tiny["methods"] if block["name"] != "trades"]
    (found,) = studies.clean(tiny, storage=storage, yes=True).found
    assert found.place == f"trials/{key}"
    assert found.said == "my_pkg.gone:Mine (its code is not here as it was) seed 0, finished"
    assert not path.parent.exists()


def test_a_study_that_is_as_it_was_has_nothing_to_remove(
    tiny: dict[str, Any], storage: Path, tmp_path: Path
) -> None:
    before = _files(storage)
    assert studies.clean(tiny, storage=storage, yes=True).found == ()
    assert _files(storage) == before
    assert studies.clean(tiny, storage=tmp_path / "nowhere", yes=True).found == ()
    assert not (tmp_path / "nowhere").exists()


def test_checkpoints_go_from_finished_trials_alone(tiny: dict[str, Any], storage: Path) -> None:
    done, left, damaged, _ = _keys(tiny, storage)
    folder = LocalFolder(storage / "tiny")
    for key in (done, left, damaged):
        for slot in SLOTS:
            folder.write(f"trials/{key}/{slot}", b"state")
    folder.remove(f"trials/{left}/result.json")
    folder.write(f"trials/{damaged}/result.json", b"{}")
    folder.write(".preflight-12345678", b"")
    found = studies.clean(tiny, storage=storage, yes=True).found
    places = {f"trials/{done}/{slot}" for slot in SLOTS} | {".preflight-12345678"}
    assert {one.place for one in found} == places
    assert all(folder.size(place) is None for place in places)
    assert all(folder.size(f"trials/{key}/{SLOTS[0]}") for key in (left, damaged))


def test_nothing_is_removed_under_a_driver(only_oat: dict[str, Any], storage: Path) -> None:
    before = _files(storage)
    study = load_study(only_oat)
    with only_driver(study, LocalFolder(storage / "tiny"), Console(quiet=True)):
        assert len(studies.clean(only_oat, storage=storage).found) == 3
        with pytest.raises(LeaseError, match="is being run already"):
            studies.clean(only_oat, storage=storage, yes=True)
        assert _files(storage) == before | {f"tiny/{LEASE}"}
    assert _files(storage) == before


def test_what_tuning_has_on_record_stays(
    only_oat: dict[str, Any], tunable: dict[str, Any], storage: Path
) -> None:
    study, folder = load_study(tunable), LocalFolder(storage / "tiny")
    oat = next(tuned for tuned in tuned_methods(study) if tuned.block.name == "oat")
    entry = oat.entry({"train.lr": 0.05})
    (candidate,) = make_plan(oat.judged(entry), folder, "val").trials
    folder.write(f"trials/{candidate.run_key}/config.json", json.dumps({}).encode())
    assert [
        one.place for one in studies.clean(tunable | {"tune": None}, storage=storage).found
    ] == [f"trials/{candidate.run_key}"]
    trial = SearchTrial(0, "failed", candidate.run_key, entry)
    keep(study, folder, Search(oat.name, True, 1, 100.0, 0.0, "over", [trial], [], ["train.lr"]))
    # of the study that was tuned all stays, whatever file names it
    cleaned = studies.clean(only_oat, storage=storage, yes=True)
    assert cleaned.found == ()
    assert len(cleaned.kept) == 4
    folder.write(TUNING_FILE, b"{}")
    before = _files(storage)
    with pytest.raises(TuningError, match="`oat tune` writes it anew"):
        studies.clean(only_oat, storage=storage, yes=True)
    assert _files(storage) == before


def test_candidates_of_a_search_that_a_kill_has_ended_stay(
    tunable: dict[str, Any], storage: Path
) -> None:
    study, folder = load_study(tunable), LocalFolder(storage / "tiny")
    oat, *_ = tuned_methods(study)
    (candidate,) = make_plan(oat.judged(oat.entry({"train.lr": 0.05})), folder, "val").trials
    longer = {**tunable, "train": {**tunable["train"], "epochs": 3}}
    other = make_plan(load_study(longer), folder).trials[0]
    for trial in (candidate, other):
        config = json.dumps(trial.job["config"]).encode()
        folder.write(f"trials/{trial.run_key}/config.json", config)
    found = studies.clean(tunable, storage=storage)
    assert [one.place for one in found.found] == [f"trials/{other.run_key}"]
    assert found.kept == (candidate.run_key,)
    # the file of earlier winners has nothing to search, and the name of the study
    keep(study, folder, Search(oat.name, True, 0, 100.0, 0.0, "over", [], [], ["train.lr"]))
    winners = {key: value for key, value in tunable.items() if key != "tune"}
    found = studies.clean(winners, storage=storage)
    assert [one.place for one in found.found] == [f"trials/{other.run_key}"]
    assert found.kept == (candidate.run_key,)


def test_a_model_that_a_kept_one_was_made_from_stays(
    only_oat: dict[str, Any], tiny: dict[str, Any], storage: Path
) -> None:
    oat, source, *others = _keys(tiny, storage)
    place = LocalFolder(storage / "tiny" / "trials" / oat)
    config = json.loads(place.read("config.json"))
    config["start"] = {"source": "pgd_at λ=0", "run_key": source, "epochs": 1}
    place.write("config.json", json.dumps(config).encode())
    found = studies.clean(only_oat, storage=storage)
    assert {one.place for one in found.found} == {f"trials/{key}" for key in others}
    assert found.kept == (source,)


@pytest.mark.timeout(60)
def test_a_bucket_is_cleaned_as_a_folder_is(
    only_oat: dict[str, Any], storage: Path, bucket: str
) -> None:
    remote = open_folder(bucket)
    for name in _files(storage):
        remote.write(name, (storage / name).read_bytes())
    here = studies.clean(only_oat, storage=storage)
    assert studies.clean(only_oat, storage=bucket).found == here.found
    assert studies.clean(only_oat, storage=bucket, yes=True).removed
    assert len(remote.sub("tiny/trials").names()) == 1
    assert studies.plan(only_oat, storage=bucket).trials[0].state == "done"
