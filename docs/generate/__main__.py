"""`python -m docs.generate` writes every page of `docs/reference/`."""

from docs.generate import PAGES, REFERENCE

REFERENCE.mkdir(exist_ok=True)
for name, page in PAGES.items():
    (REFERENCE / name).write_text(page(), encoding="utf-8")
