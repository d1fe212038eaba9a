"""Class folders that are refused: what may be meant by what is there."""

from collections.abc import Sequence
from pathlib import Path

LISTED = 5
OTHER_NAMES = {
    "train": {"train", "training", "trn"},
    "test": {"test", "testing", "tst", "val", "valid", "validation", "eval"},
}
"""What others call the two folders."""


def listed(names: Sequence[str]) -> str:
    """Write names in quotes; of many the first few."""
    shown = ", ".join(f"'{name}'" for name in names[:LISTED])
    return shown if len(names) <= LISTED else f"{shown} and {len(names) - LISTED:,} more"


def subfolders(folder: Path, files: Sequence[Path]) -> set[str]:
    """Return the folders right below a folder that hold files; "" for files of its own."""
    parts = [path.relative_to(folder).parts for path in files]
    return {part[0] if len(part) > 1 else "" for part in parts}


def instead_of_classes(folder: Path, files: dict[str, list[Path]], stray: int) -> str:
    """Say what is there in the place of two class folders.

    Args:
        folder: Where they should be.
        files: The images of each class folder: of one, or of none.
        stray: How many images lie beside it.
    """
    if not files:
        return (
            f"its images ({stray:,}) lie in none: sort them into a folder for each class"
            if stray
            else "it has none"
        )
    (name,) = files
    below = sorted(subfolders(folder / name, files[name]) - {""})
    if not below:
        return f"it has one, '{name}'"
    return (
        f"it has one, '{name}', with {listed(below)} in it: if these are the classes, they lie one "
        "level too deep; move them up"
    )


def instead_of_half(root: Path, half: str, names: Sequence[str]) -> str:
    """Say what may be meant where there is no ``root/half/``.

    Args:
        root: The folder.
        half: ``train`` or ``test``.
        names: What is in the folder instead.
    """
    if half in names:
        return f"but '{half}' in it is a file"
    said = f"but has no '{half}'"
    if root.name.lower() in OTHER_NAMES["train"] | OTHER_NAMES["test"]:
        return f"{said}; if it is one of the two itself, give the folder above"
    for name in names:
        if (root / name / "train").is_dir():
            return f"{said}; '{name}' in it has 'train': give '{root / name}'"
    for name in names:
        if name.lower() in OTHER_NAMES[half]:
            return f"{said}; if '{name}' is meant, rename it"
    return f"{said}; it has {listed(names)}" if names else f"{said}; it is empty"
