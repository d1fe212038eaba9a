"""The page of every module, with the first sentence of its docstring."""

import ast
from pathlib import Path

from docs.generate.markdown import BY_MACHINE, cell, table

ROOT = Path(__file__).resolve().parents[2]


def modules_page() -> str:
    """Write the page of every module, with the first sentence of its docstring."""
    parts = [
        BY_MACHINE + "# Every module\n",
        "Imports go one way: `studies` imports `baselines`, which imports `oat`. "
        "`tests` mirrors the packages. [Architecture](../architecture.md) says why things are "
        "where they are.\n",
    ]
    for package in ("oat", "baselines", "studies", "benchmarks"):
        for folder in sorted({path.parent for path in (ROOT / package).rglob("*.py")}):
            name = folder.relative_to(ROOT).as_posix()
            parts += [f"## `{name}/`\n", f"{_sentence(folder / '__init__.py')}\n"]
            files = [path for path in sorted(folder.glob("*.py")) if path.name != "__init__.py"]
            parts.append(table(("module", ""), [(f"`{p.name}`", _sentence(p)) for p in files]))
    return "\n".join(parts)


def _sentence(path: Path) -> str:
    """Return the first paragraph of a module's docstring."""
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return cell(doc.partition("\n\n")[0])
