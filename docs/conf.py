"""How Sphinx builds the pages as a site; `make docs` calls it."""

import re
import tomllib
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

import studies.tracking.model_registry  # noqa: F401 -- autodoc itself fails to import mlflow

ROOT = Path(__file__).resolve().parents[1]

project = "oat-studies"
author = copyright = "The oat-studies developers"
release = version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

default_role = "code"  # in our docstrings a name stands between single backticks
napoleon_use_ivar = True
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_default_options = {"exclude-members": "model_config"}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80

html_theme = "furo"
html_title = "oat-studies"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_copy_source = False
html_show_sphinx = False
html_math_renderer = "mathml"

OUTSIDE = {
    "README.md": "index",
    "CHANGELOG.md": "changelog",
    "CONTRIBUTING.md": "contributing",
    "SECURITY.md": "security",
}
"""Pages that lie in the repository's root, by the page of the site that has their text."""
LINK = re.compile(r"\]\(((?:\.\./)+)([A-Z]+\.md)(#[^)]*)?\)")


def _led_inside(app: Sphinx, page: str, source: list[str]) -> None:
    """Lead links to pages in the repository's root to those of the site."""
    up = "../" * page.count("/")
    source[0] = LINK.sub(lambda link: f"]({up}{OUTSIDE[link[2]]}.md{link[3] or ''})", source[0])


def _visit_math(self: HTML5Translator, node: nodes.math) -> None:
    """Write a formula as MathML, which browsers show without any script."""
    self.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def _visit_math_block(self: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula of its own line as MathML."""
    self.body.append(f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Register what the pages need beyond Sphinx's own."""
    app.connect("source-read", _led_inside)
    app.add_html_math_renderer("mathml", (_visit_math, None), (_visit_math_block, None))
