"""The page of the Python API: which docstrings Sphinx shows."""

import inspect
import re
import types
from collections.abc import Iterable, Iterator, Mapping

import baselines
import oat.data
import oat.models
import studies
from docs.generate.markdown import BY_MACHINE

OAT = (
    "ascent",
    "attacks",
    "adversaries",
    "deploy",
    "dedicated",
    "encodings",
    "evaluation",
    "knob",
    "lambdas",
    "losses",
    "masking",
    "method",
    "operating",
    "recipe",
    "training",
)
"""Modules of `oat` that are of use by themselves, beside `oat.data` and `oat.models`."""


def api_page() -> str:
    """Write the page that has Sphinx show the docstrings of what is public."""
    returned = dict.fromkeys(one for name in studies.__all__ for one in _returned(name))
    return "\n".join(
        [
            BY_MACHINE + "# Python API\n",
            "Each command is a function of `studies` with the same name and the same arguments. "
            "`load_study` and `load_model` return objects, and no command does.\n",
            "## `studies`\n",
            _directives((f"studies.{name}" for name in studies.__all__), "autofunction"),
            "## What they return\n",
            _directives(returned, "autoclass", members=True),
            "## `studies.testing`\n",
            _directives(["studies.testing"], "automodule", members=True),
            "## `baselines`\n",
            _directives(
                (f"baselines.{name}" for name in baselines.__all__), "autoclass", members=True
            ),
            *(
                part
                for name in OAT
                for part in (
                    f"## `oat.{name}`\n",
                    _directives([f"oat.{name}"], "automodule", members=True),
                )
            ),
            *(
                part
                for package in (oat.data, oat.models)
                for part in (f"## `{package.__name__}`\n", _public(package))
            ),
        ]
    )


def _returned(name: str) -> Iterator[str]:
    """Yield the classes of ours that a function of `studies` returns, by what it imports."""
    function = getattr(studies, name)
    home = inspect.getmodule(function)
    assert home is not None
    said = inspect.signature(function).return_annotation
    source = inspect.getsource(home)
    for word in re.findall(r"\b[A-Z]\w+", said if isinstance(said, str) else repr(said)):
        imported = re.search(rf"from (studies\.\S+) import (?:\([^)]*|.*)\b{word}\b", source)
        if imported is not None:
            yield f"{imported[1]}.{word}"
        elif re.search(rf"^class {word}\b", source, re.MULTILINE):
            yield f"{home.__name__}.{word}"


def _public(package: types.ModuleType) -> str:
    """Show the classes and functions that a package names as its own."""
    homes: Mapping[str, str] = package.HOMES
    parts = []
    for name in package.__all__:
        value = getattr(package, name)
        if not callable(value):
            continue
        kind = "class" if isinstance(value, type) else "function"
        full = f"{package.__name__}.{homes[name]}.{name}"
        parts.append(_directives([full], f"auto{kind}", members=kind == "class"))
    return "\n".join(parts)


def _directives(names: Iterable[str], kind: str, *, members: bool = False) -> str:
    """Write directives of Sphinx's autodoc."""
    option = "   :members:\n" if members else ""
    lines = "\n".join(f".. {kind}:: {name}\n{option}" for name in names)
    return f"```{{eval-rst}}\n{lines}```\n"
