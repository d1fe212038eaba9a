"""What the command prints of names, errors and small numbers is what they are."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from studies.planning.expand import make_plan
from studies.storage.local import LocalFolder
from studies.storage.sealed import write_sealed
from studies.study_file.loading import load_study
from tests.studies.cli.shell import Oat
from tests.studies.conftest import MakeUp


@pytest.mark.parametrize("said", ["[/mnt/data]", "[enforce fail]", "[bold]", "[/]"])
def test_brackets_of_an_error_are_neither_markup_nor_lost(
    said: str, oat: Oat, tiny: dict[str, Any], tiny_file: Path, tmp_path: Path
) -> None:
    folder = LocalFolder(tmp_path / "tiny")
    first = make_plan(load_study(tiny), folder).trials[0]
    failure = {"kind": "data", "error": f"OSError: {said} x", "traceback": ""}
    write_sealed(folder.sub(f"trials/{first.run_key}"), "failure.json", failure)
    ended = oat("status", tiny_file, "--storage", tmp_path)
    assert ended.code == 0
    assert said.split()[0] in ended.text


def test_small_values_of_lam_are_not_rounded_to_0(
    oat: Oat, tiny: dict[str, Any], make_up: MakeUp, tmp_path: Path
) -> None:
    choices = [0, 1e-5, 1]
    methods = [{"name": "oat", "lambda_choices": choices}, {"name": "pgd_at", "lam": choices}]
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump({**tiny, "methods": methods}))
    make_up(load_study(path), tmp_path)
    for more in ((), ("--columns", "variant,lam,sa")):
        ended = oat("points", path, "--storage", tmp_path, *more)
        assert ended.code == 0
        assert [line.count(" 1e-05 ") for line in ended.text.splitlines()].count(1) == 2
