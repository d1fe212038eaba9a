"""`oat calibrate`, `oat demo`, `oat export` and their page, whose every block is run here."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from studies.study_file.loading import load_study
from tests.studies.cli.shell import Oat, is_a_sentence
from tests.studies.conftest import TrainAll

PAGE = (Path(__file__).parents[3] / "docs" / "deploy.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = re.findall(r"^oat (.+?)(?:\s+#.*)?$", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, train_all: TrainAll) -> Path:
    """A folder with a finished study that is the quickstart, but for its length."""
    study = load_study("quickstart").dump()
    study["train"] |= {"epochs": 1}
    study["data"]["train_images"] = 128
    study["evaluate"] |= {"masking_images": 0, "images": 50, "held_out_images": 120}
    study["evaluate"]["attacks"] = [{"name": "pgd", "steps": 1}]
    folder: Path = tmp_path_factory.mktemp("deploying")
    path = folder / "quickstart.yaml"
    path.write_text(yaml.safe_dump(study))
    train_all(load_study(path), folder / "outputs")
    return folder


def _of_the_file(words: str) -> str:
    """Name the short study where the page names the preset."""
    return re.sub(r'(["\s])quickstart(["\s])', r"\1quickstart.yaml\2", f" {words} ").strip()


def test_the_page_has_blocks_and_commands() -> None:
    assert len(BLOCKS) == 5
    assert len(COMMANDS) == 8


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_every_block_of_the_page_runs(block: str, home: Path) -> None:
    warnings = ["-W", "ignore"]
    ended = subprocess.run(
        [sys.executable, *warnings, "-c", _of_the_file(block)],
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("command", [c for c in COMMANDS if "mlflow" not in c and c[:4] != "demo"])
def test_every_command_of_the_page_runs(
    command: str, home: Path, oat: Oat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    said = oat(*shlex.split(_of_the_file(command)))
    assert said.code in {0, 1}, said.err  # 1: nothing holds the constraint
    assert said.err == ""
    if command.startswith("export"):
        assert said.code == 0
        written = said.text.split()[0]
        assert (home / written).stat().st_size > 0
        assert json.loads((home / f"{written}.json").read_text())["study"] == "quickstart"


def test_the_demo_of_the_page_prints_its_address_and_ends_quietly(home: Path) -> None:
    (command,) = (c for c in COMMANDS if c.startswith("demo"))
    process = subprocess.Popen(
        [Path(sys.executable).with_name("oat"), *shlex.split(_of_the_file(command)), "--port", "0"],
        cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
        with urllib.request.urlopen(address) as answer:
            assert b"quickstart" in answer.read()
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=1000) == ("", "")
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()


def test_a_calibration_is_told_in_words_and_as_json(
    home: Path, oat: Oat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    said = oat("calibrate", "quickstart.yaml", "--min-sa", 0)
    assert said.code == 0
    assert "seed 0: run it at λ=" in said.text
    assert re.search(r"On 50 test images it has SA \d+\.\d % \[.+\] and RA", said.text)
    assert "test images confirm that SA is at least 0.0 %" in said.text
    record = json.loads(oat("calibrate", "quickstart.yaml", "--min-sa", 0, "--json").text)
    assert record["met"] is True
    never = oat("calibrate", "quickstart.yaml", "--min-sa", 1, "--min-ra", 1)
    assert never.code == 1
    assert "no operating point holds every constraint. The nearest is λ=" in never.text


FAULTS: dict[str, tuple[tuple[Any, ...], str]] = {
    "percent": (("calibrate", "--min-sa", 90), "write 0.9 for 90 %"),
    "model": (("calibrate", "pgd_at"), "name one of 'pgd_at λ=0'"),
    "no such model": (("export", "mart", "--to", "pt2"), "has no model 'mart'; it has oat"),
    "target": (("export", "--to", "tflite"), "`to` must be one of safetensors, pt2, onnx, mlflow"),
    "λ": (("export", "--to", "pt2", "--at-lam", 0.25), "knows λ = 0, 0.1, 0.2, 0.3, 0.4, 1 only"),
    "λ of a retrained model": (
        ("export", "pgd_at", "--lam", 1, "--at-lam", 1, "--to", "pt2"),
        "has no λ to set",
    ),
    "MLflow": (("export", "--to", "mlflow"), "There are no results of study 'quickstart'"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_bad_input_is_one_sentence_and_writes_nothing(
    case: str, home: Path, oat: Oat, monkeypatch: pytest.MonkeyPatch
) -> None:
    (command, *rest), words = FAULTS[case]
    monkeypatch.chdir(home)
    before = sorted(home.iterdir())
    is_a_sentence(oat(command, "quickstart.yaml", *rest), words)
    assert sorted(home.iterdir()) == before
