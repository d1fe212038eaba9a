import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = {"oat", "baselines", "studies", "benchmarks", "tests"}
STUDIES_ONLY = {"ray", "mlflow", "optuna", "pandas", "pydantic"}
NUMERICAL = {"torch", "torchvision", "numpy", "PIL"}  # torchvision brings Pillow
ROOMS = (
    "errors",
    "own_code",
    "own_method",
    "known_methods",
    "naming",
    "console",
    "knocking",
    "notebook",
    "statistics",
    "storage",
    "study_file",
    "trial",
    "planning",
    "results",
    "cluster",
    "tracking",
    "comparison",
    "tuning",
    "report",
    "driver",
    "measuring",
    "testing",
    "deploying",
    "commands",
    "cli",
)
"""The rooms of `studies`, from the ground up; a room imports those before it alone."""


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
        "overhead",
        "scale",
        "site",
        "tf32",
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


def test_mlflow_is_imported_by_three_modules_only() -> None:
    importers = [path for path in _files("studies") if "mlflow" in _roots(_parse(path))]
    assert {str(path.relative_to(ROOT)) for path in importers} == {
        "studies/tracking/experiment.py",
        "studies/tracking/model_registry.py",
        "studies/deploying/served_model.py",
    }


def test_what_mlflow_runs_to_serve_a_model_imports_nothing_of_ours() -> None:
    imported = _roots(_parse(ROOT / "studies/deploying/served_model.py"))
    assert "torch" in imported
    assert not imported & OURS


def test_the_job_server_is_asked_by_one_module_only() -> None:
    users = [path for path in _files("studies") if "ray.job_submission" in _modules(_parse(path))]
    assert {str(path.relative_to(ROOT)) for path in users} == {"studies/cluster/jobs.py"}


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
        if path.name in {"kernels.py", "triton_kernels.py"}:  # imported where they run: on a GPU
            roots -= {"triton"}
        assert roots <= sys.stdlib_module_names | NUMERICAL | OURS, path


def _room(module: str) -> str:
    return module.split(".")[1]


def _imports_of_studies() -> dict[str, set[str]]:
    """Return what each module of `studies` imports of the others, at any depth."""
    trees = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): _parse(
            path
        )
        for path in _files("studies")
    }
    found: dict[str, set[str]] = {name: set() for name in trees}
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module in trees:
                below = {f"{node.module}.{alias.name}" for alias in node.names}
                found[name] |= below & trees.keys() or {node.module}
            elif isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names} & trees.keys()
    return found


def test_every_module_of_the_studies_is_in_a_room() -> None:
    assert {_room(name) for name in _imports_of_studies() if name != "studies"} == set(ROOMS)


def test_rooms_import_only_those_below_them() -> None:
    upward = [
        f"{name} imports {other}"
        for name, imported in _imports_of_studies().items()
        for other in imported
        if "studies" not in (name, other)  # the table of functions, which names every room
        if ROOMS.index(_room(other)) > ROOMS.index(_room(name))
    ]
    assert upward == []


def test_only_the_shell_imports_the_table_of_functions() -> None:
    users = {name for name, imported in _imports_of_studies().items() if "studies" in imported}
    assert {_room(name) for name in users} == {"cli"}


def test_no_modules_import_each_other_in_a_circle() -> None:
    left = {
        name: imported - {name}
        for name, imported in _imports_of_studies().items()
        if name != "studies"
    }
    while free := {name for name, imported in left.items() if not imported & left.keys()}:
        left = {name: imported for name, imported in left.items() if name not in free}
    assert left == {}, "these, or some of them, are in a circle"


def test_nothing_private_is_imported_from_another_module() -> None:
    private = [
        f"{path.relative_to(ROOT)} imports {node.module}.{alias.name}"
        for package in ("oat", "baselines", "studies")
        for path in _files(package)
        for node in ast.walk(_parse(path))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in OURS
        for alias in node.names
        if alias.name.startswith("_")
    ]
    assert private == []


@pytest.mark.parametrize("room", [room for room in ROOMS if (ROOT / "studies" / room).is_dir()])
def test_the_title_page_of_a_room_says_what_it_is_and_imports_nothing(room: str) -> None:
    page = _parse(ROOT / "studies" / room / "__init__.py")
    assert ast.get_docstring(page)
    assert set(_modules(page)) <= {"os", "studies.cluster"}, "pages that set an environment"


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
import studies.trial.run, studies.trial.judging, studies.trial.choosing, studies.storage.opening
assert not BLOCKED & {name.partition(".")[0] for name in sys.modules}
try:
    import yaml
except ModuleNotFoundError:
    print("imported")
"""


def test_the_method_and_a_trial_import_on_a_machine_with_torch_only() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "imported\n"


LIGHT = """
import sys
from pathlib import Path
from studies.planning.expand import make_plan
from studies.storage.local import LocalFolder
from studies.study_file.loading import load_study
from studies.trial.run import run_trial

folder = LocalFolder(Path(sys.argv[2]))
for trial in make_plan(load_study(sys.argv[1]), folder).trials:
    run_trial(trial.job, folder.sub(f"trials/{trial.run_key}"), lambda report: None)
    assert folder.read(f"trials/{trial.run_key}/result.json")
heavy = {"torch._dynamo", "torch._inductor", "torchvision", "sympy", "sklearn", "scipy", "pandas"}
print(sorted(heavy & set(sys.modules)))
"""


@pytest.mark.timeout(120)
@pytest.mark.slow
def test_planning_training_and_evaluating_load_no_compiler_and_no_second_library(
    tmp_path: Path,
) -> None:
    # each of them costs every worker and every command seconds of a CPU
    study = tmp_path / "light.yaml"
    study.write_text(
        "name: light\ndata: {name: digits, train_images: 64}\nmodel: {name: resnet8, width: 2}\n"
        "train: {epochs: 1, batch_size: 16, val_images: 16}\nattack: {eps: 0.1, steps: 1}\n"
        "methods: [{name: oat, lambda_choices: [0, 1]}, {name: trades, beta: 1}]\n"
        "evaluate: {attacks: [{name: pgd, steps: 1}], images: 20, masking_images: 10}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, str(study), str(tmp_path / "storage")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


ORDER = """
import importlib, os, pkgutil, sys
from importlib.abc import MetaPathFinder

NEEDED = {"ray": "TUNE_DISABLE_SIGINT_HANDLER", "mlflow": "MLFLOW_LOGGING_LEVEL"}
for name in NEEDED.values():
    os.environ.pop(name, None)

class Watch(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in NEEDED and NEEDED[name] not in os.environ:
            raise AssertionError(f"{name} is imported before its environment is set")
        return None

sys.meta_path.insert(0, Watch())
for name in sys.argv[1:]:
    importlib.import_module(name)
print(*(name for name in NEEDED if name in sys.modules))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("modules", "imported"),
    [
        (["studies.cluster.retries", "studies.tracking.tracker"], "ray mlflow"),
        (["studies.tuning.search", "studies.measuring.packing"], "ray"),
        (["studies.commands.run", "studies.driver.following", "studies.cli.app"], ""),
    ],
)
def test_ray_and_mlflow_are_imported_after_their_environment_is_set(
    modules: list[str], imported: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ORDER, *modules],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == imported


LOADED = """
import contextlib, io, sys
from studies.cli.entry import main

sys.argv = ["oat", *sys.argv[1:]]
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main()
print(*(name for name in HEAVY if name in sys.modules))
"""
HEAVY = ("numpy", "pydantic", "torch", "pandas", "mlflow", "ray", "matplotlib", "plotly", "optuna")


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("words", "loaded"),
    [
        ("--help", ""),
        ("run --help", "pydantic"),
        ("presets", "pydantic"),
        ("methods", "pydantic"),
        ("attacks", "pydantic"),
        ("init", "pydantic"),
        ("schema", "pydantic"),
        ("validate quickstart", "pydantic"),
        ("power quickstart", "numpy pydantic"),
        ("plan quickstart", "numpy pydantic"),
        ("status quickstart", "numpy pydantic pandas"),
    ],
)
def test_a_command_loads_what_it_needs_and_no_more(words: str, loaded: str, tmp_path: Path) -> None:
    # each of these packages takes a tenth of a second to several seconds
    done = subprocess.run(
        [sys.executable, "-c", f"HEAVY = {HEAVY}\n{LOADED}", *words.split()],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == loaded
