"""What happens to a command's streams, or to it, never ends in a traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from studies.study_file.loading import load_study

OAT = Path(sys.executable).with_name("oat")
ASCII = {"PYTHONIOENCODING": "ascii"}
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
FULL = Path("/dev/full")


def _shell(script: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run what stands in a shell, `oat` being ours."""
    path = f"{OAT.parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "environment"),
    [("plan", ASCII), ("init", C_LOCALE), ("schema", ASCII), ("power", C_LOCALE)],
)
def test_results_are_utf_8_whatever_the_locale(
    command: str, environment: dict[str, str], tmp_path: Path
) -> None:
    study = "" if command in {"init", "schema"} else "quickstart"
    ended = _shell(f"cd {tmp_path}; oat {command} {study} > out", **environment)
    assert (ended.returncode, ended.stderr) == (0, b"")
    text = (tmp_path / "out").read_text(encoding="utf-8")
    assert ("±" if command == "power" else "λ") in text
    if command == "init":
        (tmp_path / "my.yaml").write_text(text, encoding="utf-8")
        assert load_study(tmp_path / "my.yaml").name == "my-quickstart"
    if command == "schema":
        json.loads(text)


@pytest.mark.slow
def test_an_error_with_a_sign_beyond_ascii_is_told() -> None:
    ended = _shell("oat validate quickstart --set train.batch_size=3", **C_LOCALE)
    assert ended.returncode == 2
    assert "leaves oat 1 row with λ ≠ 0" in ended.stderr.decode()


@pytest.mark.slow
@pytest.mark.parametrize("reader", ["head -1", "true"])
@pytest.mark.parametrize("command", ["validate quickstart", "schema"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_leaves_no_traceback(
    command: str, reader: str, unbuffered: str
) -> None:
    ended = _shell(f"oat {command} | {reader}", PYTHONUNBUFFERED=unbuffered)
    assert ended.stderr == b""


@pytest.mark.slow
@pytest.mark.skipif(not FULL.exists(), reason="this system has no device that is always full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_results_that_cannot_be_written_are_one_sentence(unbuffered: str) -> None:
    ended = _shell(f"oat plan quickstart > {FULL}", PYTHONUNBUFFERED=unbuffered)
    assert ended.returncode == 2
    said = ended.stderr.decode()
    assert said == "Standard output cannot be written: No space left on device.\n"


@pytest.mark.slow
def test_a_closed_standard_output_is_no_error() -> None:
    ended = _shell("oat validate quickstart >&-")
    assert (ended.returncode, ended.stderr) == (0, b"")


CTRL_C_AT = """
import signal, sys

class CtrlC:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, CtrlC())
sys.argv = ["oat", *{words!r}]
from studies.cli.entry import main
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "module", "said"),
    [
        (["plan", "quickstart"], "studies.cli.app", ""),
        (["power", "quickstart"], "numpy", ""),
        (["plan", "quickstart"], "studies.planning.estimates", "Stopped.\n"),
        (["init"], "studies.study_file.commented", "Stopped.\n"),
    ],
)
def test_ctrl_c_leaves_no_traceback_wherever_it_comes(
    words: list[str], module: str, said: str
) -> None:
    program = CTRL_C_AT.format(module=module, words=words)
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (130, "")
    assert ended.stderr.strip() in {said.strip(), "Stopped."}
