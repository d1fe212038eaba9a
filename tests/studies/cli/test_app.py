import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import studies
from studies.storage.sealed import seal
from studies.study_file.loading import presets
from tests.oat.data.files import folder_of
from tests.studies.cli.shell import Oat, is_a_sentence
from tests.studies.marks import NOLOAD

pytestmark = NOLOAD

OAT = Path(sys.executable).with_name("oat")


def test_plan_lists_every_trial_and_what_is_left(oat: Oat, study: Path, finished: Path) -> None:
    said = oat("plan", study, "--storage", finished, "--verbose")
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


def test_plan_and_status_say_who_waits_for_whom(
    oat: Oat, tiny: dict[str, Any], tmp_path: Path
) -> None:
    start = {"from": "pgd_at λ=1", "epochs": 1}
    pair = {"name": "mix", "of": ["pgd_at λ=1", "pgd_at start=pgd_at:λ=1 epochs=1 λ=0.5"]}
    tiny["methods"] = [pair, {"name": "pgd_at", "lam": 0.5, "start": start}, {"name": "pgd_at"}]
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(tiny, allow_unicode=True))
    reason = "It waits for pgd_at λ=1 seed 0, which is not trained yet."
    said = oat("plan", study, "--storage", tmp_path)
    assert (said.code, said.err) == (0, "")
    assert "…" not in said.text
    label = "pgd_at start=pgd_at:λ=1 epochs=1 λ=0.5"
    assert f"{label} seed 0: {reason}" in said.text
    assert "3 to run" in said.text
    said = oat("plan", study, "--storage", tmp_path, "--json")
    first, second, third = said.json["trials"]
    assert first["sources"] == {"pgd_at λ=1": third["run_key"], label: second["run_key"]}
    assert [trial["state"] for trial in said.json["trials"]] == ["waiting", "waiting", "missing"]
    said = oat("status", study, "--storage", tmp_path, "--json")
    assert [row["reason"] for row in said.json] == [reason, reason, None]
    assert [row["epochs"] for row in said.json] == [0, 1, 1]


@pytest.mark.parametrize("preset", presets())
def test_every_preset_is_planned_without_data_or_gpu(
    preset: str, oat: Oat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = oat("plan", preset)
    assert (said.code, said.err) == (0, "")
    trials = studies.plan(preset, storage=tmp_path / "outputs").trials
    assert f"{len(trials)} to run" in said.text
    assert "Training and evaluation together take" in said.text
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
    is_a_sentence(said, "`resources.gpu` is 1", "`--address`")
    said = oat("plan", study, "--storage", tmp_path, "--address", "auto")
    is_a_sentence(said, "add `--probe`")


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
    quiet = oat("run", study, "--storage", storage, "--quiet")
    assert (quiet.code, quiet.err, quiet.text) == (0, "", said.text)


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
        is_a_sentence(oat(command, "quikstart"), "'quikstart'", "did you mean 'quickstart'")


def test_a_faulty_override_is_refused_by_every_command(
    oat: Oat, study: Path, tmp_path: Path
) -> None:
    is_a_sentence(oat("validate", study, "--set", "attack.eps=8"), "`eps`", "8/255")
    for command in ("plan", "run", "status", "compare", "sync"):
        said = oat(command, study, "--storage", tmp_path / "s", "--set", "attack.eps=8")
        is_a_sentence(said, "`eps`", "8/255")
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


def test_a_broken_image_stops_a_run_before_it_starts(oat: Oat, study: Path, tmp_path: Path) -> None:
    broken = folder_of(tmp_path / "data") / "train" / "dog" / "3.png"
    broken.write_bytes(broken.read_bytes()[:50])
    for command in ("run", "tune"):
        said = oat(
            command, study, "--storage", tmp_path / "s", "--set", "tune.budget=1h",
            "--set", f"data={{name: imagefolder, root: {tmp_path}/data}}",
        )  # fmt: skip
        assert (said.code, said.out) == (2, b"")
        *_, last = said.err.splitlines()
        assert last.startswith(f"'{broken}' cannot be read as an image")
        assert last.endswith("replace or remove it.")
        assert "Traceback" not in said.err
    assert not list(tmp_path.glob("s/tiny/trials"))


@pytest.mark.ray
@pytest.mark.slow
def test_preflight_tells_of_images_whatever_their_classes_are_called(
    oat: Oat, study: Path, tmp_path: Path
) -> None:
    folder_of(tmp_path / "data", ("[red]", os.fsdecode(b"caf\xe9")))
    (tmp_path / "data" / "train" / "[red]" / "a.heic").write_bytes(b"x")
    said = oat(
        "preflight", study, "--storage", tmp_path / "s",
        "--set", f"data={{name: imagefolder, root: {tmp_path}/data}}",
        "--set", "evaluate.held_out_images=0",
    )  # fmt: skip
    assert said.code == 0, said.err
    text = " ".join(said.text.replace("│", " ").split())
    assert "[red] " in text
    assert "1 .heic" in text
    assert text.count("warning") == 1


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
        is_a_sentence(oat(command, study, "--storage", finished), "127.0.0.1:1")


@pytest.mark.mlflow
@pytest.mark.parametrize("command", ["run", "sync", "runs"])
def test_storage_that_cannot_be_written_is_refused(
    command: str, oat: Oat, study: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / "below"
    is_a_sentence(oat(command, study, "--storage", place), "`--storage`", str(place))


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
    is_a_sentence(oat(command, study, "--storage", "gopher://x/y"), "`--storage`", "gopher://x/y")


def test_ctrl_c_says_how_to_go_on(oat: Oat, study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for command in ("run", "tune", "plan"):
        monkeypatch.setattr(studies, command, interrupted)
        said = oat(command, study)
        assert said.code == 130
        goes_on = (
            "" if command == "plan" else " The same command goes on from the last checkpoints."
        )
        assert said.err.strip() == f"Stopped.{goes_on}"
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
        ("tune.space.ots={lr: {low: 1, high: 2}}", "`tune.space`: Unknown method 'ots'; did you"),
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
