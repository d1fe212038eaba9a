"""What the pages say exists, what they show works, and what is generated is up to date."""

import ast
import pydoc
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer.main
import yaml

import studies
from docs.generate import PAGES as PAGES_OF_THE_CODE
from studies.cli.app import app
from studies.study_file.loading import load_study, presets

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(
    page
    for page in [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]
    if "_build" not in page.relative_to(ROOT).parts
)
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")
COMMAND = re.compile(r"^(?:\.venv/bin/)?oat (.+?)(?:\s+#.*)?$", re.MULTILINE)


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def _shown_commands() -> list[str]:
    blocks = [
        block.replace("\\\n", " ")
        for page in PAGES
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    ]
    return sorted({match for block in blocks for match in COMMAND.findall(block)})


def test_the_pages_show_commands() -> None:
    assert _shown_commands()


@pytest.mark.parametrize("words", _shown_commands())
def test_every_command_in_a_code_block_is_one_of_ours(words: str) -> None:
    name, *rest = shlex.split(words)
    if ">" in rest:  # where the shell puts what is printed
        rest = rest[: rest.index(">")]
    group = typer.main.get_command(app)
    assert name in group.commands  # type: ignore[attr-defined]
    group.commands[name].make_context(name, list(rest))  # type: ignore[attr-defined]


BY_OTHER_TESTS = {"docs/own.md", "docs/deploy.md", "docs/queries.md"}
"""Pages whose blocks of Python and YAML other tests run."""


def _blocks(language: str) -> list[pytest.param]:
    return [
        pytest.param(block, id=f"{_name(page)}-{number}")
        for page in PAGES
        if _name(page) not in BY_OTHER_TESTS
        for number, block in enumerate(
            re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)
        )
    ]


@pytest.mark.parametrize("block", _blocks("yaml"))
def test_every_yaml_block_is_a_study_file_or_a_part_of_one(block: str) -> None:
    written = yaml.safe_load(block)
    study = load_study({**load_study("quickstart").dump(), **written})
    assert written.keys() <= study.model_fields_set
    assert "methods" not in written or len(study.methods) == len(written["methods"])


@pytest.mark.parametrize("block", _blocks("python"))
def test_every_python_block_calls_functions_that_we_have(block: str) -> None:
    calls = [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Attribute)]
    ours = {n.attr for n in calls if isinstance(n.value, ast.Name) and n.value.id == "studies"}
    assert ours
    assert ours <= set(studies.__all__)


def test_the_readme_is_read_in_a_minute() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_every_page_stands_in_a_table_of_contents() -> None:
    listed = set()
    for page in DOCS.rglob("index.md"):
        for tree in re.findall(r"```{toctree}\n(.*?)```", page.read_text(), re.DOTALL):
            names = [line for line in tree.splitlines() if line and not line.startswith(":")]
            listed |= {(page.parent / name).relative_to(DOCS).as_posix() for name in names}
    there = {
        page.relative_to(DOCS).with_suffix("").as_posix() for page in PAGES if DOCS in page.parents
    }
    assert there - {"index"} == listed


GENERATED = sorted((DOCS / "reference").glob("*.md"))


@pytest.mark.parametrize("page", GENERATED, ids=lambda page: page.name)
def test_a_generated_page_says_what_the_code_says(page: Path) -> None:
    assert page.read_text() == PAGES_OF_THE_CODE[page.name](), "call `make docs`"


def test_every_generated_page_is_there() -> None:
    assert {page.name for page in GENERATED} == PAGES_OF_THE_CODE.keys()


def _rows(page: str) -> dict[str, list[str]]:
    """Return the cells of each row of a reference page, by what its first cell names."""
    lines = (DOCS / "reference" / page).read_text().splitlines()
    rows = [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in lines if line.startswith("| `")]
    return {row[0].strip("`"): row for row in rows}


def test_a_key_has_its_range_from_the_check_that_refuses_others() -> None:
    rows = _rows("keys.md")
    ranges = {"epochs": "at least 1", "ema": "in (0, 1)", "alphas": "in [0, 1]", "lr": "above 0"}
    for key, said in ranges.items():
        assert said in rows[key][2], key


def test_every_number_of_a_point_has_a_unit() -> None:
    rows = _rows("points.md")
    pure = {"lam", "beta", "seed", "results_version"}
    without = {name for name, (_, kind, unit, *_) in rows.items() if kind != "text" and not unit}
    assert without == pure


def test_the_citation_has_the_version_of_the_package() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert cited["version"] == project["version"]
    assert cited["license"] == project["license"]


PRESENT = [page for page in PAGES if page.name not in {"CHANGELOG.md", "log.md"}]
PRESENT = [page for page in PRESENT if page.parent.name not in {"results", "reference"}]
"""Pages by hand that speak of the code as it is; the others keep the names of their time."""

EXAMPLES = {f"my_pkg/{name}.py" for name in ("mart", "nets", "attacks", "data")}
"""Files that a page tells the reader to write."""
FOLDERS = ("oat", "baselines", "studies", "benchmarks", "tests", "docs")
FILES = {
    path.relative_to(ROOT).as_posix() for name in FOLDERS for path in (ROOT / name).rglob("*.py")
}
MODULE = re.compile(r"`((?:[a-z_]+/)*[a-z_]+\.py)`")
DOTTED = re.compile(r"`((?:oat|baselines|studies|benchmarks)(?:\.[A-Za-z_]+)+)`")
IN_STUDIES = re.compile(r"`([a-z_]+(?:\.[A-Za-z_]+)+)(?:\(\))?`")
TAGS = {"oat.kind", "oat.key", "oat.attacks", "oat.masking", "oat.model", "oat.model_sha256"}
"""Tags of MLflow's runs, which look like modules."""


@pytest.mark.parametrize("page", PRESENT, ids=_name)
def test_every_module_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    for name in set(MODULE.findall(text)) - EXAMPLES:
        found = [file for file in FILES if file == name or file.endswith(f"studies/{name}")]
        assert found or f"oat/{name}" in FILES, f"{page.name} names {name}"
    for name in set(DOTTED.findall(text)) - TAGS:
        assert _exists(name), f"{page.name} names {name}"
    rooms = {place.name for place in (ROOT / "studies").iterdir()}
    for name in IN_STUDIES.findall(text):
        if name.partition(".")[0] in rooms and not name.endswith((".json", ".yaml")):
            assert _exists(f"studies.{name}"), f"{page.name} names {name}"


def _exists(name: str) -> bool:
    """Tell whether a dotted name is that of a module, or of something in one."""
    return pydoc.locate(name) is not None


def test_the_page_of_the_study_file_names_every_preset() -> None:
    page = (DOCS / "study-file.md").read_text()
    for name in presets():
        assert f"`{name}`" in page
