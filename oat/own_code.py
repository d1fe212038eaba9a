"""Code that users bring: what a study names as ``module:name``, and the digest of its files."""

import contextlib
import functools
import hashlib
import importlib
import inspect
import json
import re
import struct
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
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
    """What a name is of.

    Attributes:
        found: The function or class.
        files: The file of the module that the study names, and those that define ``found`` where
            they are others.
        digest: Of these, as they were imported.
    """

    found: Any
    files: tuple[Path, ...]
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
    """Return 12 hex digits of SHA-256 over the files of the user's code, as they were imported.

    Raises:
        OwnCodeError: It cannot be imported, or a file has changed since, so that what runs here is
            not what it says.
    """
    known = _import(name, kind)
    if not all(file.exists() for file in known.files) or _digest(known.files) != known.digest:
        raise _changed(name, kind)
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


def failure(name: str, kind: str, error: BaseException) -> OwnCodeError:
    """Say that code of the user's has failed, and in which of its lines."""
    return failed_in(_import(name, kind).files, f"The {kind} '{name}'", error)


def failed_in(files: Sequence[Path], what: str, error: BaseException) -> OwnCodeError:
    """Say that code of some files has failed, and in which of their lines."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [(Path(f.filename), f.lineno) for f in frames if Path(f.filename) in files]
    where = (
        f" ({lines[-1][0].name}, line {lines[-1][1]})"
        if lines
        else f" ({files[-1].name})"
        if files
        else ""
    )
    said = " ".join(str(error).split()).rstrip(".") or "no message"
    return OwnCodeError(f"{what} failed{where}: {type(error).__name__}: {said}.")


def blamed(error: BaseException, named: Mapping[str, str]) -> OwnCodeError | None:
    """Say which code of the user's an error has come from; None if from none.

    Args:
        error: What was raised.
        named: What each name of the user's code is: method, network, attack, data.
    """
    if isinstance(error, OwnCodeError):
        return None
    files: dict[Path, tuple[str, str]] = {}
    for name, kind in named.items():
        with contextlib.suppress(OwnCodeError):  # what cannot be imported has not run
            files |= dict.fromkeys(_import(name, kind).files, (name, kind))
    passed = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    innermost = next((files[file] for file in reversed(passed) if file in files), None)
    return None if innermost is None else failure(innermost[0], innermost[1], error)


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
    known = sys.modules.get(module)
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and not f"{module}.".startswith(f"{error.name}."):
            raise OwnCodeError(f"`{name}` needs the package '{error.name}'; install it.") from error
        raise OwnCodeError(
            f"There is no module '{module}' of the {kind} '{name}'; call the command in the folder "
            "that holds it, install it, or set PYTHONPATH."
        ) from error
    except (Exception, SystemExit) as error:  # whatever the module does
        raise OwnCodeError(
            f"The module of the {kind} '{name}' cannot be imported: {type(error).__name__}: {error}"
        ) from error
    try:
        found = getattr(loaded, attribute)
    except AttributeError as error:
        raise OwnCodeError(f"The module '{module}' has no '{attribute}' ('{name}').") from error
    if not callable(found):
        raise OwnCodeError(f"The {kind} '{name}' must be a function or a class, got {found!r}.")
    files = _files_of(found, loaded)
    if not files:
        raise OwnCodeError(f"`{name}` has no source file, so that nothing can tell its code.")
    parts = (known, inspect.getmodule(found))
    if known is not None and any(part is not None and _is_stale(part) for part in parts):
        raise _changed(name, kind)
    return _Imported(found, files, _digest(files))


def _changed(name: str, kind: str) -> OwnCodeError:
    return OwnCodeError(
        f"The file of the {kind} '{name}' has changed since this process imported it; start "
        "Python anew."
    )


def _digest(files: Iterable[Path]) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def _files_of(found: Any, module: ModuleType) -> tuple[Path, ...]:
    """Return the files of the user's code: that of its module, and where it is defined.

    A module may name what another one defines, and a wrapper what it wraps.
    """
    sources = [getattr(module, "__file__", None)]
    for part in (found, inspect.unwrap(found)):
        with contextlib.suppress(TypeError):  # an object that can be called has no file of its own
            sources.append(inspect.getsourcefile(part))
    return tuple(dict.fromkeys(Path(source) for source in sources if source is not None))


def _is_stale(module: ModuleType) -> bool:
    """Tell whether a module's file is another than the one that was compiled for this process.

    Python writes the time of the source into the compiled file; without one nothing can be told.
    """
    compiled = getattr(module, "__cached__", None)
    source = getattr(module, "__file__", None)
    if compiled is None or source is None:
        return False
    try:
        header, modified = Path(compiled).read_bytes()[:12], Path(source).stat().st_mtime
    except OSError:
        return False
    flags, time = struct.unpack("<4xII", header)
    return bool(flags == 0 and time != int(modified) & 0xFFFFFFFF)
