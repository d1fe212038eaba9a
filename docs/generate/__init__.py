"""Pages that are written from the code that they describe: `docs/reference/`.

What such a page says of a key, an option or a column stands in the code alone. A test tells when a
page no longer says what the code says; `make docs` writes it anew.
"""

from collections.abc import Callable
from pathlib import Path

from docs.generate.api import api_page
from docs.generate.columns import columns_page
from docs.generate.commands import commands_page
from docs.generate.keys import keys_page
from docs.generate.modules import modules_page

REFERENCE = Path(__file__).resolve().parents[1] / "reference"

PAGES: dict[str, Callable[[], str]] = {
    "keys.md": keys_page,
    "commands.md": commands_page,
    "points.md": columns_page,
    "modules.md": modules_page,
    "api.md": api_page,
}
