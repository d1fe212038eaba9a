"""A Ray of our own on a machine that is too busy for Ray's own patience of 30 seconds."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray

from studies.cluster import connection
from studies.cluster.connection import STARTS, connect
from studies.errors import StudyError

SAID = (
    "The current node timed out during startup. This could happen because some of the raylet "
    "failed to startup or the GCS has become overloaded."
)
"""Ray 2.60's own words; `test_the_words_are_rays_own` finds them in its source."""


def _slow(times: int, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Let Ray be too slow so many times; return what it was asked for each time."""
    asked: list[dict[str, Any]] = []

    def init(**how: Any) -> None:
        asked.append(how)
        if len(asked) <= times:
            raise Exception(SAID)

    monkeypatch.setattr(connection.ray, "init", init)
    return asked


def test_a_start_that_takes_too_long_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _slow(STARTS - 1, monkeypatch)
    assert connect(None)
    assert len(asked) == STARTS
    assert all(how == asked[0] for how in asked)


def test_a_machine_that_is_too_busy_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _slow(100, monkeypatch)
    with pytest.raises(StudyError, match="Ray did not start on this machine in 3 attempts"):
        connect(None)
    assert len(asked) == STARTS


def test_an_error_of_another_kind_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**how: Any) -> None:
        raise KeyError("odd")

    monkeypatch.setattr(connection.ray, "init", init)
    with pytest.raises(KeyError, match="odd"):
        connect(None)


@pytest.mark.parametrize("how", ["long", "a file", "closed"])
def test_a_temporary_folder_that_ray_cannot_use_is_one_sentence(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / ("x" * 100 if how == "long" else "place")
    if how == "a file":
        place.touch()
    if how == "closed":
        if os.geteuid() == 0:
            pytest.skip("no folder is closed to root")
        place.mkdir(mode=0o500)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(place))
    with pytest.raises(StudyError) as caught:
        connect(None)
    said = str(caught.value)
    assert said.startswith(f"Ray cannot use its temporary folder '{place}/ray' (")
    assert "; set RAY_TMPDIR to a folder of your own with a short path" in said
    assert "session_" not in said
    assert not ray.is_initialized()


def test_uv_does_not_pack_the_working_folder() -> None:
    program = """
import studies.cluster
from ray._private.ray_constants import RAY_ENABLE_UV_RUN_RUNTIME_ENV
assert RAY_ENABLE_UV_RUN_RUNTIME_ENV is False
"""
    environment = {**os.environ}
    environment.pop("RAY_ENABLE_UV_RUN_RUNTIME_ENV")  # which this process has set
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("place", ["plain", "a blank and 'quotes'"])
def test_a_ray_of_our_own_starts_the_workers_that_are_asked_for_and_no_other(
    place: str, tmp_path: Path
) -> None:
    # Tune gives trials an environment, and with one Ray starts Python by a shell
    (tmp_path / place).symlink_to(sys.prefix)
    python = tmp_path / place / "bin" / "python"
    program = """
import os, subprocess
import ray
from studies.cluster.connection import connect
class Actor:
    def raylet(self):
        return os.getppid()
assert connect(None)
actor = ray.remote(num_cpus=0)(Actor).options(runtime_env={"env_vars": {"AS": "Tune's"}}).remote()
raylet = str(ray.get(actor.raylet.remote(), timeout=900))
print(subprocess.check_output(["ps", "--ppid", raylet, "-o", "args="], text=True))
"""
    found = subprocess.run([python, "-c", program], capture_output=True, text=True)
    assert "ray::Actor" in found.stdout, found.stderr
    assert "ray::IDLE" not in found.stdout


def test_the_words_are_rays_own() -> None:
    source = (Path(ray.__file__).parent / "_private" / "node.py").read_text(encoding="utf-8")
    assert connection.TOO_SLOW in source
