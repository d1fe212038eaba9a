"""Terms that readers stumbled over are not printed again."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

STUDIES = Path(__file__).parents[2] / "studies"

NOWHERE = {
    "dedicated model": "retrained model",
    "Planned and not there": "Without a whole result",
    "NOT FREE": "OAT does not replace the retrained models",
    "OAT is undecided, ": "2 are undecided",
    "is the cheaper": "costs less than",
    "cheaper from": "break-even (models)",
    "To know before": "Caveats",
    "unequally many": "the numbers themselves",
    "side by side": "next to each other, or: compared with",
    "the luck of": "run-to-run variation",
    "a model each": "one model per mark",
    "SA ded.": "SA retrained",
    "RA ded.": "RA retrained",
    "million forward passes": "training cost (equivalent forward passes, millions)",
    "the data set's custom": "the value itself",
    "is for Tune": "Tune restarts",
    "to judge": "to evaluate",
    "judge by": "evaluate with",
}
"""Terms that no string of `studies` has, and what to write."""

IN_ANSWERS = {
    "all dedicated": "all retrained",
    "dedicated front": "the front of the retrained models",
    "judged": "evaluated",
    "Free vs retrained": "OAT against retrained models",
    "plain network": "exported weights",
    "compared all the same": "compared anyway",
}
"""The same for what reports and comparisons print."""

ANSWERS = ("report", "comparison", "cli/printing.py", "cli/compare.py")


def _strings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the strings of a file with their lines; docstrings are for people who read code."""
    if path.suffix != ".py":
        yield from enumerate(path.read_text().splitlines(), 1)
        return
    tree = ast.parse(path.read_text())
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told:
            yield node.lineno, node.value


def _files(*places: str) -> list[Path]:
    roots = [STUDIES / place for place in places]
    found = [path for root in roots for path in ([root] if root.is_file() else root.rglob("*"))]
    return [path for path in found if path.suffix in {".py", ".html", ".js"}]


@pytest.mark.parametrize(
    ("terms", "places"), [(NOWHERE, (".",)), (IN_ANSWERS, ANSWERS)], ids=["anywhere", "in answers"]
)
def test_no_term_that_readers_stumbled_over_is_printed(
    terms: dict[str, str], places: tuple[str, ...]
) -> None:
    files = _files(*places)
    assert len(files) > 10
    found = [
        f"{path.relative_to(STUDIES)}:{line}: '{term}'; write '{better}'"
        for path in files
        for line, text in _strings(path)
        for term, better in terms.items()
        if term in text
    ]
    assert found == []


def test_strings_are_found_in_sentences_with_values_and_not_in_docstrings(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text('"""Doc."""\nX = 1\n"""Of X."""\nprint(f"a {X} b" "c", "d")\n')
    assert sorted(_strings(path)) == [(4, " bc"), (4, "a "), (4, "d")]
