"""Commands on a study whose data have changed since its models were trained."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from oat.data import load
from studies.study_file.loading import load_study
from tests.studies.cli.shell import Oat, Said, is_a_sentence
from tests.studies.conftest import TINY, TUNE
from tests.studies.marks import NOLOAD
from tests.studies.pictures import CHANGES, draw, fingerprint_of

pytestmark = [NOLOAD, pytest.mark.usefixtures("_forget_data")]


@pytest.fixture
def study(root: Path, tmp_path: Path) -> Path:
    """A study of one dedicated model on images in folders, with a block that tunes it."""
    made: dict[str, Any] = {
        **TINY,
        "data": {"name": "imagefolder", "root": str(root)},
        "methods": [{"name": "pgd_at", "lam": 1}],
        "tune": TUNE,
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(made))
    return path


def _files(storage: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in storage.rglob("*") if path.is_file()}


MORE = "evaluate.attacks=[{name: pgd, steps: 1}, {name: fgsm}]"


def test_one_more_attack_on_changed_data_is_refused_and_nothing_starts(
    oat: Oat, study: Path, root: Path, tmp_path: Path, train_all: Callable[..., None]
) -> None:
    then, storage = fingerprint_of(root), tmp_path / "storage"
    train_all(load_study(study), storage)
    before = _files(storage)
    CHANGES["only the test images"](root)
    for override in (MORE, "seeds=[0, 1]"):  # one more attack; one more trial beside the old ones
        said = oat("run", study, "--storage", storage, "--set", override)
        announced, _, refusal = said.err.partition("\n")
        assert announced.startswith("Study tiny: ")
        words = ("pgd_at λ=1 seed 0", then, fingerprint_of(root), str(root), "`name`")
        is_a_sentence(Said(said.code, said.out, refusal), *words)
        assert _files(storage) == before
    draw(root)
    said = oat("plan", study, "--storage", storage, "--set", MORE)
    assert (said.code, said.text.count("evaluate")) == (0, 1)


def test_a_candidate_of_tuning_on_other_data_is_refused_though_no_plan_has_it(
    oat: Oat, study: Path, root: Path, tmp_path: Path, train_all: Callable[..., None]
) -> None:
    then, storage = fingerprint_of(root), tmp_path / "storage"
    train_all(load_study(study, ["train.lr=0.05"]), storage)
    before = _files(storage)
    CHANGES["only one class"](root)
    said = oat("tune", study, "--storage", storage)
    is_a_sentence(said, then, fingerprint_of(root), "put the old data back")
    assert _files(storage) == before


def test_two_studies_with_the_same_trials_on_other_data_are_not_compared_as_one(
    oat: Oat, study: Path, root: Path, tmp_path: Path, train_all: Callable[..., None]
) -> None:
    files, told = [], [fingerprint_of(root)]
    for name in ("ours", "theirs"):
        files.append(tmp_path / f"{name}.yaml")
        files[-1].write_text(yaml.safe_dump({**yaml.safe_load(study.read_text()), "name": name}))
        train_all(load_study(files[-1]), tmp_path)
        CHANGES["all images"](root)
        load.cache_clear()
    told.append(fingerprint_of(root))
    for options in ((), ("--force",)):
        said = oat("compare", *files, "--storage", tmp_path, *options)
        is_a_sentence(said, "in common", *told)


@pytest.mark.parametrize("command", [("calibrate",), ("export", "--to", "pt2")])
def test_a_model_is_not_calibrated_or_checked_on_other_data(
    command: tuple[str, ...],
    oat: Oat,
    study: Path,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    train_all: Callable[..., None],
) -> None:
    then, storage = fingerprint_of(root), tmp_path / "storage"
    train_all(load_study(study), storage)
    monkeypatch.chdir(tmp_path)
    before = _files(tmp_path)
    CHANGES["only the test images"](root)
    changed = _files(tmp_path)
    load.cache_clear()  # as a command of its own has nothing in it
    first, *rest = command
    said = oat(first, study, "pgd_at", *rest, "--storage", storage)
    is_a_sentence(said, "'pgd_at λ=1' seed 0", then, fingerprint_of(root), "put the old data back")
    assert _files(tmp_path) == changed != before
