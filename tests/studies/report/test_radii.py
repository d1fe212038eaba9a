"""What the report has of a study with several radii, and what one radius does not have."""

import io
import json
import math
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from studies.comparison.answer import Comparison
from studies.errors import ComparisonError
from studies.naming import radius_text
from studies.report.answer import Answer
from studies.report.captions import figure_title
from studies.report.figures import paper_figure, price_figure
from studies.report.files import render
from studies.report.origin import Origin
from studies.report.page import render_page
from studies.report.panels import BEST_OF_EACH, panels
from studies.report.radius_figures import radii_figure
from studies.report.radius_rows import curve_rows, radius_rows
from studies.report.terminal import terminal_parts

Found = tuple[Comparison, Origin]
OWN = {"radii.png", "radii.svg", "radii.csv", "areas.csv", "by_radius.csv"}
RADII = [0.02, 16 / 255, 0.1]


def test_several_radii_have_files_of_their_own_and_one_has_none(
    found: Found, at_radii: Found
) -> None:
    files = render(*at_radii)
    assert files.keys() - render(*found).keys() == OWN
    assert render(*found).keys() < files.keys()
    radii = at_radii[0].radii
    assert radii is not None
    tables = {"radii": radii.curves, "areas": radii.areas, "by_radius": radii.table}
    for name, table in tables.items():
        read = pd.read_csv(io.BytesIO(files[f"{name}.csv"]))
        for column in ("recipe", "front"):  # an empty text reads as NaN
            if column in read:
                read[column] = read[column].astype("str").fillna("")
        pd.testing.assert_frame_equal(read, table, check_dtype=False, rtol=1e-12)
    again = render(*at_radii)
    assert all(files[name] == again[name] for name in OWN)


def test_one_radius_leaves_nothing_of_radii_on_the_page(found: Found, at_radii: Found) -> None:
    words = ("At each radius", "front-radius", "startChoice", '"radii"', "by-radius")
    one, several = render_page(*found), render_page(*at_radii)
    for word in words:
        assert word not in one
        assert word in several


def test_without_a_model_to_compare_there_is_no_table_by_radius(at_radii: Found) -> None:
    comparison, _ = at_radii
    assert comparison.radii is not None
    assert radius_rows(comparison)
    table = comparison.radii.table.assign(models=0)
    radii = replace(comparison.radii, table=table)
    assert radius_rows(replace(comparison, radii=radii))  # its front's ratio is told alone
    radii = replace(comparison.radii, table=table.assign(ratio=math.nan))
    assert radius_rows(replace(comparison, radii=radii)) == []


def test_every_number_of_the_curves_stands_in_a_table(at_radii: Found) -> None:
    comparison, origin = at_radii
    radii = comparison.radii
    assert radii is not None
    headings = ["SA (ε=0)", *(f"ε={radius_text(eps)}" for eps in RADII), "area"]
    rows = {row["operating point"]: row for row in curve_rows(comparison)}
    assert len(rows) == 5
    for row in rows.values():
        assert list(row) == ["operating point", *headings]
    for point in radii.curves.itertuples():
        heading = "SA (ε=0)" if point.eps == 0 else f"ε={radius_text(point.eps)}"
        cell = rows[point.point][heading]
        assert cell.key == point.ra
        assert cell.startswith(f"{100 * point.ra:.1f} [{100 * point.ra_low:.1f},")
    page, text = render_page(comparison, origin), render(comparison, origin)["table.md"].decode()
    for row in [*rows.values(), *radius_rows(comparison)]:
        for cell in row.values():
            assert cell in page
            assert cell in text


def test_the_radius_that_decides_is_marked_in_every_form(at_radii: Found) -> None:
    comparison, _ = at_radii
    answer = Answer.of(comparison)
    assert [row["ε"] for row in radius_rows(comparison)] == ["0.02", "16/255", "0.1*"]
    assert [row["RA under"] for row in radius_rows(comparison)] == [
        "pgd1",
        "fgsm, pgd1",
        "fgsm, pgd1",
    ]
    assert "(at ε=0.1, margin" in str(answer).splitlines()[0]
    assert "Area under RA by radius (mean accuracy from 0 to ε=0.1)" in str(answer)
    assert "0.1*" in answer._repr_html_()
    assert answer.by_radius.equals(comparison.by_radius)
    record = json.loads(json.dumps(answer.record()))
    assert [row["eps"] for row in record["by_radius"]] == pytest.approx(RADII)
    assert [row["decides"] for row in record["by_radius"]] == [False, False, True]
    assert len(record["radii"]) == 20
    assert len(record["areas"]) == 5


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_terminal_shows_the_radii_in_its_width(at_radii: Found, width: int) -> None:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    tables = [part for part in terminal_parts(at_radii[0], width) if not isinstance(part, str)]
    (table,) = [table for table in tables if str(table.title).startswith("By radius")]
    with console.capture() as capture:
        console.print(table)
    said = capture.get()
    for row in radius_rows(at_radii[0]):
        assert row["ε"] in said
        assert row["ratio"].split()[0] in said
    assert max(map(len, said.splitlines())) <= width


def test_a_panel_has_the_models_of_one_value_with_oat_beside_each(at_radii: Found) -> None:
    found = {panel.title: [line.name for line in panel.lines] for panel in panels(at_radii[0])}
    assert list(found) == [BEST_OF_EACH, "λ=0", "λ=1", "β=1"]
    assert found["λ=0"] == ["oat λ=0", "pgd_at λ=0"]
    assert found["λ=1"] == ["oat λ=1", "pgd_at λ=1"]
    table = at_radii[0].table
    (lam,) = table.loc[table["dedicated"] == "trades", "oat_lam"]
    assert found["β=1"] == [f"oat λ={lam:g}", "trades β=1"]
    radii = at_radii[0].radii
    assert radii is not None
    areas = radii.areas.set_index("point")["area"]
    for name in found[BEST_OF_EACH]:
        own = areas[areas.index.str.startswith(name.split()[0])]
        assert areas[name] == own.max()


def test_every_curve_is_drawn_as_it_is(at_radii: Found) -> None:
    comparison, _ = at_radii
    figure = radii_figure(comparison, "tiny")
    shown = [axes for axes in figure.axes if axes.get_visible()]
    expected = panels(comparison)
    assert [axes.get_title() for axes in shown] == [panel.title for panel in expected]
    for axes, panel in zip(shown, expected, strict=True):
        curves: list[Any] = [bars.lines[0] for bars in axes.containers]
        for curve, line in zip(curves, panel.lines, strict=True):
            assert curve.get_xdata().tolist() == line.curve["eps"].tolist() == [0, *RADII]
            assert curve.get_ydata().tolist() == (100 * line.curve["ra"]).tolist()
        legend = axes.get_legend()
        assert legend is not None
        assert [text.get_text() for text in legend.get_texts()] == [x.name for x in panel.lines]


def test_the_front_names_its_radius_in_the_room_that_there_is(at_radii: Found) -> None:
    figure = paper_figure(at_radii[0], "tiny")
    assert figure.axes[0].get_ylabel() == "robust accuracy RA at ε=0.1, %"
    figure.draw_without_rendering()
    label = figure.axes[0].yaxis.label.get_window_extent()
    assert 0 < label.y0 < label.y1 < figure.bbox.height


def test_titles_say_data_radius_seeds_and_verdict_within_the_figure(
    found: Found, at_radii: Found
) -> None:
    for comparison, origin in (found, at_radii):
        title = figure_title(comparison, origin.plan.study)
        said = f"{origin.plan.study.name} digits, ε=0.1, 1 seed; no verdict on the method: OAT"
        assert title.replace("\n", " ").startswith(said)
        drawn = [paper_figure(comparison, title), price_figure(comparison, title)]
        if comparison.radii is not None:
            drawn.append(radii_figure(comparison, title))
            every = figure_title(comparison, origin.plan.study, every_radius=True)
            assert "ε from 0.02 to 0.1, verdict at ε=0.1, 1 seed" in every
        for figure in drawn:
            figure.draw_without_rendering()
            texts = [figure.axes[0].title, *figure.texts]
            (shown,) = [
                text for text in texts if " ".join(text.get_text().split()).startswith(said)
            ]
            box = shown.get_window_extent()
            assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1


def test_radii_are_drawn_on_axes_of_ones_own(found: Found, at_radii: Found) -> None:
    ax = Figure().subplots()
    answer = Answer.of(at_radii[0])
    assert answer.plot_radii(ax=ax, value="λ=1") is ax
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["oat λ=1", "pgd_at λ=1"]
    assert len(answer.plot_radii(ax=Figure().subplots()).containers) == 3
    with pytest.raises(ComparisonError, match="'λ=2'; did you mean 'λ=1'"):
        answer.plot_radii(ax=ax, value="λ=2")
    with pytest.raises(ComparisonError, match="needs points at several radii"):
        Answer.of(found[0]).plot_radii(ax=ax)


@pytest.mark.parametrize(
    ("eps", "text"),
    [(8 / 255, "8/255"), (0.1, "0.1"), (0.031, "0.031"), (51 / 255, "0.2"), (1.0, "1"), (0, "0")],
)
def test_a_radius_is_written_as_people_do(eps: float, text: str) -> None:
    assert radius_text(eps) == text
