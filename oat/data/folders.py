"""Image files in class folders: which there are, what is left out, what is refused."""

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from oat.data.errors import DataError
from oat.data.hints import instead_of_classes, instead_of_half, listed, subfolders

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"}
    | {".jfif", ".jpe", ".gif", ".avif", ".jp2"}
)
"""Names of image files end so, in small or capital letters."""
SYSTEM = frozenset(
    {"__macosx", "__pycache__", "@eadir", "$recycle.bin", "lost+found", "thumbs.db", "desktop.ini"}
)
"""What systems leave in folders, besides names that begin with a dot."""
HIDDEN, LOOP, STRAY = "hidden or system", "looped link", "in no class folder"


@dataclass(frozen=True)
class Half:
    """The images below ``train`` or ``test``.

    Attributes:
        folder: Where they lie.
        files: Those of each class, in order.
        left_out: How many files and folders were left out, by kind.
        nested: Sub-folders that all classes share, where no class has an image of its own.
    """

    folder: Path
    files: dict[str, list[Path]]
    left_out: Counter[str]
    nested: tuple[str, ...]

    def remarks(self) -> list[str]:
        """Say what was left out, and what looks like a wrong level."""
        said = []
        if self.left_out:
            kinds = ", ".join(f"{n:,} {kind}" for kind, n in sorted(self.left_out.items()))
            said.append(f"Left out below '{self.folder}': {kinds}.")
        said += [
            f"{listed(names)} below '{self.folder}' are classes of their own, though they differ "
            "only in case, spaces or the encoding of their letters; if they are one, join them."
            for names in _alike(self.files)
        ]
        if self.nested:
            said.append(
                f"Every class below '{self.folder}' has the sub-folders {listed(self.nested)} and "
                "no image beside them; if these are the classes, move them up."
            )
        return said


def find_images(root: Path, half: str) -> Half:
    """Find the images of ``root/half/<class>/``, at any depth, in the order of their paths.

    Raises:
        DataError: The folder is not there or cannot be read, or its classes are unfit.
    """
    folder = root / half
    _check_half(root, half)
    left_out: Counter[str] = Counter()
    classes, stray = [], 0
    for entry in _visible(folder, left_out):
        if _is(entry.is_dir):
            classes.append(entry.name)
        elif _is_image(entry.name):
            stray += 1
        else:
            left_out[_kind(entry.name)] += 1
    if stray:
        left_out[STRAY] = stray
    real = Path(os.path.realpath(folder))
    above = frozenset(map(str, (real, *real.parents)))
    files = {
        name: sorted(_walk(folder / name, left_out, above), key=_place) for name in sorted(classes)
    }
    _check_classes(folder, files, stray)
    return Half(folder, files, left_out, _shared_subfolders(folder, files))


def _check_half(root: Path, half: str) -> None:
    wanted = "must be a folder with train/<class>/<image> and test/<class>/<image>"
    if os.path.isdir(root / half):
        return
    if os.path.isdir(root):
        names = [entry.name for entry in _visible(root, Counter())]
        found = instead_of_half(root, half, names)
    elif os.path.isfile(root):
        found = "but is a file; if it is an archive, unpack it"
    else:
        found = "but is not there, or may not be entered"
    raise DataError(f"`data.root` '{root}' {wanted}, {found}.")


def _visible(folder: Path, left_out: Counter[str]) -> list["os.DirEntry[str]"]:
    """List a folder without what is hidden, which is counted."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"'{folder}' cannot be read ({error.strerror}).") from error
    shown = [e for e in entries if not (e.name.startswith(".") or e.name.lower() in SYSTEM)]
    if len(shown) < len(entries):
        left_out[HIDDEN] += len(entries) - len(shown)
    return shown


def _walk(folder: Path, left_out: Counter[str], above: frozenset[str]) -> Iterator[Path]:
    """Yield the image files below a folder; links are followed, but not in a circle."""
    real = os.path.realpath(folder)
    if real in above:
        left_out[LOOP] += 1
        return
    for entry in _visible(folder, left_out):
        if _is(entry.is_dir):
            yield from _walk(folder / entry.name, left_out, above | {real})
        elif not _is_image(entry.name):
            left_out[_kind(entry.name)] += 1
        elif _is(entry.is_file):
            yield folder / entry.name
        else:
            raise DataError(
                f"'{folder / entry.name}' is no file (a broken link, or a pipe); replace or "
                "remove it."
            )


def _is(look: Callable[[], bool]) -> bool:
    """Ask what an entry is; a link to itself is nothing."""
    try:
        return look()
    except OSError:
        return False


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def _kind(name: str) -> str:
    return os.path.splitext(name)[1].lower() or "without an extension"


def _place(path: Path) -> tuple[str, str]:
    """Sort as torchvision's `ImageFolder` does: by the folder's path, then by name."""
    return str(path.parent), path.name


def _check_classes(folder: Path, files: dict[str, list[Path]], stray: int) -> None:
    """Check that there are two classes or more, each with an image.

    Raises:
        DataError: There are not.
    """
    if len(files) < 2:
        raise DataError(
            f"'{folder}' must have two class folders or more; "
            f"{instead_of_classes(folder, files, stray)}."
        )
    for name, found in files.items():
        if not found:
            raise DataError(
                f"The class folder '{folder / name}' has no image; fill or remove it. Images end "
                f"in {' '.join(sorted(SUFFIXES))}."
            )


def _alike(names: Iterable[str]) -> Iterator[list[str]]:
    """Yield names that read the same."""
    found = defaultdict(list)
    for name in names:
        found[unicodedata.normalize("NFKC", name).casefold().strip()].append(name)
    yield from (same for same in found.values() if len(same) > 1)


def _shared_subfolders(folder: Path, files: dict[str, list[Path]]) -> tuple[str, ...]:
    """Return the sub-folders that all classes have, if two or more and no image beside them."""
    first, *others = (subfolders(folder / name, found) for name, found in files.items())
    same = all(other == first for other in others)
    return tuple(sorted(first)) if same and len(first) > 1 and "" not in first else ()
