import io
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Annotation, Text
from PIL import Image

from studies.comparison.answer import Comparison
from studies.naming import knob_text
from studies.report.figures import paper_figure, picture, price_figure
from studies.report.origin import Origin
from studies.report.styles import front_styles, series, side_by_side

Found = tuple[Comparison, Origin]
EVIL = "<script>alert('x')</script>&\"<b>"
FIGURES = {"front": paper_figure, "price": price_figure}


@pytest.mark.parametrize("name", FIGURES)
def test_the_pictures_can_be_opened(name: str, found: Found) -> None:
    figure = FIGURES[name](found[0], "tiny")
    with Image.open(io.BytesIO(picture(figure, "png"))) as opened:
        assert opened.format == "PNG"
        opened.load()
        assert opened.width > 800
        assert len(opened.convert("RGB").getcolors(1 << 24)) > 10
    assert "tiny" in _words(picture(figure, "svg"))


def _words(svg: bytes) -> str:
    root = ElementTree.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    return " ".join(root.itertext())


def test_the_front_says_what_is_drawn(found: Found) -> None:
    words = _words(picture(paper_figure(found[0], "tiny"), "svg"))
    for word in ("one model", "λ=0", "β=1", "SA, %", "pgd1"):
        assert word in words


def test_a_mark_has_its_value_beside_it_and_not_its_settings(found: Found) -> None:
    cells = found[0].cells.assign(recipe="lr=0.6596 weight_decay=0.00247 label_smoothing=0.1")
    words = _words(picture(paper_figure(replace(found[0], cells=cells), "tiny"), "svg"))
    assert "β=1" in words
    assert "weight_decay" not in words


@pytest.mark.parametrize("study", ["found", "along_widths"])
def test_labels_stand_at_every_mark_and_none_hides_another(study: str, request: Any) -> None:
    comparison: Comparison = request.getfixturevalue(study)[0]
    cells = comparison.cells
    cells.loc[1, ["sa", "ra"]] = cells.loc[0, ["sa", "ra"]]  # two marks at one place
    figure = paper_figure(replace(comparison, cells=cells), "tiny")
    figure.draw_without_rendering()
    axes = figure.axes[0]
    labels = [text for text in axes.texts if isinstance(text, Annotation)]
    assert sorted(text.get_text() for text in labels) == sorted(
        knob_text(cell) for cell in cells.to_dict("records")
    )
    boxes = [Text.get_window_extent(text) for text in labels]
    assert not [1 for one, other in combinations(boxes, 2) if one.overlaps(other)]
    assert all(axes.bbox.containsx(x) for box in boxes for x in (box.x0, box.x1))
    assert all(axes.bbox.containsy(y) for box in boxes for y in (box.y0, box.y1))


def test_the_price_names_every_front(along_widths: Found) -> None:
    words = _words(picture(price_figure(along_widths[0], "tiny"), "svg"))
    for name in along_widths[0].fronts["front"]:
        assert name in words


@pytest.mark.parametrize("name", FIGURES)
def test_a_picture_escapes_what_it_is_told(
    name: str, found: Found, renamed: Callable[[Comparison, str], Comparison]
) -> None:
    svg = picture(FIGURES[name](renamed(found[0], EVIL), "tiny"), "svg")
    root = ElementTree.fromstring(svg)
    assert not [element for element in root.iter() if element.tag.endswith("script")]
    assert EVIL in " ".join(root.itertext())


def test_the_legend_names_every_series_and_its_width(along_widths: Found) -> None:
    comparison, _ = along_widths
    svg = _words(picture(paper_figure(comparison, "tiny"), "svg"))
    names = {line.name for line in series(comparison.cells)}
    fronts = set(comparison.fronts["front"])
    assert {f"{method} all widths" for method in ("oats", "pgd_at")} == fronts - names
    assert all(f"{name} (" in svg for name in names)


def test_width_is_a_colour_and_variant_a_marker(along_widths: Found) -> None:
    lines = series(along_widths[0].cells)
    for attribute, key in (("colour", "width_mult"), ("marker", "variant")):
        seen = {(getattr(line.style, attribute), str(line.cells[key].iloc[0])) for line in lines}
        assert len(seen) == len({of for _, of in seen}) == len({what for what, _ in seen})
    assert all(line.cells["width_mult"].nunique() == 1 for line in lines)


def test_no_two_series_look_alike_without_colours(along_widths: Found) -> None:
    styles = [line.style for line in series(along_widths[0].cells)]
    assert len({(s.marker, s.filled, s.line, s.scale) for s in styles}) == len(styles)


def test_no_two_fronts_look_alike_without_colours(along_widths: Found) -> None:
    styles = front_styles(along_widths[0]).values()
    assert len({(s.marker, s.filled, s.scale) for s in styles}) == len(along_widths[0].fronts)


def test_equal_costs_are_set_side_by_side_around_their_place() -> None:
    costs = pd.Series([100.0, 100.0, 1000.0, 100.0])
    places = np.array(side_by_side(costs))
    assert len(set(places)) == 4
    assert places[2] == 1000
    assert np.prod(places[[0, 1, 3]]) == pytest.approx(100**3)
    assert np.allclose(places, costs, rtol=0.1)


@pytest.mark.parametrize("name", ["$_$ budget", "100%_$n_{x}$", "$$", "\\$"])
@pytest.mark.parametrize("figure", FIGURES)
def test_dollar_signs_of_a_name_begin_no_formula(figure: str, name: str, found: Found) -> None:
    cells, fronts = (
        table.assign(**{key: table[key].astype(str).str.replace("pgd_at", name, regex=False)})
        for key, table in (("variant", found[0].cells), ("front", found[0].fronts))
    )
    comparison = replace(found[0], cells=cells, fronts=fronts)
    words = _words(picture(FIGURES[figure](comparison, f"of {name}"), "svg"))
    assert f"of {name}" in words


def test_powers_of_ten_of_the_price_are_still_written_as_such(found: Found) -> None:
    fronts = found[0].fronts.assign(
        train_cost=[10.0 ** (6 + i) for i in range(len(found[0].fronts))]
    )
    words = _words(picture(price_figure(replace(found[0], fronts=fronts), "tiny"), "svg"))
    assert "$" not in words
