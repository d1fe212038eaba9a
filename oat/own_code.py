"""Code that users bring: what a study names as ``module:name``, and the digest of its file."""

import functools
import hashlib
import importlib
import inspect
import json
import re
import sys
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

MARK = ":"
OWN_NAME = r"^[A-Za-z0-9_.]+:[A-Za-z0-9_]+$"
"""How code of the user's is named: ``module:name``."""

ALLOWED: set[str] = set()
"""Names that a study has. No file in storage can have any other imported."""


class OwnCodeError(ValueError):
    """Code of the user's cannot be imported, is not what it must be, or fails; one sentence."""


class Args(dict[str, Any]):
    """Keyword arguments of code of the user's: values that JSON has, as part of a frozen config."""

    def __hash__(self) -> int:  # type: ignore[override]
        """Hash what JSON holds of them."""
        return hash(json.dumps(self, sort_keys=True))


NO_ARGS = Args()
"""What code of the user's takes if nothing is given."""


def frozen_args(args: Mapping[str, Any]) -> Args:
    """Return arguments as part of a frozen config.

    Raises:
        ValueError: A value is none that JSON has.
    """
    try:
        json.dumps(args, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`args` must hold numbers, text, truth values, lists and mappings alone ({error})."
        ) from error
    return Args(args)


def allow(names: Iterable[str]) -> None:
    """Let code be imported that a study, or the job of its driver, names."""
    ALLOWED.update(filter(is_own, names))


def is_own(name: object) -> bool:
    """Tell whether a name is that of code of the user's."""
    return isinstance(name, str) and re.fullmatch(OWN_NAME, name) is not None


class _Imported(NamedTuple):
    found: Any
    file: Path
    digest: str


def imported(name: str, kind: str) -> Any:
    """Import what the user names.

    The folder that the command is called in counts among those that Python looks in.

    Args:
        name: ``module:name``.
        kind: What it is to be, for people: method, network, attack, data.

    Raises:
        OwnCodeError: There is no such module or name, its import fails, or no study names it.
    """
    return _import(name, kind).found


def digest_of(name: str, kind: str) -> str:
    """Return 12 hex digits of SHA-256 over the file of the user's code, as it was imported.

    Raises:
        OwnCodeError: It cannot be imported, or its file has changed since, so that what runs here
            is not what it says.
    """
    known = _import(name, kind)
    if not known.file.exists() or _digest(known.file) != known.digest:
        raise OwnCodeError(
            f"The file of the {kind} '{name}' has changed since this process imported it; start "
            "Python anew."
        )
    return known.digest


def check_code(name: str, kind: str, recorded: str) -> None:
    """Refuse other code than that of a trial.

    Args:
        name: ``module:name``.
        kind: What it is.
        recorded: The digest in the trial's config.

    Raises:
        OwnCodeError: The code here is not there, or is not the same.
    """
    if (here := digest_of(name, kind)) != recorded:
        raise OwnCodeError(
            f"The code of the {kind} '{name}' is not that of the trial ({here} here, {recorded} "
            "there); give every node the same file, or run the study anew."
        )


def failure(name: str, kind: str, error: Exception) -> OwnCodeError:
    """Say that code of the user's has failed, and in which of its lines."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = _import(name, kind).file
    lines = [frame.lineno for frame in frames if Path(frame.filename) == theirs]
    where = f", line {lines[-1]}" if lines else ""
    said = " ".join(str(error).split()).rstrip(".") or "no message"
    return OwnCodeError(
        f"The {kind} '{name}' failed ({theirs.name}{where}): {type(error).__name__}: {said}."
    )


@functools.cache
def _import(name: str, kind: str) -> _Imported:
    if name not in ALLOWED:
        raise OwnCodeError(
            f"A file names the {kind} '{name}', and no study does, so that its code is not run; "
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
            raise OwnCodeError(f"`{name}` needs the package '{error.name}'; install it.") from error
        raise OwnCodeError(
            f"There is no module '{module}' of the {kind} '{name}'; call the command in the folder "
            "that holds it, install it, or set PYTHONPATH."
        ) from error
    except AttributeError as error:
        raise OwnCodeError(f"The module '{module}' has no '{attribute}' ('{name}').") from error
    except Exception as error:  # whatever the module does
        raise OwnCodeError(
            f"The module of the {kind} '{name}' cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if not callable(found):
        raise OwnCodeError(f"The {kind} '{name}' must be a function or a class, got {found!r}.")
    file = _file_of(found, name)
    return _Imported(found, file, _digest(file))


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


def _file_of(found: Any, name: str) -> Path:
    """Return the source file of the user's code: where it is defined, or else its module's."""
    try:
        source = inspect.getsourcefile(inspect.unwrap(found))
    except TypeError:  # an object that can be called, such as a partial function
        source = None
    source = source or getattr(sys.modules[name.partition(MARK)[0]], "__file__", None)
    if source is None:
        raise OwnCodeError(f"`{name}` has no source file, so that nothing can tell its code.")
    return Path(source)
