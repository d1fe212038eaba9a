from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import studies
from studies.study_file.loading import load_study, presets
from studies.study_file.plain_yaml import read_yaml
from tests.studies.cli.shell import Oat, is_a_sentence
from tests.studies.marks import NOLOAD

pytestmark = NOLOAD


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
        mine = load_study(preset, [f"name=my-{preset}"])
        assert load_study(path) == mine
        assert oat("validate", path).text.startswith(f"Study my-{preset} is valid: ")
        # a file of one's own is brought up to date in the same way
        assert oat("init", "--from", path).out == said.out


def test_init_from_an_unknown_preset_writes_nothing(oat: Oat, nothing_runs: Path) -> None:
    is_a_sentence(oat("init", "--from", "svnh"), "preset 'svnh'", "did you mean 'svhn'?", ".yaml")


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
    assert said.text.endswith(f", {points} points to evaluate.\n")
    assert said.text.count("\n") == 1
    for name, block in Counter(t.job["config"]["method"]["name"] for t in trials).items():
        assert f"{block // seeds} {name}" in said.text


def test_validate_takes_overrides(oat: Oat, nothing_runs: Path) -> None:
    more = ("--set", "seeds=[0, 1]", "--set", "methods.1.lam=1")
    assert oat("validate", "quickstart", *more).text == (
        "Study quickstart is valid: 8 trials (1 oat, 1 pgd_at, 2 trades; 2 seeds), "
        "18 points to evaluate.\n"
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
        (b"", ("my.yaml", "mapping", "got nothing; `oat init`")),
        (b"# nothing but a comment\n", ("mapping", "got nothing")),
        (b"- a\n", ("my.yaml", "mapping", "got a list")),
        (b"name: [", ("not valid YAML", "line 1")),
        (b"name: a\n\tdata: b\n", ("not valid YAML", "line 2")),
        (b"name: a\nseeds: [0]\nname: b\n", ("'name'", "line 1", "line 3")),
        ("name: a\n".encode("utf-16"), ("my.yaml", "UTF-8", "line 1")),
        ("name: a\n".encode("utf-16-le"), ("line 1", "U+0000", "UTF-8")),
        ("name: a\ndata: é\n".encode("latin-1"), ("line 2", "save it as UTF-8")),
        (b"#" * 1_000_001, ("my.yaml", "at most 1,000,000 bytes")),
        (b"a: " + b"[" * 2000, ("nested too deeply",)),
        (b"name: a\n---\nname: b\n", ("not valid YAML", "single document")),
    ],
)
def test_validate_refuses_what_is_no_study_file(
    content: bytes, words: tuple[str, ...], oat: Oat, tmp_path: Path, nothing_runs: Path
) -> None:
    path = tmp_path / "my.yaml"
    path.write_bytes(content)
    is_a_sentence(oat("validate", path), *words)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_a_file_may_end_its_lines_as_it_likes(
    encoding: str, newline: str, tmp_path: Path, nothing_runs: Path
) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(studies.init(), encoding=encoding, newline=newline)
    assert load_study(path) == load_study(read_yaml(studies.init()))


def test_a_file_without_end_is_refused(oat: Oat, nothing_runs: Path) -> None:
    is_a_sentence(oat("validate", "/dev/zero"), "'/dev/zero'", "at most 1,000,000 bytes")


def test_an_override_that_is_nested_too_deeply_is_refused(oat: Oat, nothing_runs: Path) -> None:
    path = ".".join(["data"] + ["a"] * 5000)
    is_a_sentence(oat("validate", "quickstart", "--set", f"{path}=1"), "nested too deeply")


def test_validate_refuses_a_folder_and_what_is_not_there(
    oat: Oat, tmp_path: Path, nothing_runs: Path
) -> None:
    (tmp_path / "folder.yaml").mkdir()
    for path in (tmp_path / "folder.yaml", tmp_path, tmp_path / "none.yaml"):
        is_a_sentence(oat("validate", path), str(path), "cannot be read")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.lr=1\nname: x", ("needs a YAML value, got '1\\nname: x'",)),
        ("name=quick\\nstart", ("not starting with a mark",)),
        ('name="quick\\nstart"', (r"got 'quick\nstart'",)),
        ("name=\udcff", (r"got '\udcff'",)),
        (f"name={'x' * 5000}", ("x" * 60, "…'")),
        ("train={lr: 1,0}", ("`train` has the key 0", "write 1.5 for 1,5")),
        ("train.epochs=1e300", ("`train.epochs` must be a valid integer, got 1e+300",)),
        ("train..epochs=3", ("has a `.` too many",)),
        (".train.epochs=3", ("has a `.` too many",)),
    ],
)
def test_what_the_user_wrote_is_shown_in_one_short_line(
    override: str, words: tuple[str, ...], oat: Oat, nothing_runs: Path
) -> None:
    said = oat("validate", "quickstart", "--set", override)
    is_a_sentence(said, *words)
    assert len(said.err) < 500


def test_a_file_that_is_no_mapping_is_not_shown_as_a_whole(oat: Oat, tmp_path: Path) -> None:
    path = tmp_path / "a\nb.yaml"
    path.write_text("name; quickstart\n" * 5000)
    said = oat("validate", path)
    is_a_sentence(said, "must be a mapping of keys to values", r"a\nb.yaml", "…'")
    assert len(said.err) < 500
