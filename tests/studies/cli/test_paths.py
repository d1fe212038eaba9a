"""Commands whose folders and databases have names that people give them."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import studies
from studies.study_file.loading import load_study
from tests.oat.test_paths import REFUSED
from tests.studies.cli.shell import Oat, is_a_sentence
from tests.studies.marks import NOLOAD

pytestmark = NOLOAD


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what is written to the wrong place be seen there."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def _here() -> list[str]:
    return sorted(path.name for path in Path.cwd().iterdir())


@pytest.mark.mlflow
def test_any_name_of_a_folder_works_and_holds_its_own_database(
    oat: Oat, study: Path, finished: Path, tmp_path: Path
) -> None:
    storage = tmp_path / 'it\'s #1, "λ" \\ é'
    shutil.copytree(finished, storage)
    (tmp_path / "link").symlink_to(storage)
    assert oat("sync", study, "--storage", f"{storage}/").code == 0
    assert (storage / "mlflow.db").stat().st_size > 0
    for place in (storage, "../link", f"../here/../{storage.name}/"):
        said = oat("runs", study, "--storage", place, "--format", "json")
        assert (said.code, len(said.json)) == (0, 5)
        assert len(oat("points", study, "--storage", place, "--format", "json").json) == 5
    assert _here() == []


@pytest.mark.mlflow
@pytest.mark.parametrize("sign", ["?", "%"])
def test_where_no_database_can_lie_is_refused_and_works_with_one_elsewhere(
    sign: str, oat: Oat, study: Path, finished: Path, empty_database: Path, tmp_path: Path
) -> None:
    storage = tmp_path / f"a{sign}20b"
    shutil.copytree(finished, storage)
    shutil.copy(empty_database, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for command in ("run", "sync", "runs", "ui"):
        said = oat(command, study, "--storage", storage)
        is_a_sentence(said, "`--storage`", str(storage), "`?` and `%`", "`--tracking-uri`")
    assert sorted(tmp_path.rglob("*")) == before
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert oat("sync", study, "--storage", storage, "--tracking-uri", uri).code == 0
    assert oat("points", study, "--storage", storage).code == 0
    said = oat("runs", study, "--storage", storage, "--tracking-uri", uri, "--format", "json")
    assert len(said.json) == 5
    assert sorted(tmp_path.iterdir()) == sorted(
        {path for path in before if path.parent == tmp_path}
    )


@pytest.mark.mlflow
def test_the_home_folder_is_the_users(
    oat: Oat, study: Path, finished: Path, empty_database: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(finished, tmp_path / "results")
    shutil.copy(empty_database, tmp_path / "results")
    assert oat("sync", study, "--storage", "~/results").code == 0
    assert (tmp_path / "results" / "mlflow.db").exists()
    for command in ("points", "runs"):
        assert len(oat(command, study, "--storage", "~/results", "--format", "json").json) == 5
    (trial, *_) = studies.plan(load_study(study, ["data.root=~/data"])).trials
    assert trial.job["data"]["root"] == str(tmp_path / "data")
    assert _here() == []


@pytest.mark.parametrize("place", REFUSED)
def test_a_storage_that_would_be_another_folder_is_refused_by_every_command(
    place: str, oat: Oat, study: Path
) -> None:
    for command in (
        "plan",
        "run",
        "preflight",
        "status",
        "points",
        "compare",
        "runs",
        "sync",
        "ui",
    ):
        is_a_sentence(oat(command, study, "--storage", place), "`--storage` must")
    assert _here() == []


@pytest.mark.parametrize("place", REFUSED)
def test_so_are_data_and_a_report(place: str, oat: Oat, tiny: dict[str, Any], study: Path,
                                  finished: Path) -> None:  # fmt: skip
    said = oat("compare", study, "--storage", finished, "--out", place)
    is_a_sentence(said, "`--out` must")
    tiny["data"]["root"] = place
    with pytest.raises(studies.errors.StudyError, match="`data`: `root` must"):
        load_study(tiny)
    assert _here() == []


def test_a_file_in_the_place_of_a_folder_is_named(oat: Oat, study: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        for command in ("plan", "run", "status", "points", "compare", "runs", "sync", "ui"):
            said = oat(command, study, "--storage", place)
            is_a_sentence(said, "`--storage` must be a folder", f"'{tmp_path / 'file'}' is a file")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("place", ["/" + "x" * 300, "/proc/nowhere"])
def test_a_folder_that_cannot_be_made_is_refused(place: str, oat: Oat, study: Path) -> None:
    is_a_sentence(oat("run", study, "--storage", place), "`--storage`", place)


URIS = {
    "": "must be the address",
    "mlruns": "must be the address",
    "./mlruns": "must be the address",
    "file:///tmp/mlruns": "must be the address",
    "C:\\mlflow.db": "must be the address",
    "~/mlflow.db": "must be the address",
    "sqlite:mlflow.db": "must be the address",
    "sqlite://": "names no file",
    "sqlite://mlflow.db": "names no file",
    "sqlite:///~/mlflow.db": "no folder '~'",
    "sqlite:///none/mlflow.db": "no folder 'none'",
    "sqlite:////tmp": "is a folder",
    "sqlite:///a%20b.db": "may not hold `?` and `%`",
    "sqlite:///a?b/mlflow.db": "may not hold `?` and `%`",
    "sqlite:///garbage.db": "not a database",
}


@pytest.mark.parametrize("uri", URIS)
def test_a_database_that_cannot_be_is_refused_at_once(
    uri: str, oat: Oat, tunable: dict[str, Any], study: Path, finished: Path, tmp_path: Path
) -> None:
    Path("garbage.db").write_bytes(b"no database" * 1000)
    words = (URIS[uri],)
    for command in ("run", "sync"):
        is_a_sentence(oat(command, study, "--storage", finished, "--tracking-uri", uri), *words)
    path = tmp_path / "tunable.yaml"
    path.write_text(yaml.safe_dump(tunable))
    said = oat("tune", path, "--storage", tmp_path / "out", "--optuna-storage", uri)
    if uri != "file:///tmp/mlruns":
        is_a_sentence(said, URIS[uri].replace("address", "URL"))
    assert _here() == ["garbage.db"]
    assert not (finished / "mlflow.db").exists()


@pytest.mark.parametrize("place", ["s3://", "gs://", "s3:///", "gs:///x"])
def test_a_uri_without_a_bucket_is_refused(place: str, oat: Oat, study: Path) -> None:
    is_a_sentence(oat("status", study, "--storage", place), "`--storage`")
    assert _here() == []
