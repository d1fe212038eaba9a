"""What the pages say exists, and the commands they show are commands that we have."""

import pydoc
import re
import shlex
from pathlib import Path

import pytest
import typer.main
import yaml

from studies.cli.app import app
from studies.study_file.loading import load_study, presets

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")
COMMAND = re.compile(r"^(?:\.venv/bin/)?oat (.+?)(?:\s+#.*)?$", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
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


def test_the_study_file_of_the_readme_is_a_valid_one(tmp_path: Path) -> None:
    text = re.search(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert text is not None
    (tmp_path / "study.yaml").write_text(text[1])
    assert len(load_study(str(tmp_path / "study.yaml")).all_methods()) == 13


def test_the_tune_block_of_the_readme_is_a_valid_one() -> None:
    blocks = re.findall(r"```yaml\n(tune:.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    quickstart = load_study("quickstart").dump()
    for block in blocks:
        assert load_study({**quickstart, **yaml.safe_load(block)}).tune is not None
    assert blocks


PRESENT = [page for page in PAGES if page.name not in {"CHANGELOG.md", "log.md"}]
PRESENT = [page for page in PRESENT if page.parent.name != "results"]
"""Pages that speak of the code as it is; the others keep the names of their time."""

EXAMPLES = {"my_pkg/mart.py"}
"""Files that a page tells the reader to write."""
MODULE = re.compile(r"`((?:[a-z_]+/)*[a-z_]+\.py)`")
DOTTED = re.compile(r"`((?:oat|baselines|studies|benchmarks)(?:\.[A-Za-z_]+)+)`")
IN_STUDIES = re.compile(r"`([a-z_]+(?:\.[A-Za-z_]+)+)(?:\(\))?`")
TAGS = {"oat.kind", "oat.key", "oat.attacks", "oat.masking"}
"""Tags of MLflow's runs, which look like modules."""


@pytest.mark.parametrize("page", PRESENT, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_module_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    files = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("*/**/*.py")}
    for name in set(MODULE.findall(text)) - EXAMPLES:
        found = [file for file in files if file == name or file.endswith(f"studies/{name}")]
        assert found or f"oat/{name}" in files, f"{page.name} names {name}"
    for name in set(DOTTED.findall(text)) - TAGS:
        assert _exists(name), f"{page.name} names {name}"
    rooms = {place.name for place in (ROOT / "studies").iterdir()}
    for name in IN_STUDIES.findall(text):
        if name.partition(".")[0] in rooms and not name.endswith((".json", ".yaml")):
            assert _exists(f"studies.{name}"), f"{page.name} names {name}"


def _exists(name: str) -> bool:
    """Tell whether a dotted name is that of a module, or of something in one."""
    return pydoc.locate(name) is not None


def test_the_readme_names_every_preset_and_command() -> None:
    readme = (ROOT / "README.md").read_text()
    for name in presets():
        assert f"`{name}`" in readme
    for name in typer.main.get_command(app).commands:  # type: ignore[attr-defined]
        assert f"`oat {name} " in readme


def test_the_readme_lists_every_module_and_room_of_the_top_packages() -> None:
    readme = (ROOT / "README.md").read_text()
    for package in ("oat", "studies"):
        for place in (ROOT / package).glob("[a-z]*"):
            if place.suffix == ".py" or (place.is_dir() and any(place.iterdir())):
                name = f"{place.name}/" if place.is_dir() else place.name
                assert f"  {name} " in readme, f"{package}/{name} is not in the file tree"
