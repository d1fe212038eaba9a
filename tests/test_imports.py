import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = {"oat", "baselines", "studies", "benchmarks", "tests"}
STUDIES_ONLY = {"ray", "mlflow", "optuna", "pandas", "pydantic"}
NUMERICAL = {"torch", "torchvision", "numpy"}


def _files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def _modules(tree: ast.AST) -> list[str]:
    """Return the module of every import below a node."""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names.append(node.module or "")
    return names


def _roots(tree: ast.AST) -> set[str]:
    """Return the top-level package of every import below a node."""
    return {name.partition(".")[0] for name in _modules(tree)}


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def _module_level(tree: ast.Module | ast.ClassDef) -> Iterator[ast.stmt]:
    """Yield the statements that run on import: those outside functions and methods."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield from _module_level(node)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_the_walk_finds_imports_at_any_depth() -> None:
    source = "import a.b\ndef f():\n    from c.d import e\n    import g as h\n"
    assert _roots(ast.parse(source)) == {"a", "c", "g"}


def _measures_studies(path: Path) -> bool:
    """Tell whether a file is a benchmark of the studies; those of the method run without them."""
    return path.parent.name == "benchmarks" and path.stem in {
        "drill",
        "faults",
        "made_up",
        "scale",
        "site",
        "tuning",
    }


@pytest.mark.parametrize("package", ["oat", "baselines", "benchmarks"])
def test_tools_of_the_studies_are_imported_under_studies_only(package: str) -> None:
    assert _files("oat")
    assert _files("baselines")
    offenders = {
        str(path.relative_to(ROOT)): found
        for path in _files(package)
        if (found := _roots(_parse(path)) & STUDIES_ONLY) and not _measures_studies(path)
    }
    assert offenders == {}


def test_mlflow_is_imported_by_one_module_only() -> None:
    importers = [path for path in _files("studies") if "mlflow" in _roots(_parse(path))]
    assert {str(path.relative_to(ROOT)) for path in importers} == {"studies/experiment.py"}


def test_the_job_server_is_asked_by_one_module_only() -> None:
    users = [path for path in _files("studies") if "ray.job_submission" in _modules(_parse(path))]
    assert {str(path.relative_to(ROOT)) for path in users} == {"studies/jobs.py"}


@pytest.mark.parametrize(
    ("package", "allowed"), [("oat", {"oat"}), ("baselines", {"oat", "baselines"})]
)
def test_packages_depend_in_one_direction(package: str, allowed: set[str]) -> None:
    for path in _files(package):
        assert _roots(_parse(path)) & OURS <= allowed, path


@pytest.mark.parametrize("package", ["oat", "baselines"])
def test_importing_the_method_needs_the_numerical_packages_only(package: str) -> None:
    for path in _files(package):
        roots = set().union(*map(_roots, _module_level(_parse(path))))
        assert roots <= sys.stdlib_module_names | NUMERICAL | OURS, path


PROGRAM = """
import sys
from importlib.abc import MetaPathFinder

BLOCKED = {"ray", "mlflow", "optuna", "pandas", "pydantic", "sklearn", "scipy", "yaml"}
BLOCKED |= {"pyautoattack", "foolbox"}

class Block(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None

sys.meta_path.insert(0, Block())
import oat.training, oat.evaluation, baselines
assert not BLOCKED & {name.partition(".")[0] for name in sys.modules}
try:
    import yaml
except ModuleNotFoundError:
    print("imported")
"""


@pytest.mark.timeout(60)
def test_method_imports_on_a_machine_with_torch_only() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "imported\n"
