import re
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from studies.comparison.answer import Comparison
from studies.report.latex import latex_table, tex
from studies.report.origin import Origin
from studies.report.rows import HEADINGS


def test_the_latex_table_has_a_line_for_each_row(found: tuple[Comparison, Origin]) -> None:
    comparison, _ = found
    lines = latex_table(comparison).splitlines()
    assert "booktabs" in lines[0]
    body = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
    assert len(body) == len(comparison.table)
    for line in body:
        assert line.endswith(r" \\")
        assert len(re.split(r"(?<!\\)&", line)) == len(HEADINGS)
        assert line.count("[") == line.count("]") == 2
    assert r"$\Delta$SA" in latex_table(comparison)
    assert r"$\lambda$=" in body[0]


def test_latex_reads_no_sign_of_a_name_as_a_command() -> None:
    assert tex("50% of A_1 & B") == r"50\% of A\_1 \& B"
    assert tex("\\input{x}") == r"\textbackslash{}input\{x\}"
    assert tex("λ=0.2 -3.1 [-4.0,+0.5]") == r"$\lambda$=0.2 $-$3.1 [$-$4.0,$+$0.5]"
    assert tex("a-1 pgd-7") == "a-1 pgd-7"


@given(st.text())
def test_whatever_latex_gets_has_no_bare_special_sign(text: str) -> None:
    bare = re.sub(r"\\[a-z]+\{\}|\$\\?[a-z+-]+\$|\\[&%$#_{}]", "", tex(text))
    assert not set(bare) & set('\\&%$#_{}~^<>|"\n')


def test_a_row_cannot_pass_for_an_option_of_the_rule_above(
    found: tuple[Comparison, Origin], renamed: Callable[[Comparison, str], Comparison]
) -> None:
    text = latex_table(renamed(found[0], "[2cm]"))
    assert "\n{}[2cm]" in text
    assert "\n[" not in text


def test_every_letter_of_a_knob_is_one_that_latex_has() -> None:
    assert tex('mix α=0.5 "a"') == r"mix $\alpha$=0.5 ''a''"
    assert tex("αβλεΔ").isascii()
