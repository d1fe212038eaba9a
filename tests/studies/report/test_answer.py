"""A comparison that shows itself: in a notebook, as JSON, and on axes of one's own."""

import json
from typing import Any

from matplotlib.figure import Figure

import studies
from studies.comparison.answer import Comparison
from studies.report.answer import Answer
from studies.report.origin import Origin

Found = tuple[Comparison, Origin]


def test_every_form_carries_every_caveat(found: Found) -> None:
    answer = Answer.of(found[0])
    notes = answer.told()
    assert set(notes) == {*answer.remarks(), *answer.notes}
    assert len(notes) > 3
    text, page, record = str(answer), answer._repr_html_(), json.dumps(answer.record())
    assert text.splitlines()[0] == answer.answer()
    for note in notes:
        assert note in text
        assert note in json.loads(record)["remarks"] + json.loads(record)["notes"]
        assert note.replace("'", "&#x27;") in page
    assert "<table" in page
    assert "<th>verdict</th>" in page


def test_a_name_cannot_inject_into_a_notebook(found: Found, renamed: Any) -> None:
    page = Answer.of(renamed(found[0], "<script>alert(1)</script>"))._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_the_front_is_drawn_on_axes_of_ones_own(found: Found) -> None:
    ax = Figure().subplots()
    assert Answer.of(found[0]).plot_front(ax=ax) is ax
    assert ax.get_xlabel() == "standard accuracy SA, %"
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        "oat (one model)",
        "pgd_at (one model per mark)",
        "trades (one model per mark)",
    ]


def test_compare_returns_an_answer_of_a_study_and_of_a_frame(
    tiny: dict[str, Any], finished: Any
) -> None:
    assert isinstance(studies.compare(tiny, storage=finished), Answer)
    assert isinstance(studies.compare(studies.points(tiny, storage=finished)), Answer)
