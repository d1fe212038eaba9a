"""What crosses a room's wall has a type that names its keys: no bare mapping of texts to anything.

A room is a folder below `studies`; the modules beside the rooms are the ground that all stand on.
What crosses is what another room imports by name, the public methods and fields of a class among
it, and every class and alias that the annotations of these name in turn.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FIELDS = "the fields of a config, which its dataclass in `oat` or `baselines` names and checks"
FILE = "what a user writes into a study file, which pydantic checks key by key"

ALLOWED = {
    "studies.known_methods.WithMethod.method": FIELDS,
    "studies.own_code.WithModel.model": FIELDS,
    "studies.known_methods.tuples": FIELDS,
    "studies.trial.shapes.Fields": FIELDS,
    "studies.study_file.loading.Source": FILE,
    "studies.study_file.method_blocks.FileBlock": FILE,
    "studies.study_file.json_schema.schema": "a JSON Schema: its keys are those of that standard",
    "studies.comparison.answer.Comparison.record": "what `--json` prints: its keys are fields",
    "studies.tuning.candidates.Params": "what Optuna suggests: the study says what is searched",
    "studies.storage.sealed.unseal": "any record: whoever reads a file says what it wrote there",
}
"""What may be bare all the same: module and name, and why. An alias stands for its uses."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """One module of `studies`.

    Attributes:
        name: With dots.
        tree: What it says.
    """

    name: str
    tree: ast.Module

    @property
    def room(self) -> str:
        """The folder that it is in; of a module beside the rooms its own name."""
        return ".".join(self.name.split(".")[:2])

    def imports(self) -> Iterator[tuple[str, str, str]]:
        """Yield what is imported by name, at any depth: its name here, its module, its name."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    yield alias.asname or alias.name, node.module or "", alias.name

    def definitions(self) -> dict[str, ast.stmt]:
        """Return the functions, classes and names that it defines, those of no import."""
        found: dict[str, ast.stmt] = {}
        for node in self.tree.body:
            if isinstance(node, Function | ast.ClassDef):
                found[node.name] = node
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found[node.target.id] = node
            elif isinstance(node, ast.Assign):
                found |= {name.id: node for name in node.targets if isinstance(name, ast.Name)}
        return found


Modules = dict[str, Module]


def modules_of(sources: dict[str, str]) -> Modules:
    """Parse sources by the names of their modules."""
    return {name: Module(name, ast.parse(text)) for name, text in sources.items()}


@cache
def _studies() -> Modules:
    paths = sorted((ROOT / "studies").rglob("*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    return modules_of(
        {
            name.removesuffix(".__init__"): path.read_text(encoding="utf-8")
            for name, path in zip(names, paths, strict=True)
        }
    )


def _imported_elsewhere(modules: Modules) -> set[tuple[str, str]]:
    """Return what a module of another room imports: module and name."""
    found = set()
    for user in modules.values():
        for here, module, name in user.imports():
            whole = f"{module}.{name}"
            if whole in modules:  # a module, whose names are asked for one by one
                found |= {
                    (whole, node.attr)
                    for node in ast.walk(user.tree)
                    if isinstance(node, ast.Attribute)
                    and isinstance(node.value, ast.Name)
                    and node.value.id == here
                    and modules[whole].room != user.room
                }
            elif module in modules and modules[module].room != user.room:
                found.add((module, name))
    return {(module, name) for module, name in found if name in modules[module].definitions()}


def _annotations(node: ast.stmt, name: str) -> Iterator[tuple[str, ast.expr]]:
    """Yield what others see of a definition: a name for each annotation, and the annotation."""
    if isinstance(node, Function):
        arguments = node.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        every += [some for some in (arguments.vararg, arguments.kwarg) if some is not None]
        for argument in every:
            if argument.annotation is not None:
                yield name, argument.annotation
        if node.returns is not None:
            yield name, node.returns
    elif isinstance(node, ast.ClassDef):
        for base in node.bases:
            yield name, base
        for inner in node.body:
            match inner:
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    if not inner.name.startswith("_") or inner.name in {"__init__", "__call__"}:
                        yield from _annotations(inner, f"{name}.{inner.name}")
                case ast.AnnAssign(target=ast.Name(id=field)) if not field.startswith("_"):
                    yield f"{name}.{field}", inner.annotation
    elif isinstance(node, ast.AnnAssign):
        yield name, node.annotation
    elif isinstance(node, ast.Assign):
        yield name, node.value  # an alias; any other value has no such subscript


def _parsed(annotation: ast.expr) -> ast.expr:
    """Return an annotation with every part of it that is quoted read."""

    class Unquote(ast.NodeTransformer):
        def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
            literal = isinstance(node.value, ast.Name) and node.value.id == "Literal"
            return node if literal else self.generic_visit(node)

        def visit_Constant(self, node: ast.Constant) -> ast.expr:
            if not isinstance(node.value, str):
                return node
            try:
                return ast.parse(node.value, mode="eval").body
            except SyntaxError:
                return node

    copy = ast.parse(ast.unparse(annotation), mode="eval").body
    return Unquote().visit(copy)  # type: ignore[no-any-return]


def _is_bare(annotation: ast.expr) -> bool:
    """Tell whether any part of an annotation maps texts to anything, or does not say to what."""
    inside = {id(node.value) for node in ast.walk(annotation) if isinstance(node, ast.Subscript)}
    kinds = {"dict", "Dict", "Mapping", "MutableMapping"}
    for node in ast.walk(annotation):
        if isinstance(node, ast.Name) and node.id in kinds and id(node) not in inside:
            return True
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name | ast.Attribute):
            kind = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
            if kind in kinds and ast.unparse(node.slice) in {"(str, Any)", "str, Any"}:
                return True
    return False


def bare(modules: Modules) -> set[str]:
    """Name all that crosses a wall with an annotation that is bare."""
    found: set[str] = set()
    left, seen = _imported_elsewhere(modules), set[tuple[str, str]]()
    while left:
        module, name = left.pop()
        seen.add((module, name))
        node = modules[module].definitions()[name]
        known = {here: (place, there) for here, place, there in modules[module].imports()}
        known |= {own: (module, own) for own in modules[module].definitions()}
        for where, annotation in _annotations(node, name):
            parsed = _parsed(annotation)
            if _is_bare(parsed):
                found.add(f"{module}.{where}")
            named = {part.id for part in ast.walk(parsed) if isinstance(part, ast.Name)}
            for place, there in (known[part] for part in named & known.keys()):
                if place in modules and there in modules[place].definitions():
                    left |= {(place, there)} - seen
    return found


def test_what_crosses_a_wall_names_its_keys() -> None:
    assert bare(_studies()) == ALLOWED.keys()


def test_the_hot_path_crosses_walls() -> None:
    """What is imported is found: a walk that found nothing would pass as well."""
    crossing = _imported_elsewhere(_studies())
    assert crossing >= {
        ("studies.trial.run", "run_trial"),
        ("studies.trial.records", "read_points"),
        ("studies.trial.records", "read_epochs"),
        ("studies.results.reading", "read_planned"),
        ("studies.planning.plan", "PlannedTrial"),
        ("studies.cluster.launching", "MakeConfig"),
        ("studies.comparison.comparing", "compare"),  # by its module
    }


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("def f(job: dict[str, Any]) -> None: ...", "f"),
        ("def f(job: Mapping[str, Any]) -> None: ...", "f"),
        ("def f(*, job: 'typing.Mapping[str, Any] | None' = None) -> None: ...", "f"),
        ("def f(**jobs: dict[str, Any]) -> None: ...", "f"),
        ("def f() -> list[dict[str, Any]]: ...", "f"),
        ("def f() -> tuple[Sequence[dict], int]: ...", "f"),
        ("async def f() -> 'dict[str, Any]': ...", "f"),
        ("def f(call: Callable[[dict[str, Any]], None]) -> None: ...", "f"),
        ("class C:\n    def m(self) -> dict[str, Any]: ...", "C.m"),
        ("class C:\n    def __init__(self, job: dict[str, Any]) -> None: ...", "C.__init__"),
        ("class C:\n    job: Mapping[str, Any]", "C.job"),
        ("C = Mapping[str, Any]", "C"),
        ("Made = dict[str, Any]\ndef f(made: Made) -> None: ...", "Made"),
        ("class Made:\n    job: dict[str, Any]\ndef f() -> 'Made | None': ...", "Made.job"),
    ],
)
def test_a_bare_mapping_is_found(source: str, name: str) -> None:
    wanted = "C" if source.startswith(("class C", "C =")) else "f"
    user = f"from studies.one.made import {wanted}\n"
    modules = {"studies.one.made": source, "studies.two.user": user}
    assert bare(modules_of(modules)) == {f"studies.one.made.{name}"}
    through = {"studies.one.made": source, "studies.two.user": "def g() -> None:\n    " + user}
    assert bare(modules_of(through)) == {f"studies.one.made.{name}"}, "imported in a function"
    inside = {"studies.one.made": source, "studies.one.user": user}
    assert bare(modules_of(inside)) == set(), "within a room"


@pytest.mark.parametrize(
    "source",
    [
        "def f(job: Job, texts: dict[str, str]) -> Mapping[str, object]: ...",
        "def f() -> None:\n    job: dict[str, Any] = {}",
        "def _g(job: dict[str, Any]) -> None: ...\ndef f() -> None: ...",
        "class Made:\n    def _m(self) -> dict[str, Any]: ...\ndef f() -> Made: ...",
        "def f(kind: Literal['dict[str, Any]']) -> None: ...",
    ],
)
def test_nothing_else_is(source: str) -> None:
    user = "from studies.one.made import f\n"
    assert bare(modules_of({"studies.one.made": source, "studies.two.user": user})) == set()
