"""A shell completes what the commands take."""

from collections.abc import Callable
from pathlib import Path

import pytest

import studies
from studies.results.points import COLUMNS
from studies.study_file.loading import load_study, presets
from tests.studies.cli.shell import Oat
from tests.studies.marks import NOLOAD

pytestmark = NOLOAD
Complete = Callable[[str], list[str]]


@pytest.fixture
def complete(oat: Oat, monkeypatch: pytest.MonkeyPatch) -> Complete:
    """Return what bash offers for the last word of a command line."""

    def offered(line: str) -> list[str]:
        monkeypatch.setenv("_OAT_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(line.count(" ")))
        said = oat()
        assert (said.code, said.err) == (0, "")
        return said.text.split()

    return offered


def test_commands_and_presets_are_completed(
    complete: Complete, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").touch()
    assert complete("oat pre") == ["presets", "preflight"]
    assert complete("oat plan ") == [*presets(), "mine.yaml"]
    assert complete("oat compare quickstart svhn-") == ["svhn-fast"]
    assert complete("oat init --from quick") == ["quickstart"]


def test_study_files_and_folders_are_completed(complete: Complete, tmp_path: Path) -> None:
    for name in ("mine.yaml", "mine.yml", "mine.txt", "other.yaml", ".hidden.yaml"):
        (tmp_path / name).touch()
    (tmp_path / "minor").mkdir()
    found = [f"{tmp_path}/{name}" for name in ("minor/", "mine.yaml", "mine.yml")]
    assert complete(f"oat plan {tmp_path}/mi") == found
    assert complete(f"oat plan {tmp_path}/none/") == []


def test_attacks_are_those_of_the_study(complete: Complete) -> None:
    assert complete("oat compare quickstart --attack ") == ["pgd20"]
    study = load_study("cifar10")
    labels = [study.label_of(attack) for attack in study.attacks()]
    assert complete("oat compare cifar10 --attack ") == labels
    assert complete("oat compare no-such-study --attack ") == list(studies.attacks())


def test_methods_are_those_of_the_study(complete: Complete) -> None:
    assert complete("oat export quickstart ") == ["oat", "pgd_at", "trades"]
    assert complete("oat calibrate quickstart tr") == ["trades"]
    assert complete("oat calibrate no-such-study tr") == []


def test_the_last_of_several_columns_is_completed(complete: Complete) -> None:
    assert complete("oat points quickstart --columns ") == list(COLUMNS)
    assert complete("oat runs quickstart --columns lam,sa,sa_l") == ["lam,sa,sa_low"]
    assert "sa,sa" not in complete("oat runs quickstart --columns sa,")


def test_keys_and_names_of_a_setting_are_completed(complete: Complete) -> None:
    assert complete("oat run quickstart --set train.ep") == ["train.epochs", "train.eps_warmup"]
    assert complete("oat run quickstart --set methods.0.name=o") == [
        "methods.0.name=oat",
        "methods.0.name=oats",
    ]
    methods = [f"methods.1.name={name}" for name in studies.methods()]
    assert complete("oat run quickstart --set methods.1.name=") == methods
    assert complete("oat run quickstart --set evaluate.attacks.0.name=fg") == [
        "evaluate.attacks.0.name=fgsm"
    ]
    assert complete("oat run quickstart --set train.schedule=co") == [
        "train.schedule=cosine",
        "train.schedule=constant",
    ]
    assert complete("oat run no-such-study --set train.") == []
    assert complete("oat run quickstart --set none=") == []


@pytest.mark.parametrize("what", ["presets", "methods", "attacks"])
def test_what_there_is_is_listed_with_a_line_each(what: str, oat: Oat) -> None:
    said = oat(what)
    assert (said.code, said.err) == (0, "")
    known = getattr(studies, what)()
    assert [line.split(maxsplit=1) for line in said.text.splitlines()] == [
        [name, line] for name, line in known.items()
    ]
    assert all(line.endswith(".") and "*" not in line for line in known.values())
