import io
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from studies import api
from studies.comparison import Comparison
from studies.config import load_study
from studies.planning import Plan
from studies.report import (
    HEADINGS,
    front_rows,
    markdown,
    page,
    render,
    rows,
    series,
    terminal,
    variant_rows,
)

PICTURES = {"front.png", "front.svg"}
FILES = {*PICTURES, "index.html", "table.csv", "table.md", "cells.csv", "fronts.csv"}
EVIL = "<script>alert('x')</script>&\"<b>"


class Page(HTMLParser):
    """The tags of a page with their attributes, its words, and the cells of its tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.tables: list[list[list[str]]] = []
        self._cell = False
        self._script = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._script = tag in {"script", "style"}
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in {"td", "th"}:
            self.tables[-1][-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        self._script = False
        if tag in {"td", "th"}:
            self._cell = False

    def handle_data(self, data: str) -> None:
        if not self._script:
            self.words += data
        if self._cell:
            self.tables[-1][-1][-1] += data


@pytest.fixture
def found(tiny: dict[str, Any], finished: Path) -> tuple[Comparison, Plan]:
    """The comparison and the plan of the finished tiny study."""
    return api.compare(api.points(tiny, storage=finished)), api.plan(tiny, storage=finished)


def _renamed(comparison: Comparison, name: str) -> Comparison:
    """Give the methods of a comparison another name, here with what a page must escape."""
    table = comparison.table.assign(
        dedicated=name + comparison.table["dedicated"], once=name + comparison.table["once"]
    )
    cells = comparison.cells.assign(variant=name + comparison.cells["variant"])
    fronts = comparison.fronts.assign(front=name + comparison.fronts["front"])
    return replace(comparison, table=table, cells=cells, fronts=fronts, notes=[name])


def test_the_report_is_of_these_files(found: tuple[Comparison, Plan]) -> None:
    files = render(*found)
    assert files.keys() == FILES
    assert all(isinstance(data, bytes) and data for data in files.values())


def test_the_pictures_can_be_opened(found: tuple[Comparison, Plan]) -> None:
    files = render(*found)
    with Image.open(io.BytesIO(files["front.png"])) as picture:
        assert picture.format == "PNG"
        picture.load()
        assert picture.width > 800
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 10
    root = ElementTree.fromstring(files["front.svg"])
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    words = " ".join(root.itertext())
    for word in ("tiny", "one model", "λ=0", "β=1", "SA, %", "pgd1"):
        assert word in words


def test_the_same_points_make_the_same_pictures_and_tables(
    found: tuple[Comparison, Plan],
) -> None:
    one, two = render(*found), render(*found)
    for name in FILES - {"index.html"}:  # which says when it was made
        assert one[name] == two[name], name


def test_the_page_asks_for_nothing_outside_itself(found: tuple[Comparison, Plan]) -> None:
    text = page(*found)
    for tag, attributes in Page(text).tags:
        assert tag not in {"link", "iframe", "object", "embed", "base", "img"}
        for name in ("src", "href", "srcset", "action", "data"):
            assert not attributes.get(name), (tag, attributes)
    assert "@import" not in text.partition("</style>")[0]


def test_the_page_has_the_answer_the_tables_and_the_trials(
    found: tuple[Comparison, Plan],
) -> None:
    comparison, current = found
    seen = Page(page(comparison, current))
    assert comparison.answer() in seen.words
    for note in comparison.notes:
        assert note in seen.words
    main, fronts, trials = seen.tables
    assert main == [list(HEADINGS.values()), *(list(row.values()) for row in rows(comparison))]
    assert fronts[1:] == [list(row.values()) for row in front_rows(comparison)]
    assert [row[-1] for row in trials[1:]] == [trial.run_key for trial in current.trials]
    assert "front" in [attributes.get("id") for _, attributes in seen.tags]


def test_rows_are_the_numbers_of_the_table_in_percent(found: tuple[Comparison, Plan]) -> None:
    comparison, _ = found
    assert len(rows(comparison)) == len(comparison.table) == 3
    for text, row in zip(rows(comparison), comparison.table.to_dict("records"), strict=True):
        assert text["dedicated"].split()[0] == row["dedicated"]
        value = f"β={row['beta']:g}" if pd.isna(row["lam"]) else f"λ={row['lam']:g}"
        assert text["dedicated"].endswith(value)
        assert float(text["oat"].partition("λ=")[2]) == row["oat_lam"]
        for name in ("sa_oat", "sa_dedicated", "ra_oat", "ra_dedicated"):
            assert float(text[name]) == pytest.approx(100 * row[name], abs=0.0501)
        for name in ("d_sa", "d_ra"):
            numbers = [float(number) for number in re.findall(r"[+-]\d+\.\d", text[name])]
            expected = [100 * row[key] for key in (name, f"{name}_low", f"{name}_high")]
            assert numbers == pytest.approx(expected, abs=0.0501)
        assert text["verdict"] == row["verdict"]


def test_the_csv_files_hold_the_tables_unrounded(found: tuple[Comparison, Plan]) -> None:
    comparison, current = found
    files = render(comparison, current)
    for name, table in (("table.csv", comparison.table), ("cells.csv", comparison.cells)):
        read = pd.read_csv(io.BytesIO(files[name]))
        pd.testing.assert_frame_equal(read, table, check_dtype=False, rtol=1e-12)


def test_markdown_has_the_same_rows(found: tuple[Comparison, Plan]) -> None:
    comparison, _ = found
    text = markdown(comparison)
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    table = [list(row.values()) for row in rows(comparison)]
    assert lines[0] == list(HEADINGS.values())
    assert lines[2 : 2 + len(table)] == table
    assert lines[-len(comparison.fronts) :] == [list(r.values()) for r in front_rows(comparison)]
    assert comparison.answer() in text
    assert all(note in text for note in comparison.notes)


@pytest.fixture(scope="module")
def along_widths(
    tiny_file: Path, tmp_path_factory: pytest.TempPathFactory, train_all: Callable[..., None]
) -> tuple[Comparison, Plan]:
    """The comparison and the plan of a study with OAT, OATS and narrow dedicated models."""
    blocks = (
        "{name: oats, lambda_choices: [0, 1], width_mults: [0.5, 1]}",
        "{name: oat, lambda_choices: [0, 1]}",
        "{name: oat, lambda_choices: [0, 1], encoding: continuous}",
        "{name: pgd_at, lam: 1, width_mults: [0.5, 1]}",
    )
    study = load_study(tiny_file, [f"methods=[{', '.join(blocks)}]"])
    storage = tmp_path_factory.mktemp("along_widths")
    train_all(study, storage)
    return api.compare(api.points(study, storage=storage)), api.plan(study, storage=storage)


def test_a_comparison_along_widths_names_the_width_everywhere(
    along_widths: tuple[Comparison, Plan],
) -> None:
    comparison, plan = along_widths
    assert sorted(row["dedicated"] for row in rows(comparison)) == [
        "pgd_at λ=1 width=0.5",
        *["pgd_at λ=1 width=1"] * 3,
    ]
    fronts = {row["front"]: row["ratio"] for row in front_rows(comparison)}
    assert len(fronts) == 8
    assert {name for name, ratio in fronts.items() if ratio} == set(comparison.ratios)
    files = render(comparison, plan)
    assert files.keys() == {*FILES, "variants.csv"}
    shown = Page(files["index.html"].decode())
    svg = " ".join(ElementTree.fromstring(files["front.svg"]).itertext())
    for name in fronts:
        assert name in shown.words
    names = {line.name for line in series(comparison.cells)}
    assert {f"{method} all widths" for method in ("oats", "pgd_at")} == set(fronts) - names
    assert all(f"{name} (" in svg for name in names)


def test_width_is_a_colour_and_variant_a_marker(along_widths: tuple[Comparison, Plan]) -> None:
    lines = series(along_widths[0].cells)
    for attribute, key in (("colour", "width_mult"), ("marker", "variant")):
        seen = {(getattr(line, attribute), str(line.cells[key].iloc[0])) for line in lines}
        assert len(seen) == len({of for _, of in seen}) == len({what for what, _ in seen})
    assert all(line.cells["width_mult"].nunique() == 1 for line in lines)


def test_variants_stand_beside_the_plainest_in_every_form(
    along_widths: tuple[Comparison, Plan],
) -> None:
    comparison, plan = along_widths
    texts = variant_rows(comparison)
    assert [row["variant"] for row in texts] == [
        f"{name} λ={lam} width={width}"
        for name, lam, width in [
            *[("oat encoding=continuous", lam, 1) for lam in (0, 1)],
            *[("oats", lam, 1) for lam in (0, 1)],
            *[("oats", lam, 0.5) for lam in (0, 1)],
        ]
    ]
    assert [row["ΔRA"] == "" for row in texts] == [False] * 4 + [True] * 2
    table = Page(page(comparison, plan)).tables[1]
    assert table[1:] == [list(row.values()) for row in texts]
    assert markdown(comparison).count("\n| oats λ=") == 4
    lines, _ = _printed(comparison, 120)
    for row in texts:
        assert row["SA"] in " ".join(lines)


def test_the_page_and_the_picture_escape_what_they_are_told(
    found: tuple[Comparison, Plan],
) -> None:
    comparison, current = found
    plain = Page(page(comparison, current))
    evil = replace(
        current,
        trials=tuple(replace(trial, label=EVIL + trial.label) for trial in current.trials),
    )
    seen = Page(page(_renamed(comparison, EVIL), evil))
    assert [tag for tag, _ in seen.tags if tag in {"script", "b"}] == [
        tag for tag, _ in plain.tags if tag in {"script", "b"}
    ]
    assert len(seen.tables) == 3
    for table in seen.tables:
        assert all(row[0].startswith(EVIL) for row in table[1:])
    svg = ElementTree.fromstring(render(_renamed(comparison, EVIL), evil)["front.svg"])
    assert not [element for element in svg.iter() if element.tag.endswith("script")]
    assert EVIL in " ".join(svg.itertext())


def _printed(comparison: Comparison, width: int) -> tuple[list[str], list[str]]:
    """Return the lines of the tables and the sentences, as a terminal shows them."""
    buffer, sentences = io.StringIO(), []
    console = Console(file=buffer, width=width, color_system=None)
    for part in terminal(comparison, width):
        if isinstance(part, str):
            sentences.append(part)
        else:
            console.print(part)
    return buffer.getvalue().splitlines(), sentences


def _two_networks(comparison: Comparison) -> Comparison:
    """Set a second once-for-all network beside the first, with the name that a study gives it."""
    second = "oat encoding=onehot dual_bn=False"
    return replace(
        comparison,
        table=pd.concat([comparison.table, comparison.table.assign(once=second)]),
        fronts=pd.concat([comparison.fronts, comparison.fronts.assign(front=second)]),
    )


@pytest.mark.parametrize("width", [80, 100, 117, 118, 120, 200])
@pytest.mark.parametrize("several", [False, True], ids=["one network", "two networks"])
def test_the_terminal_shows_every_number_whole(
    width: int, several: bool, found: tuple[Comparison, Plan]
) -> None:
    comparison = _two_networks(found[0]) if several else found[0]
    lines, sentences = _printed(comparison, width)
    assert all(len(line) <= width for line in lines)
    text = "\n".join(lines)
    assert "…" not in text
    words = set(text.split())
    for row in rows(comparison):
        shown = [v for key, v in row.items() if key not in {"dedicated", "oat", "cost"}]
        for piece in " ".join(shown).split():
            assert piece in words
    for row in front_rows(comparison):
        for piece in row["hypervolume"].split():
            assert piece in text
    assert sentences[0] == comparison.answer()
    assert sentences[1:] == comparison.notes


def test_a_wide_terminal_shows_what_training_cost_beside_each_row(
    found: tuple[Comparison, Plan],
) -> None:
    wide, narrow = ("\n".join(_printed(found[0], width)[0]) for width in (120, 80))
    assert "training" in wide.split("Hypervolume")[0]
    assert "training" not in narrow.split("Hypervolume")[0]
    assert "training" in narrow.split("Hypervolume")[1]
