import ast
import inspect
import subprocess
import sys
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType

import pytest
import typer.main

import oat.data
import oat.models
import studies
from studies.cli.app import app

ORDERS = {
    "alone": "",
    "after its module": "import studies.planning, studies.comparison",
}


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
def test_the_functions_of_a_notebook_can_be_called_again_and_again(
    order: str, tmp_path: Path
) -> None:
    program = f"""{ORDERS[order]}
import studies
for _ in range(2):
    assert len(studies.plan("quickstart", storage="nowhere").trials) == 9
    assert callable(studies.compare)
    assert studies.points("quickstart", storage="nowhere").empty
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_every_name_of_the_package_is_a_function_and_no_module() -> None:
    # a module that is imported takes its name in the package for good
    assert not set(studies.__all__) & {module.name for module in iter_modules(studies.__path__)}
    for name in studies.__all__:
        assert callable(getattr(studies, name)), name
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = studies.no_such_name


@pytest.mark.parametrize("package", [studies, oat.models, oat.data], ids=lambda p: p.__name__)
def test_type_checkers_see_what_is_in_the_table(package: ModuleType) -> None:
    assert package.__file__ is not None
    tree = ast.parse(Path(package.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    }
    assert seen == {n: f"{package.__name__}.{home}" for n, home in package.HOMES.items()}
    assert package.__all__ == list(package.HOMES)
    for name in package.__all__:
        getattr(package, name)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = package.no_such_name


ONLY_IN_PYTHON = {"load_study", "load_model"}
"""They return objects of Python, and a shell has none."""
SAID_BY_THE_SHELL = {"as_json", "as_format", "quiet", "verbose"}
"""How results are printed, and whether progress is."""
SAID_BY_PYTHON = {"console", "command", "stop", "held_out_points"}
"""Where progress goes, what a report names as its command, who ends a page: a shell knows these.
Points beside a frame of points: a shell has no frames."""


def test_each_command_has_a_function_of_its_name_and_each_function_a_command() -> None:
    commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert commands == set(studies.__all__) - ONLY_IN_PYTHON


@pytest.mark.parametrize("name", sorted(set(studies.__all__) - ONLY_IN_PYTHON))
def test_a_command_takes_what_its_function_takes(name: str) -> None:
    group = typer.main.get_command(app)
    shell = {parameter.name for parameter in group.commands[name].params}  # type: ignore[attr-defined]
    function = set(inspect.signature(getattr(studies, name)).parameters)
    first = {"names": "studies", "preset": "study"}  # as a shell shows them
    shell = {first.get(str(parameter), str(parameter)) for parameter in shell}
    assert shell - SAID_BY_THE_SHELL == function - SAID_BY_PYTHON
