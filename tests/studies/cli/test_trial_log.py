from pathlib import Path
from typing import Any

import pytest
import yaml

import studies
from studies.cli.trial_log import LAST_EPOCHS
from studies.planning.expand import make_plan
from studies.storage.local import LocalFolder
from studies.storage.sealed import write_lines
from studies.study_file.loading import load_study
from studies.trial.records import read_epochs
from studies.trial.run import run_trial
from tests.studies.cli.shell import Oat, is_a_sentence


def test_a_finished_trial_is_told_by_its_key_its_beginning_and_its_label(
    oat: Oat, study: Path, storage: Path
) -> None:
    trial = studies.plan(study, storage=storage).trials[1]
    (epoch,) = read_epochs(LocalFolder(storage / "tiny" / "trials" / trial.run_key))
    named = [trial.run_key, trial.run_key[:6], trial.label, f"{trial.label} seed {trial.seed}"]
    said = [oat("logs", study, "--storage", storage, "--trial", name) for name in named]
    assert all((one.code, one.err) == (0, "") for one in said)
    assert {one.text for one in said} == {said[0].text}
    assert f"{trial.label} seed 0 ({trial.run_key}): done." in said[0].text
    assert str(storage / "tiny" / "trials" / trial.run_key) in said[0].text
    assert f"{epoch['train_loss']:.4f}" in said[0].text
    assert "Traceback" not in said[0].text


def test_a_trial_that_failed_is_told_with_its_traceback(
    oat: Oat, study: Path, storage: Path
) -> None:
    more = ["--set", "train.epochs=2"]
    plan = studies.plan(study, storage=storage, overrides=more[1:])
    folder = LocalFolder(storage / "tiny")
    place = folder.sub(f"trials/{plan.trials[1].run_key}")
    command = ["logs", study, "--storage", storage, "--trial", plan.trials[1].label, *more]
    before = oat(*command)
    assert (before.code, before.err) == (0, "")
    assert "missing." in before.text
    assert "No epoch has ended yet." in before.text

    def broken(_: object) -> None:
        raise RuntimeError("it fell over")

    assert run_trial(plan.trials[1].job, place, broken)["status"] == "failed"
    said = oat(*command)
    assert (said.code, said.err) == (0, "")
    for words in ("failed.", "(error): RuntimeError: it fell over", "Traceback", "in broken"):
        assert words in said.text
    place.write("failure.json", b"{")
    place.write("checkpoint.error", b"checkpoint: it is cut off")
    said = oat(*command)
    assert "failure.json is damaged" in said.text
    assert "it is cut off" in said.text


def test_of_many_epochs_the_last_are_told(oat: Oat, study: Path, storage: Path) -> None:
    trial = studies.plan(study, storage=storage).trials[0]
    place = LocalFolder(storage / "tiny" / "trials" / trial.run_key)
    (epoch,) = read_epochs(place)
    write_lines(place, "epochs.jsonl", [{**epoch, "epoch": i} for i in range(1, 31)])
    said = oat("logs", study, "--storage", storage, "--trial", trial.run_key).text
    assert f"{30 - LAST_EPOCHS} epochs before these" in said
    assert len(said.splitlines()) < LAST_EPOCHS + 12


def test_a_trial_that_is_not_in_the_plan_is_told_as_well(
    oat: Oat, study: Path, storage: Path
) -> None:
    key = studies.plan(study, storage=storage).trials[0].run_key
    other = ("--set", "methods=[{name: trades, beta: [1]}]")
    said = oat("logs", study, "--storage", storage, "--trial", key[:8], *other)
    assert f"({key}): not in the plan." in said.text


def test_an_unknown_and_an_ambiguous_trial_are_refused(
    oat: Oat, tiny: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "two.yaml"
    file.write_text(yaml.safe_dump({**tiny, "seeds": [0, 1]}))
    command = ["logs", file, "--storage", tmp_path, "--trial"]
    is_a_sentence(oat(*command, "trade β=1"), "`--trial`", "did you mean 'trades β=1'")
    is_a_sentence(oat(*command, ""), "`--trial`")
    twice = oat(*command, "trades β=1")
    is_a_sentence(twice, "`--trial`", "trades β=1 seed 0", "trades β=1 seed 1")
    assert oat(*command, "trades β=1 seed 1").code == 0
    folder = LocalFolder(tmp_path / "tiny")
    keys = [trial.run_key for trial in make_plan(load_study(file), folder).trials]
    folder.write(f"trials/{keys[0][:6]}000000/config.json", b"{}")
    is_a_sentence(oat(*command, keys[0][:6]), "`--trial`", keys[0], "not in the plan")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], ("`--job-server`", "`--trial`")),
        (["--trial", "x", "--job-server", "http://127.0.0.1:1"], ("`--trial`", "`--job-server`")),
        (["--trial", "x", "--follow"], ("`--trial`", "`--follow`")),
    ],
)
def test_a_log_is_of_a_job_or_of_a_trial(
    options: list[str], words: tuple[str, ...], oat: Oat, study: Path
) -> None:
    is_a_sentence(oat("logs", study, *options), *words)
