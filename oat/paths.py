"""Paths as people write them: ``~`` is the home folder; what would be another folder is refused."""

import os
import re
import unicodedata
from pathlib import Path

VARIABLE = re.compile(r"\$(\w+|\{)")
OTHER_MACHINE = re.compile(r"[A-Za-z][\w+.-]*:[/\\]")
"""``C:\\data`` and ``C:/data``, and a URI with one slash, such as ``s3:/bucket``."""


def local_path(text: str | Path) -> Path:
    """Return the absolute path that is meant.

    Raises:
        ValueError: It would be another folder than the one that is meant; the error completes a
            sentence that begins with the name of the key.
    """
    said = str(text)
    if not said.strip():
        raise ValueError(f"must name a folder, got '{said}'.")
    if any(unicodedata.category(letter) in {"Cc", "Cs"} for letter in said):
        raise ValueError(f"must be text without control characters, got {said!a}.")
    if VARIABLE.search(said):
        raise ValueError(
            f"must have its variables written out, as nothing replaces them here, got '{said}'; "
            "`~` is the home folder."
        )
    if os.name == "posix" and OTHER_MACHINE.match(said):
        raise ValueError(f"must be a path of this machine, got '{said}'; a URI has `://`.")
    try:
        return Path(said).expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(f"must name a user that exists after `~`, got '{said}'.") from error
