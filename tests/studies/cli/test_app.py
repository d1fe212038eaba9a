import html
import io
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

import studies
from studies.cli import app as cli
from studies.results.points import COLUMNS, with_attack_columns
from studies.storage.local import LocalFolder
from studies.storage.sealed import seal, unseal, write_lines
from studies.study_file.loading import load_study, presets

# MLflow 3.17's own tables, under SQLAlchemy 2.1
NOLOAD = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"
)
pytestmark = NOLOAD

OAT = Path(sys.executable).with_name("oat")


@dataclass(frozen=True)
class Said:
    """How a command ended and what it wrote."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        """Standard output as text."""
        return self.out.decode()

    @property
    def json(self) -> Any:
        """Standard output as JSON."""
        return json.loads(self.out)


Oat = Callable[..., Said]


@pytest.fixture
def oat(monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> Oat:
    """Run the command in this process, from its arguments to its exit code."""

    def call(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["oat", *map(str, arguments)])
        capsysbinary.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        written = capsysbinary.readouterr()
        return Said(int(ended.value.code or 0), written.out, written.err.decode())

    return call


@pytest.fixture
def study(tiny_file: Path) -> Path:
    """The file of the tiny study."""
    return tiny_file


@pytest.fixture(scope="module")
def with_mlflow(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished tiny study with its points in MLflow; not to be written."""
    storage = tmp_path_factory.mktemp("with_mlflow") / "storage"
    shutil.copytree(finished, storage)
    return storage


@pytest.fixture
def indexed(oat: Oat, study: Path, with_mlflow: Path) -> Path:
    """The finished tiny study with its points in MLflow; not to be written."""
    if not (with_mlflow / "mlflow.db").exists():
        assert oat("sync", study, "--storage", with_mlflow).code == 0
    return with_mlflow


def _is_a_sentence(said: Said, *words: str) -> None:
    """Check that a command was refused with one sentence and no result."""
    assert said.code == 2
    assert said.out == b""
    assert "Traceback" not in said.err
    assert len(said.err.strip().splitlines()) == 1
    for word in words:
        assert word in said.err


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty folder to be in, which must stay empty."""
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield folder
    assert not list(folder.iterdir())


def test_init_writes_a_study_file_that_is_valid(
    oat: Oat, tmp_path: Path, nothing_runs: Path
) -> None:
    for options, preset in (((), "quickstart"), (("--from", "svhn"), "svhn")):
        said = oat("init", *options)
        assert (said.code, said.err) == (0, "")
        path = tmp_path / "my.yaml"
        path.write_bytes(said.out)
        assert load_study(path) == load_study(preset)
        assert oat("validate", path).text.startswith(f"Study {preset} is valid: ")
        # a file of one's own is brought up to date in the same way
        assert oat("init", "--from", path).out == said.out


def test_init_from_an_unknown_preset_writes_nothing(oat: Oat, nothing_runs: Path) -> None:
    _is_a_sentence(oat("init", "--from", "svnh"), "preset 'svnh'", "did you mean 'svhn'?", ".yaml")


def test_schema_is_printed_as_json(oat: Oat, nothing_runs: Path) -> None:
    said = oat("schema")
    assert (said.code, said.err) == (0, "")
    assert said.json == studies.schema()


@pytest.mark.parametrize("preset", presets())
def test_validate_counts_what_the_plan_lists(preset: str, oat: Oat, nothing_runs: Path) -> None:
    said = oat("validate", preset)
    assert (said.code, said.err) == (0, "")
    trials = studies.plan(preset, storage=nothing_runs / "none").trials
    points = sum(len(trial.job["points"]) for trial in trials)
    seeds = len({trial.seed for trial in trials})
    assert said.text.startswith(f"Study {preset} is valid: {len(trials)} trials (")
    assert f"; {seeds} seed" in said.text
    assert said.text.endswith(f", {points} points to judge.\n")
    assert said.text.count("\n") == 1
    for name, block in Counter(t.job["config"]["method"]["name"] for t in trials).items():
        assert f"{block // seeds} {name}" in said.text


def test_validate_takes_overrides(oat: Oat, nothing_runs: Path) -> None:
    more = ("--set", "seeds=[0, 1]", "--set", "methods.1.lam=1")
    assert oat("validate", "quickstart", *more).text == (
        "Study quickstart is valid: 8 trials (1 oat, 1 pgd_at, 2 trades; 2 seeds), "
        "18 points to judge.\n"
    )


def test_validate_says_every_fault_on_a_line_of_its_own(
    oat: Oat, study: Path, nothing_runs: Path
) -> None:
    faults = ("train.epoch=3", "attack.eps=8", "methods.1.lam=7")
    said = oat("validate", study, *(word for fault in faults for word in ("--set", fault)))
    assert (said.code, said.out) == (2, b"")
    lines = said.err.splitlines()
    assert len(lines) == 3
    assert all(line.endswith(".") for line in lines)
    for word in ("train.epoch", "8/255", "methods.1"):
        assert sum(word in line for line in lines) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ("mapping", "got nothing")),
        (b"# nothing but a comment\n", ("mapping", "got nothing")),
        (b"- a\n", ("mapping", "got list")),
        (b"name: [", ("not valid YAML", "line 1")),
        (b"name: a\n\tdata: b\n", ("not valid YAML", "line 2")),
        (b"name: a\nseeds: [0]\nname: b\n", ("'name'", "line 1", "line 3")),
        (b"\xff\xfe\x00name", ("cannot be read", "utf-8")),
        (b"name: a\n---\nname: b\n", ("not valid YAML", "single document")),
    ],
)
def test_validate_refuses_what_is_no_study_file(
    content: bytes, words: tuple[str, ...], oat: Oat, tmp_path: Path, nothing_runs: Path
) -> None:
    path = tmp_path / "my.yaml"
    path.write_bytes(content)
    _is_a_sentence(oat("validate", path), *words)


def test_validate_refuses_a_folder_and_what_is_not_there(
    oat: Oat, tmp_path: Path, nothing_runs: Path
) -> None:
    (tmp_path / "folder.yaml").mkdir()
    for path in (tmp_path / "folder.yaml", tmp_path, tmp_path / "none.yaml"):
        _is_a_sentence(oat("validate", path), str(path), "cannot be read")


def test_plan_lists_every_trial_and_what_is_left(oat: Oat, study: Path, finished: Path) -> None:
    said = oat("plan", study, "--storage", finished)
    assert (said.code, said.err) == (0, "")
    for trial in studies.plan(study, storage=finished).trials:
        assert trial.run_key in said.text
        assert trial.label in said.text
    assert said.text.count("done") == 4
    assert "0 to run" in said.text
    assert "…" not in said.text


def test_plan_starts_and_writes_nothing(oat: Oat, study: Path, tmp_path: Path) -> None:
    said = oat("plan", study, "--storage", tmp_path / "nowhere")
    assert said.code == 0
    assert said.text.count("missing") == 4
    assert "4 to run" in said.text
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("preset", presets())
def test_every_preset_is_planned_without_data_or_gpu(
    preset: str, oat: Oat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = oat("plan", preset)
    assert (said.code, said.err) == (0, "")
    trials = studies.plan(preset, storage=tmp_path / "outputs").trials
    assert f"{len(trials)} to run" in said.text
    assert "device hours" in said.text
    assert not list(tmp_path.iterdir())


def test_plan_says_a_range_and_the_device_where_nothing_is_measured(
    oat: Oat, study: Path, tmp_path: Path
) -> None:
    said = oat("plan", study, "--storage", tmp_path)
    assert " to " in said.text
    assert "assumed: one core of a server CPU in float32 at 50 GFLOP/s; nothing" in said.text
    said = oat("plan", study, "--storage", tmp_path, "--json")
    for trial in said.json["trials"]:
        found = trial["estimate"]
        assert found["basis"] == "assumed"
        assert found["training_seconds_high"] == pytest.approx(9 * found["training_seconds_low"])


def test_plan_says_what_was_measured_on_finished_trials(
    oat: Oat, study: Path, finished: Path
) -> None:
    said = oat("plan", study, "--storage", finished, "--set", "methods.1.lam=[0, 0.5]")
    assert "measured on finished trials of other methods" in said.text
    said = oat("plan", study, "--storage", finished, "--json")
    assert {trial["estimate"]["basis"] for trial in said.json["trials"]} == {"measured"}


@pytest.mark.slow
def test_plan_probes_on_this_machine(oat: Oat, study: Path, tmp_path: Path) -> None:
    said = oat("plan", study, "--storage", tmp_path, "--probe")
    assert said.code == 0
    assert "Probing 4 of 4" in said.err
    assert "Times are probed on" in said.text
    again = oat("plan", study, "--storage", tmp_path, "--json")
    assert {trial["estimate"]["basis"] for trial in again.json["trials"]} == {"probed"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_plan_refuses_to_probe_a_gpu_that_is_not_here(
    oat: Oat, study: Path, tmp_path: Path
) -> None:
    said = oat("plan", study, "--storage", tmp_path, "--probe", "--set", "resources.gpu=1")
    _is_a_sentence(said, "`resources.gpu` is 1", "`--address`")
    said = oat("plan", study, "--storage", tmp_path, "--address", "auto")
    _is_a_sentence(said, "add `--probe`")


def test_plan_takes_a_share_that_is_not_chosen_yet(oat: Oat, study: Path, tmp_path: Path) -> None:
    said = oat("plan", study, "--storage", tmp_path, "--set", "resources.gpu=auto")
    assert said.code == 0
    assert said.text.count("auto") == 4
    assert "one GPU of a data centre" in said.text
    oat("validate", study, "--set", "resources.gpu=auto")
    said = oat("plan", study, "--storage", tmp_path, "--json", "--set", "resources.gpu=auto")
    assert {trial["resources"]["gpu"] for trial in said.json["trials"]} == {"auto"}


def test_plan_names_trials_that_no_longer_belong(oat: Oat, study: Path, finished: Path) -> None:
    said = oat("plan", study, "--storage", finished, "--set", "train.epochs=2")
    assert said.text.count("missing") == 4
    assert "4 finished trials in storage do not belong to this study" in said.text


def test_plan_as_json(oat: Oat, study: Path, finished: Path) -> None:
    said = oat(
        "plan", study, "--storage", finished, "--json",
        "--set", "methods.1.lam=[0, 0.5]", "--set", "resources.cpu=2",
    )  # fmt: skip
    assert (said.code, said.err) == (0, "")
    trials = said.json["trials"]
    assert [trial["state"] for trial in trials] == ["done", "done", "missing", "done"]
    assert [trial["run_key"] for trial in trials if trial["state"] == "done"] == [
        trial.run_key for i, trial in enumerate(studies.plan(study).trials) if i != 2
    ]
    assert {trial["resources"]["cpu"] for trial in trials} == {2}
    assert all(trial["device_hours"] > 0 for trial in trials)
    assert trials[2]["config"]["method"] == {
        "name": "pgd_at",
        "lam": 0.5,
        "width_mult": 1.0,
    }
    assert said.json["foreign"] == [studies.plan(study).trials[2].run_key]


def test_status_shows_how_far_each_trial_is(oat: Oat, study: Path, storage: Path) -> None:
    trials = studies.plan(study, storage=storage).trials
    place = storage / "tiny" / "trials"
    (place / trials[1].run_key / "result.json").unlink()
    (place / trials[1].run_key / "checkpoint").write_bytes(b"x")
    shutil.rmtree(place / trials[2].run_key)
    (place / trials[3].run_key / "result.json").write_text("damaged")
    said = oat("status", study, "--storage", storage, "--json")
    assert (said.code, said.err) == (0, "")
    assert [row["state"] for row in said.json] == ["done", "unfinished", "missing", "damaged"]
    assert [row["epoch"] for row in said.json] == [1, 1, 0, 1]
    assert {row["epochs"] for row in said.json} == {1}
    assert [row["run_key"] for row in said.json] == [trial.run_key for trial in trials]
    assert said.json[2]["sa_val"] is None
    assert 0 <= said.json[0]["sa_val"] <= 1
    assert "result.json" in said.json[3]["reason"]


def test_status_as_a_table_shows_states_and_run_keys_whole(
    oat: Oat, study: Path, finished: Path
) -> None:
    said = oat("status", study, "--storage", finished)
    assert (said.code, said.err) == (0, "")
    assert "4 rows" in said.text
    for trial in studies.plan(study, storage=finished).trials:
        assert trial.run_key in said.text
    assert "…" not in said.text


def test_compare_shows_the_tables_and_the_verdict(oat: Oat, study: Path, finished: Path) -> None:
    said = oat("compare", study, "--storage", finished)
    assert (said.code, said.err) == (0, "")
    result = studies.compare(studies.points(study, storage=finished))
    assert result.answer() in said.text
    for note in result.notes:
        assert note in said.text
    for label in ("pgd_at λ=0", "pgd_at λ=1", "trades β=1", "all dedicated"):
        assert label in said.text
    assert "…" not in said.text


def test_compare_as_json_is_the_comparison(oat: Oat, study: Path, finished: Path) -> None:
    said = oat("compare", study, "--storage", finished, "--json", "--margin", "0.5")
    result = studies.compare(studies.points(study, storage=finished), margin=0.5)
    assert (said.code, said.err) == (0, "")
    assert said.json["verdict"] == result.verdict
    assert said.json["margin"] == 0.5
    assert said.json["answer"] == result.answer()
    (ratio,) = result.ratios.values()
    (told,) = said.json["hypervolume_ratios"].values()
    assert told["value"] == pytest.approx(ratio.value)
    assert [row["dedicated"] for row in said.json["table"]] == ["pgd_at", "pgd_at", "trades"]
    assert [row["lam"] for row in said.json["table"]] == [0, 1, None]
    for row, value in zip(said.json["table"], result.table["d_sa"], strict=True):
        assert row["d_sa"] == pytest.approx(value)


def test_compare_writes_the_report_where_it_is_told(
    oat: Oat, study: Path, finished: Path, tmp_path: Path
) -> None:
    to = tmp_path / "a b"
    said = oat("compare", study, "--storage", finished, "--out", to)
    assert said.code == 0
    assert {path.name for path in to.iterdir()} == {
        "front.png", "front.svg", "price.png", "price.svg", "index.html",
        "table.csv", "table.md", "table.tex", "cells.csv", "fronts.csv", "masking.csv",
    }  # fmt: skip
    assert not (finished / "tiny" / "report").exists()
    # as a shell would take it
    command = f"oat compare {study} --storage {finished} --out '{to}'"
    assert (
        f"<code>{html.escape(command).replace('&#x27;', '&#39;')}</code>"
        in (to / "index.html").read_text()
    )


def test_compare_shows_every_attack_of_the_study_on_the_page(
    oat: Oat, tiny: dict[str, Any], tmp_path: Path, train_all: Callable[..., None]
) -> None:
    tiny["evaluate"]["attacks"].append({"name": "pgd", "steps": 2})
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(tiny))
    train_all(load_study(path), tmp_path)
    assert oat("compare", path, "--storage", tmp_path, "--out", tmp_path / "out").code == 0
    for name in ("index.html", "table.md"):
        text = (tmp_path / "out" / name).read_text()
        assert sum(f"RA under pgd{n}, on 50 test images" in text for n in (1, 2)) >= 1
        assert text.count("The in-situ trade-off is") == 2


def test_compare_takes_several_studies(
    oat: Oat, study: Path, tiny: dict[str, Any], finished: Path, tmp_path: Path
) -> None:
    halves = []
    for name, methods in (("oat", tiny["methods"][:1]), ("dedicated", tiny["methods"][1:])):
        half = {**tiny, "methods": methods, "evaluate": {**tiny["evaluate"], "lams": [0, 1]}}
        halves.append(tmp_path / f"{name}.yaml")
        halves[-1].write_text(yaml.safe_dump(half))
    apart = oat("compare", *halves, "--storage", finished, "--json").json
    assert apart == oat("compare", study, "--storage", finished, "--json").json
    assert apart == oat("compare", study, study, "--storage", finished, "--json").json


def test_compare_has_nothing_to_say_before_there_are_points(
    oat: Oat, study: Path, tmp_path: Path
) -> None:
    _is_a_sentence(oat("compare", study, "--storage", tmp_path / "nowhere"), "`oat run`")


def test_compare_refuses_an_attack_that_no_point_was_judged_by(
    oat: Oat, study: Path, finished: Path
) -> None:
    said = oat("compare", study, "--storage", finished, "--attack", "pgd99")
    _is_a_sentence(said, "pgd99", "pgd1")


def test_compare_refuses_two_studies_on_different_data(
    oat: Oat, tiny: dict[str, Any], tmp_path: Path, make_up: Callable[..., None]
) -> None:
    files = []
    for name, methods in (("ours", tiny["methods"][:1]), ("theirs", tiny["methods"][1:])):
        evaluate = {**tiny["evaluate"], "lams": [0, 1]}
        files.append(tmp_path / f"{name}.yaml")
        files[-1].write_text(
            yaml.safe_dump({**tiny, "name": name, "methods": methods, "evaluate": evaluate})
        )
        make_up(load_study(files[-1]), tmp_path)
    both = ("compare", *files, "--storage", tmp_path)
    assert oat(*both).code == 0
    for path in (tmp_path / "theirs").rglob("points.jsonl"):
        rows = [unseal(line) for line in path.read_bytes().splitlines()]
        write_lines(
            LocalFolder(path.parent),
            path.name,
            [seal({**row, "data_fingerprint": "other"}) for row in rows],
        )
    to = tmp_path / "out"
    _is_a_sentence(oat(*both, "--out", to), "different data: none, other", "`--force`")
    assert not to.exists()
    forced = oat(*both, "--force", "--json")
    assert forced.code == 0
    assert any("different data: none, other" in note for note in forced.json["notes"])


@pytest.mark.mlflow
def test_sync_makes_the_database_and_counts_its_points(
    oat: Oat, study: Path, storage: Path
) -> None:
    for _ in range(2):
        said = oat("sync", study, "--storage", storage)
        assert (said.code, said.text, said.err) == (
            0,
            "MLflow has 5 points of this study.\n",
            "",
        )
    assert (storage / "mlflow.db").exists()


@pytest.mark.mlflow
def test_runs_queries_and_prints_in_every_format(oat: Oat, study: Path, indexed: Path) -> None:
    whole = with_attack_columns(studies.points(study, storage=indexed).drop(columns="folder"))
    command = ["runs", study, "--storage", indexed]

    as_csv = pd.read_csv(io.BytesIO(oat(*command, "--format", "csv").out))
    assert list(as_csv.columns) == [*COLUMNS, "ra_pgd1"]
    assert as_csv["point_key"].tolist() == whole["point_key"].tolist()
    assert as_csv["ra"].tolist() == pytest.approx(whole["ra"].tolist())

    as_json = oat(*command, "--format", "json").json
    assert [row["point_key"] for row in as_json] == whole["point_key"].tolist()
    assert [row["beta"] for row in as_json] == [None] * 4 + [1.0]

    as_parquet = pd.read_parquet(io.BytesIO(oat(*command, "--format", "parquet").out))
    pd.testing.assert_frame_equal(as_parquet, whole, check_exact=True)

    as_table = oat(*command)
    assert (as_table.code, as_table.err) == (0, "")
    assert "5 rows" in as_table.text
    assert as_table.text.count("pgd_at") == 2
    assert "ra_pgd1" not in as_table.text  # there is no attack but each row's own


@pytest.mark.mlflow
def test_runs_takes_a_condition_and_columns(oat: Oat, study: Path, indexed: Path) -> None:
    said = oat(
        "runs", study, "--storage", indexed, "--format", "csv",
        "--where", "method == 'oat' and lam < 0.5", "--columns", "ra, sa,lam",
    )  # fmt: skip
    assert (said.code, said.err) == (0, "")
    found = pd.read_csv(io.BytesIO(said.out))
    assert list(found.columns) == ["ra", "sa", "lam"]
    assert found["lam"].tolist() == [0]
    none = oat("runs", study, "--storage", indexed, "--where", "ra > 1", "--format", "json")
    assert (none.code, none.json) == (0, [])
    table = oat("runs", study, "--storage", indexed, "--columns", "point_key,run_key")
    assert all(row["point_key"] in table.text for row in oat(
        "runs", study, "--storage", indexed, "--format", "json").json)  # fmt: skip


@pytest.mark.mlflow
def test_runs_shows_each_point_under_every_attack(
    oat: Oat, tiny: dict[str, Any], make_up: Callable[..., None], tmp_path: Path
) -> None:
    tiny["evaluate"] = {"attacks": [{"name": "pgd", "steps": steps} for steps in (5, 10)]}
    tiny["methods"] = tiny["methods"][1:]  # OAT with a λ set of its own has a long name
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(tiny))
    make_up(load_study(tiny), tmp_path)
    assert oat("sync", tmp_path / "two.yaml", "--storage", tmp_path).code == 0
    command = ["runs", tmp_path / "two.yaml", "--storage", tmp_path]
    whole = with_attack_columns(studies.points(tmp_path / "two.yaml", storage=tmp_path))
    level = whole["ra_pgd10"].median()
    said = oat(
        *command, "--where", f"ra_pgd10 >= {level} and attack == 'pgd5'",
        "--columns", "ra,ra_pgd5,ra_pgd10", "--format", "csv",
    )  # fmt: skip
    assert (said.code, said.err) == (0, "")
    found = pd.read_csv(io.BytesIO(said.out))
    assert (found["ra"] == found["ra_pgd5"]).all()
    assert len(found) == ((whole["ra_pgd10"] >= level) & (whole["attack"] == "pgd5")).sum() > 0
    table = oat(*command).text
    assert "ra_pgd5" in table
    assert "ra_pgd10" in table
    assert "…" not in table


@pytest.mark.mlflow
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--columns", "sa,rra"], ("column 'rra'", "did you mean 'ra'")),
        (["--where", "robustness > 0.4"], ("`--where`", "robustness")),
        (["--where", "ra >"], ("`--where`", "ra >")),
        (["--where", "ra"], ("`--where`", "ra")),
        (["--where", ""], ("`--where`",)),
        (["--where", "lam = 0.3"], ("`--where`", "`==`")),
        (["--where", "ra_pgd2 > 0.4"], ("`--where`", "did you mean 'ra_pgd1'")),
        (["--where", "sa.to_csv('x')"], ("`--where`", "sa.to_csv")),
    ],
)
def test_runs_refuses_what_it_does_not_know(
    options: list[str], words: tuple[str, ...], oat: Oat, study: Path, indexed: Path
) -> None:
    _is_a_sentence(oat("runs", study, "--storage", indexed, *options), *words)


@pytest.mark.mlflow
def test_a_finished_study_is_run_without_training(oat: Oat, study: Path, storage: Path) -> None:
    weights = {p: p.read_bytes() for p in storage.rglob("model.safetensors")}
    for _ in range(2):
        said = oat("run", study, "--storage", storage)
        assert said.code == 0
        assert "Nothing to train: all 4 trials are finished." in said.text
        assert "nothing to train" in said.err
        for name in ("index.html", "front.png", "front.svg"):
            path = storage / "tiny" / "report" / name
            assert path.stat().st_size > 0
            assert str(path) in said.text
    assert {p: p.read_bytes() for p in storage.rglob("model.safetensors")} == weights


@pytest.mark.mlflow
def test_a_study_that_did_not_end_well_exits_with_one_and_says_why(
    oat: Oat, study: Path, storage: Path
) -> None:
    trial = studies.plan(study, storage=storage).trials[2]
    said = {"status": "diverged", "epoch": 3, "error": "The training loss is nan in epoch 3."}
    place = storage / "tiny" / "trials" / trial.run_key
    (place / "result.json").write_text(json.dumps(seal({"run_key": trial.run_key, **said})))
    ended = oat("run", study, "--storage", storage)
    assert ended.code == 1
    assert f"{trial.label} seed 0 ({trial.run_key}): diverged. {said['error']}" in ended.err
    assert "pgd_at λ=0" in ended.text
    assert "all 4 trials are finished" not in ended.text


def test_an_unknown_study_gets_the_nearest_name(oat: Oat) -> None:
    for command in ("plan", "run", "status", "compare", "runs", "sync", "validate", "ui"):
        _is_a_sentence(oat(command, "quikstart"), "'quikstart'", "did you mean 'quickstart'")


def test_a_faulty_override_is_refused_by_every_command(
    oat: Oat, study: Path, tmp_path: Path
) -> None:
    _is_a_sentence(oat("validate", study, "--set", "attack.eps=8"), "`eps`", "8/255")
    for command in ("plan", "run", "status", "compare", "sync"):
        said = oat(command, study, "--storage", tmp_path / "s", "--set", "attack.eps=8")
        _is_a_sentence(said, "`eps`", "8/255")
    assert not (tmp_path / "s").exists()


def test_missing_data_stop_a_run_before_it_starts(oat: Oat, study: Path, tmp_path: Path) -> None:
    said = oat(
        "run", study, "--storage", tmp_path / "s",
        "--set", "data.name=fashion_mnist", "--set", f"data.root={tmp_path}/none",
    )  # fmt: skip
    assert said.code == 2
    assert said.out == b""
    assert f"`data.root` '{tmp_path}/none'" in said.err
    assert "`data.download: true`" in said.err
    assert not list(tmp_path.glob("s/tiny/trials"))


def test_a_tracking_server_that_is_not_there_stops_a_run_before_it_starts(
    oat: Oat, study: Path, tmp_path: Path
) -> None:
    uri = "http://127.0.0.1:1"
    said = oat("run", study, "--storage", tmp_path / "s", "--tracking-uri", uri)
    assert said.code == 2
    assert f"'{uri}' does not answer" in said.err
    assert not list(tmp_path.glob("s/tiny/trials"))


@pytest.mark.mlflow
def test_a_tracking_server_is_taken_from_the_environment(
    oat: Oat, study: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    for command in ("sync", "runs"):
        _is_a_sentence(oat(command, study, "--storage", finished), "127.0.0.1:1")


@pytest.mark.mlflow
@pytest.mark.parametrize("command", ["run", "sync", "runs"])
def test_storage_that_cannot_be_written_is_refused(
    command: str, oat: Oat, study: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / "below"
    _is_a_sentence(oat(command, study, "--storage", place), "`--storage`", str(place))


@pytest.mark.parametrize("command", ["plan", "status"])
def test_storage_below_a_regular_file_is_empty_or_refused(
    command: str, oat: Oat, study: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    said = oat(command, study, "--storage", tmp_path / "file" / "below")
    assert said.code in {0, 2}
    assert "Traceback" not in said.err


@pytest.mark.parametrize("command", ["plan", "run", "status", "compare"])
def test_storage_of_an_unknown_kind_is_refused(command: str, oat: Oat, study: Path) -> None:
    _is_a_sentence(oat(command, study, "--storage", "gopher://x/y"), "`--storage`", "gopher://x/y")


def test_ctrl_c_says_how_to_go_on(oat: Oat, study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(studies, "plan", interrupted)
    said = oat("plan", study)
    assert said.code == 130
    assert "Stopped. The same command goes on from the last checkpoints." in said.err
    assert "Traceback" not in said.err


def test_help_names_every_command(oat: Oat) -> None:
    said = oat("--help")
    assert said.code == 0
    for command in (
        "init",
        "schema",
        "validate",
        "plan",
        "run",
        "status",
        "compare",
        "runs",
        "sync",
        "ui",
    ):
        assert command in said.text
        assert oat(command, "--help").code == 0
    assert oat("no-such-command").code == 2
    assert oat("plan").code == 2
    assert oat("runs", "quickstart", "--format", "xml").code == 2


@pytest.mark.slow
def test_the_installed_command_keeps_results_and_messages_apart(
    study: Path, finished: Path, tmp_path: Path
) -> None:
    good = subprocess.run(
        [OAT, "plan", study, "--storage", finished, "--json"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (good.returncode, good.stderr) == (0, "")
    assert [trial["state"] for trial in json.loads(good.stdout)["trials"]] == ["done"] * 4
    bad = subprocess.run(
        [OAT, "run", "quikstart"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.startswith("Unknown preset 'quikstart'; did you mean 'quickstart'?")
    assert bad.stderr.count("\n") == 1
    assert not (tmp_path / "outputs").exists()


def _tunable(tunable: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "tunable.yaml"
    path.write_text(yaml.safe_dump(tunable))
    return path


def test_a_study_that_does_not_say_how_it_is_tuned_is_refused(
    oat: Oat, study: Path, tmp_path: Path
) -> None:
    said = oat("tune", study, "--storage", tmp_path)
    assert said.code == 2
    assert said.err.startswith("`tune` is missing")
    assert list(tmp_path.iterdir()) == [], "nothing was started"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("tune.budget=0.0001s", "`tune.budget` 0.0001s is too small: one trial of oat"),
        ("tune.budget=soon", "`budget` must be a time of training above 0"),
        ("tune.space.train.lr.low=0", "a log scale needs `low` above 0, got 0"),
        ("tune.space.oats={lr: {low: 1, high: 2}}", "`tune.space.oats`: the study has no method"),
    ],
)
def test_what_cannot_be_tuned_is_one_sentence_and_starts_nothing(
    oat: Oat, tunable: dict[str, Any], tmp_path: Path, override: str, words: str
) -> None:
    path = _tunable(tunable, tmp_path)
    said = oat("tune", path, "--storage", tmp_path / "out", "--set", override)
    assert said.code == 2
    assert words in said.err
    assert "Traceback" not in said.err
    assert not (tmp_path / "out" / "optuna.db").exists()


@pytest.mark.parametrize("url", ["postgresql+psycopg2://oat:secret@127.0.0.1:1/optuna", "nothing"])
def test_an_optuna_storage_that_does_not_answer_is_named_without_its_password(
    oat: Oat, tunable: dict[str, Any], tmp_path: Path, url: str
) -> None:
    path = _tunable(tunable, tmp_path)
    said = oat("tune", path, "--storage", tmp_path / "out", "--optuna-storage", url)
    assert said.code == 2
    assert "Optuna's storage" in said.err
    assert "secret" not in said.err
    assert "Traceback" not in said.err


def test_comparing_a_study_whose_record_of_tuning_is_damaged_says_so(
    oat: Oat, study: Path, storage: Path
) -> None:
    (storage / "tiny" / "tuning.json").write_text("{}")
    said = oat("compare", study, "--storage", storage)
    assert said.code == 0
    assert "What tuning gained is not known" in said.text
