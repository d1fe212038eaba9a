"""What a shell completes: presets, study files, methods, what `--set` names, attacks, columns."""

from collections.abc import Iterator
from pathlib import Path
from textwrap import shorten
from typing import Any

import typer

import studies
from studies.errors import UserError

HELP = 60
"""Characters of the line beside a completion; a shell does not take one that is broken."""


def study(incomplete: str) -> list[tuple[str, str]]:
    """Complete a preset, with the line about it, or the path of a YAML file."""
    known = [
        (name, shorten(line, HELP, placeholder="…"))
        for name, line in studies.presets().items()
        if name.startswith(incomplete)
    ]
    return known + [(path, "a study file") for path in _paths(incomplete)]


def _paths(incomplete: str) -> list[str]:
    """Return the folders and YAML files that a path may become."""
    folder, slash, begun = incomplete.rpartition("/")
    try:
        found = sorted(Path(folder + slash).iterdir())
    except OSError:
        return []
    shown = [path for path in found if path.name.startswith(begun) and path.name[0] != "."]
    return [f"{folder}{slash}{path.name}/" for path in shown if path.is_dir()] + [
        f"{folder}{slash}{path.name}" for path in shown if path.suffix in {".yaml", ".yml"}
    ]


def attack(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete an attack of the study that the command line names; without one, of all."""
    found = _study_of(ctx)
    known = list(studies.attacks())
    if found is not None:
        known = [found.label_of(attack) for attack in found.attacks()]
    return [name for name in known if name.startswith(incomplete)]


def method(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete a method of the study that the command line names; labels have blanks in them."""
    found = _study_of(ctx)
    names = {} if found is None else dict.fromkeys(found.method_names())
    return [name for name in names if name.startswith(incomplete)]


def columns(incomplete: str) -> list[str]:
    """Complete the last of several columns, separated by commas."""
    from studies.results.points import COLUMNS

    before, comma, begun = incomplete.rpartition(",")
    taken = before.split(",")
    names = [name for name in COLUMNS if name.startswith(begun) and name not in taken]
    return [f"{before}{comma}{name}" for name in names]


def setting(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete the key of a setting, and after ``=`` the names that it may have."""
    found = _study_of(ctx)
    if found is None:
        return []
    places = list(_places(found))
    path, equals, begun = incomplete.partition("=")
    if not equals:
        return [place for place, _ in places if place.startswith(path)]
    names = next((names for place, names in places if place == path), ())
    return [f"{path}={name}" for name in map(str, names) if name.startswith(begun)]


def _places(block: Any, before: str = "") -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield the keys below a block, and the names that each may have."""
    from studies.study_file.keys import keys_of

    for key in keys_of(block.__class__):
        value, path = getattr(block, key.name), f"{before}{key.name}"
        if key.entries and value is not None:
            for i, entry in enumerate(value):
                yield f"{path}.{i}.name", tuple(key.entries)
                below = _places(entry, f"{path}.{i}.")
                yield from (place for place in below if place[0] != f"{path}.{i}.name")
        elif key.block is not None and value is not None:
            yield from _places(value, f"{path}.")
        else:
            yield path, key.choices


def _study_of(ctx: typer.Context) -> Any:
    """Return the study that the command line names first, None if there is none to be read."""
    # what stands before an option that is still without its value is left in `args`
    named = ctx.params.get("study") or next(iter(ctx.params.get("names") or ctx.args), None)
    try:
        return None if named is None else studies.load_study(str(named))
    except UserError:
        return None
