"""Methods that users bring: classes named as ``module:Class``, and the digest of their code."""

import hashlib
import importlib
import inspect
import re
import sys
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from oat.method import Method
from studies.errors import StudyError

MARK = ":"
OWN_NAME = r"^[A-Za-z0-9_.]+:[A-Za-z0-9_]+$"
"""How the name of a class of the user's is written: ``module:Class``."""
PARTS = ("conditioning", "losses", "fixed_shapes", "operating_points", "work")
"""Functions that a method must have: see `oat.method.Method`."""
VALUES = ("lam", "beta")
"""Fields of which a dedicated method must have one: its trade-off value."""


CODE = "code_at_import"
"""Attribute of an imported class: the digest of its file, as it was then."""
ALLOWED: set[str] = set()
"""Classes that a study names. No file in storage can have any other imported."""


def allow(names: Iterable[str]) -> None:
    """Let classes be imported that a study, or the job of its driver, names."""
    ALLOWED.update(filter(is_own, names))


def is_own(name: object) -> bool:
    """Tell whether a name is that of a class of the user's."""
    return isinstance(name, str) and re.fullmatch(OWN_NAME, name) is not None


def own_method(name: str) -> type[Any]:
    """Import a method, and name it as the study file does.

    The folder that the command is called in counts among those that Python looks in.

    Args:
        name: ``module:Class``.

    Raises:
        StudyError: There is no such module or class, its import fails, or it is no method: one
            sentence that says what is missing. Or no study names it.
    """
    if name not in ALLOWED:
        raise StudyError(
            f"A file names the method '{name}', and no study does, so that its code is not run; "
            "name the study."
        )
    module, _, attribute = name.partition(MARK)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name is not None and not f"{module}.".startswith(f"{error.name}."):
            raise StudyError(f"`{name}` needs the package '{error.name}'; install it.") from error
        raise StudyError(
            f"There is no module '{module}' of the method '{name}'; call the command in the folder "
            "that holds it, install it, or set PYTHONPATH."
        ) from error
    except AttributeError as error:
        raise StudyError(f"The module '{module}' has no '{attribute}' ('{name}').") from error
    except Exception as error:  # whatever the module does
        raise StudyError(
            f"The module of the method '{name}' cannot be imported: {type(error).__name__}: {error}"
        ) from error
    _check(name, found)
    # a class of the same fields, so that its name is the one that everybody knows it by
    own = {"name": name, "__doc__": found.__doc__, CODE: _digest(found)}
    return type(found.__name__, (found,), own)


def _check(name: str, found: Any) -> None:
    if not isinstance(found, type) or not is_dataclass(found):
        raise StudyError(f"The method '{name}' must be a frozen dataclass.")
    if not found.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise StudyError(f"The method '{name}' must be frozen: `@dataclass(frozen=True)`.")
    missing = [part for part in PARTS if not callable(getattr(found, part, None))]
    if missing:
        raise StudyError(
            f"The method '{name}' lacks {', '.join(f'`{part}`' for part in missing)}; inherit from "
            "`oat.dedicated.Dedicated`, which has all but `losses`."
        )
    if not any(field.name in VALUES for field in fields(found)):
        raise StudyError(
            f"The method '{name}' needs a field `lam` or `beta`: the trade-off value that places "
            "its models on the front."
        )


def codes(names: Iterable[str]) -> dict[str, str]:
    """Return the digest of the code of each of the user's methods here, or why it is not there."""
    found = {}
    allow(names := list(names))
    for name in names:
        try:
            found[name] = str(getattr(own_method(name), CODE))
        except StudyError as error:
            found[name] = str(error)
    return found


def code_of(method: Method) -> str | None:
    """Return 12 hex digits of the file that defines a method of the user's; None of one of ours.

    Raises:
        StudyError: The file has changed since it was imported, so that what runs here is not what
            it says.
    """
    if not is_own(method.name):
        return None
    imported, now = str(getattr(method, CODE)), _digest(type(method).__mro__[1])
    if imported != now:
        raise StudyError(
            f"The file of the method '{method.name}' has changed since this process imported it; "
            "start Python anew."
        )
    return imported


def _digest(found: type[Any]) -> str:
    source = inspect.getsourcefile(found)
    assert source is not None
    return hashlib.sha256(Path(source).read_bytes()).hexdigest()[:12]
