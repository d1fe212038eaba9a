"""The main table for a paper in LaTeX."""

import re

from studies.comparison.answer import Comparison
from studies.report.rows import heading_of, headings_of, rows
from studies.statistics.intervals import LEVEL

TEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "α": r"$\alpha$",
    "λ": r"$\lambda$",
    "β": r"$\beta$",
    "ε": r"$\varepsilon$",
    "Δ": r"$\Delta$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "∞": r"$\infty$",
    "\n": " ",
}
"""What LaTeX would read as something else, or lacks in its text fonts."""


def latex_table(comparison: Comparison) -> str:
    """Write the main table as a ``tabular`` of LaTeX."""
    texts = rows(comparison)
    headings = headings_of(texts)
    body = [[tex(cell) for cell in row.values()] for row in texts]
    lines = [list(map(tex, headings.values())), *body]
    # verdicts are words: they stand at the left, as names do
    # a row that starts with a bracket or a star would be an argument of the rule above it
    head, *rest = [
        ("{}" if line[0].startswith(("[", "*")) else "") + " & ".join(line) + r" \\"
        for line in lines
    ]
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            f"% {_one_line(heading_of(comparison))}, in percent; intervals at {LEVEL:.0%}",
            rf"\begin{{tabular}}{{lll{'r' * (len(headings) - 3)}}}",
            r"\toprule",
            head,
            r"\midrule",
            *rest,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def tex(text: str) -> str:
    """Escape a text for LaTeX; signs before numbers are those of mathematics."""
    escaped = "".join(TEX.get(sign, sign) for sign in text)
    return re.sub(r"(?<![\w$])([+-])(?=\d)", r"$\1$", escaped)


def _one_line(text: str) -> str:
    return " ".join(text.split())
