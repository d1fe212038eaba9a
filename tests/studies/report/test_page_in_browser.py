"""The page, opened from a file in Debian's chromium: what moves, and that nothing leaves it."""

import math
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

import studies
from studies.comparison.answer import Comparison
from studies.comparison.verdict import VERDICTS
from studies.report.origin import Origin, gather
from studies.report.page import render_page
from studies.results.mlflow_index import Links
from studies.storage.local import LocalFolder
from studies.study_file.loading import load_study
from studies.study_file.study import Study

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed"),
]
Found = tuple[Comparison, Origin]
Open = Callable[..., Any]
SERVER = "http://127.0.0.1:5000/#/experiments/1/runs"
EVIL = "</script><img src=x onerror=console.error('evil')>\"<b>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Open the page of a comparison; at the end nothing was complained of and nothing asked."""
    complaints: list[str] = []
    requests: list[str] = []
    path = tmp_path / "index.html"
    context = browser.new_context(viewport={"width": 1200, "height": 900})

    def apply(comparison: Comparison, origin: Origin, others: tuple[Comparison, ...] = ()) -> Any:
        path.write_text(render_page(comparison, origin, others))
        tab = context.new_page()
        tab.on("console", lambda said: complaints.append(f"{said.type}: {said.text}"))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(path.as_uri())
        tab.wait_for_selector("html[data-charts=drawn]")
        return tab

    yield apply
    context.close()
    assert complaints == []
    assert set(requests) == {path.as_uri()}


def _linked(found: Found) -> Found:
    comparison, origin = found
    keys = [key for keys in comparison.cells["point_keys"] for key in keys.split()]
    return comparison, replace(origin, links=Links(points={key: f"{SERVER}/{key}" for key in keys}))


@pytest.fixture(scope="module")
def two_seeds(
    tiny_file: Path, tmp_path_factory: pytest.TempPathFactory, train_all: Callable[..., None]
) -> Callable[[str], Found]:
    """Make the comparison of a study of two seeds with these methods."""

    def apply(methods: str) -> Found:
        study: Study = load_study(tiny_file, ["seeds=[0, 1]", f"methods={methods}"])
        storage = tmp_path_factory.mktemp("two_seeds")
        train_all(study, storage)
        points = studies.points(study, storage=storage)
        folder = LocalFolder(storage / study.name)
        return studies.compare(points), gather(studies.plan(study, storage=storage), folder)

    return apply


def _cell(comparison: Comparison, name: str, width: float, lam: float) -> Any:
    cells = comparison.cells
    own = cells[(cells["variant"] == name) & (cells["width_mult"] == width) & (cells["lam"] == lam)]
    assert len(own) == 1
    return own.iloc[0]


def _ring(tab: Any, uid: str) -> list[float]:
    """Return where a ring of the chart stands, in percent."""
    place: list[list[float]] = tab.evaluate(
        "uid => { const t = document.getElementById('front').data.find(t => t.uid === uid);"
        " return [...t.x, ...t.y]; }",
        uid,
    )
    return place  # type: ignore[return-value]


def _slide(tab: Any, step: int) -> None:
    tab.get_by_label("trade-off").evaluate(
        "(node, step) => { node.value = step; node.dispatchEvent(new Event('input')); }", step
    )


def _at(cell: Any) -> Any:
    return pytest.approx([100 * cell["sa"], 100 * cell["ra"]])


def test_the_slider_and_the_selectors_move_the_operating_point(
    show: Open, along_widths: Found
) -> None:
    comparison, _ = along_widths
    tab = show(*along_widths)
    panel = tab.locator("#operating")
    tab.get_by_label("model", exact=True).select_option("oats")
    for width in (1.0, 0.5):
        tab.get_by_label("width").select_option(f"{width:g}")
        dedicated = _cell(comparison, "pgd_at", width, 1.0)
        for step, lam in enumerate((0.0, 1.0)):
            _slide(tab, step)
            cell = _cell(comparison, "oats", width, lam)
            assert _ring(tab, "here") == _at(cell)
            assert _ring(tab, "nearest") == _at(dedicated)
            assert tab.locator("#lam-value").inner_text() == f"λ={lam:g}"
            text = panel.inner_text()
            assert f"oats width={width:g} λ={lam:g}" in text
            assert f"pgd_at width={width:g} λ=1" in text
            for value in (cell["sa"], cell["ra"], dedicated["sa"], dedicated["ra"]):
                assert f"{100 * value:.1f} %" in text
            told = comparison.nearest[comparison.nearest["once"] == cell.name].iloc[0]
            for name in ("sa", "ra"):
                value, low, high = (100 * told[f"d_{name}{end}"] for end in ("", "_low", "_high"))
                assert value == pytest.approx(100 * (cell[name] - dedicated[name]))
                assert f"{name.upper()} {value:+.1f} [{low:+.1f},{high:+.1f}]" in text
            assert f"{cell['flops'] / 1e6:,.1f} M per image" in text
            assert f"{cell['deployed_bytes'] / 1e6:.2f} MB" in text


def test_a_model_of_one_width_offers_no_other(show: Open, along_widths: Found) -> None:
    tab = show(*along_widths)
    tab.get_by_label("model", exact=True).select_option("oats")
    tab.get_by_label("width").select_option("0.5")
    assert tab.get_by_label("width").locator("option").all_inner_texts() == ["1", "0.5"]
    tab.get_by_label("model", exact=True).select_option("oat")
    assert tab.get_by_label("width").locator("option").all_inner_texts() == ["1"]
    assert tab.get_by_label("width").is_disabled()
    assert "oat width=1" in tab.locator("#operating").inner_text()


def test_the_slider_can_be_moved_by_keys(show: Open, found: Found) -> None:
    tab = show(*found)
    slider = tab.get_by_label("trade-off")
    slider.focus()
    slider.press("Home")
    assert tab.locator("#lam-value").inner_text() == "λ=0"
    slider.press("ArrowRight")
    assert tab.locator("#lam-value").inner_text() == "λ=1"
    assert slider.get_attribute("aria-valuetext") == "λ=1"
    assert _ring(tab, "here") == _at(_cell(found[0], "oat", 1.0, 1.0))


def test_the_nearest_dedicated_model_is_the_nearest_of_all_methods(
    show: Open, found: Found
) -> None:
    comparison, _ = found
    tab = show(*found)
    others = comparison.cells[comparison.cells["method"] != "oat"]
    assert "trades" in set(others["method"])
    for step, lam in enumerate((0.0, 1.0)):
        _slide(tab, step)
        here = _cell(comparison, "oat", 1.0, lam)
        distance = (others["sa"] - here["sa"]) ** 2 + (others["ra"] - here["ra"]) ** 2
        assert _ring(tab, "nearest") == _at(others.loc[distance.idxmin()])


def test_with_one_model_alone_there_is_nothing_to_hold_it_against(
    show: Open, two_seeds: Callable[[str], Found]
) -> None:
    comparison, origin = two_seeds("[{name: oat, lambda_choices: [0, 1]}]")
    tab = show(comparison, origin)
    assert "No retrained model has this width." in tab.locator("#operating").inner_text()
    assert _ring(tab, "here") != []
    assert _ring(tab, "nearest") == []
    assert not tab.get_by_label("model", exact=True).is_visible()


def test_with_dedicated_models_alone_there_is_no_slider(
    show: Open, two_seeds: Callable[[str], Found]
) -> None:
    tab = show(*two_seeds("[{name: trades, beta: [1]}, {name: pgd_at, lam: [1]}]"))
    assert tab.locator("#lam").count() == 0
    assert tab.locator("#front .plotly").count() > 0


def test_every_seed_has_a_link_in_the_panel(show: Open, two_seeds: Callable[[str], Found]) -> None:
    methods = "[{name: oat, lambda_choices: [0, 1]}, {name: pgd_at, lam: [1]}]"
    comparison, origin = _linked(two_seeds(methods))
    tab = show(comparison, origin)
    _slide(tab, 1)
    links = tab.locator("#operating a").evaluate_all("nodes => nodes.map(a => a.href)")
    cells = (_cell(comparison, name, 1.0, 1.0) for name in ("oat", "pgd_at"))
    keys = [key for cell in cells for key in cell["point_keys"].split()]
    assert sorted(links) == sorted(f"{SERVER}/{key}" for key in keys)
    assert len(links) == 4
    texts = tab.locator("#operating a").all_inner_texts()
    assert [text.split(":")[0] for text in texts] == ["seed 0", "seed 1"] * 2


def test_a_click_on_a_mark_shows_its_numbers_and_its_runs(show: Open, found: Found) -> None:
    comparison, origin = _linked(found)
    tab = show(comparison, origin)
    cell = _cell(comparison, "pgd_at", 1.0, 0.0)
    tab.evaluate(
        "([x, y]) => { const front = document.getElementById('front');"
        " front.scrollIntoView();"
        " const box = front.getBoundingClientRect(), axes = front._fullLayout;"
        " window.at = [box.x + axes._size.l + axes.xaxis.d2p(x),"
        " box.y + axes._size.t + axes.yaxis.d2p(y)]; }",
        [100 * cell["sa"], 100 * cell["ra"]],
    )
    x, y = tab.evaluate("window.at")
    tab.mouse.move(x - 3, y)
    tab.mouse.move(x, y)
    hover = tab.locator("#front .hoverlayer .hovertext")
    hover.wait_for()
    assert "pgd_at λ=0" in (said := hover.text_content())
    assert f"{100 * cell['sa']:.1f} %" in said
    assert cell["run_keys"] in said
    tab.mouse.click(x, y, delay=100)  # plotly misses a press of no length now and then
    details = tab.locator("#details")
    details.get_by_text("pgd_at λ=0").wait_for()
    assert f"{100 * cell['ra']:.1f} %" in details.inner_text()
    address = details.get_by_role("link").get_attribute("href")
    assert address == f"{SERVER}/{cell['point_keys']}"


def _column(tab: Any, table: str, column: int) -> list[str]:
    cells = tab.locator(f"#{table} tbody tr td:nth-child({column + 1})")
    return list(cells.all_inner_texts())


@pytest.mark.parametrize("press", ["click", "key"])
def test_a_table_is_sorted_by_numbers_both_ways(press: str, show: Open, found: Found) -> None:
    comparison, origin = found
    # as texts, 9.0 would come after 10.0, and +1.0 before -2.0
    values = [0.1, 0.09, -0.02]
    table = comparison.table.assign(sa_oat=values, d_sa=values, d_sa_low=-1.0, d_sa_high=1.0)
    table = table.assign(dedicated="pgd_at", lam=[0.25, 0.05, 1e-5], beta=math.nan)
    tab = show(replace(comparison, table=table), origin)
    models = [f"pgd_at λ={lam}" for lam in ("1e-05", "0.05", "0.25")]
    numbers = ((3, ["-2.0", "9.0", "10.0"]), (5, ["-2.0", "+9.0", "+10.0"]))
    for column, texts in ((0, models), *numbers):
        header = tab.locator("#table thead th").nth(column)
        for order, expected in (("ascending", texts), ("descending", texts[::-1])):
            button = header.get_by_role("button")
            button.click() if press == "click" else button.press("Enter")
            assert header.get_attribute("aria-sort") == order
            shown = [text.split(" [")[0] for text in _column(tab, "table", column)]
            assert shown == expected
    states = tab.locator("#table thead th").evaluate_all("nodes => nodes.map(n => n.ariaSort)")
    assert states.count("none") == len(states) - 1


def test_cells_without_a_number_come_last_in_both_directions(show: Open, found: Found) -> None:
    tab = show(*found)
    header = tab.locator("#fronts thead th").filter(has_text=re.compile("^ratio"))
    column = header.evaluate("node => node.cellIndex")
    for _ in range(2):
        header.get_by_role("button").click()
        assert [bool(text) for text in _column(tab, "fronts", column)] == [
            True,
            False,
            False,
            False,
        ]


def test_texts_of_others_stay_texts(
    show: Open, found: Found, renamed: Callable[[Comparison, str], Comparison]
) -> None:
    comparison = renamed(found[0], EVIL)
    study = found[1].plan.study.model_copy(update={"name": EVIL})
    origin = replace(found[1], plan=replace(found[1].plan, study=study))
    tab = show(replace(comparison, attack=EVIL), origin)
    assert tab.title().startswith(EVIL)
    assert EVIL in tab.locator("#operating").inner_text()
    tab.evaluate("showDetails(points[0])")
    assert EVIL in tab.locator("#details").inner_text()
    assert EVIL in tab.locator("#front .legend").text_content()
    assert tab.locator("img").count() == tab.locator("main b").count() == 0


def test_nothing_is_wider_than_the_window_and_every_verdict_is_in_view(
    show: Open, along_widths: Found
) -> None:
    tab = show(*along_widths)
    for width in (1200, 600, 420):
        tab.set_viewport_size({"width": width, "height": 900})
        # charts follow the window a little later
        tab.wait_for_function("width => document.documentElement.scrollWidth <= width", arg=width)
        verdicts = tab.locator("#table tbody td:nth-child(2)").all()
        assert {cell.inner_text() for cell in verdicts} <= {*VERDICTS}
        for cell in verdicts:
            place = cell.bounding_box()
            assert place is not None
            assert place["x"] + place["width"] <= width


def _boxes(tab: Any, chart: str) -> list[dict[str, Any]]:
    """Return text, left, top, right and bottom of each label of a chart."""
    boxes: list[dict[str, Any]] = tab.locator(f"#{chart} .annotation-text").evaluate_all(
        "nodes => nodes.map(node => { const box = node.getBoundingClientRect();"
        " return { ...box.toJSON(), text: node.textContent }; })"
    )
    return boxes


def _overlapping(boxes: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [
        (one["text"], other["text"])
        for one, other in combinations(boxes, 2)
        if min(one["right"], other["right"]) > max(one["left"], other["left"])
        and min(one["bottom"], other["bottom"]) > max(one["top"], other["top"])
    ]


def test_every_mark_and_every_training_curve_has_a_label_of_its_own_place(
    show: Open, found: Found
) -> None:
    comparison, _ = found
    # two marks at one place, as a model has them that does not heed its λ
    cells = comparison.cells.copy()
    cells.loc[1, ["sa", "ra"]] = cells.loc[0, ["sa", "ra"]]
    tab = show(replace(comparison, cells=cells), found[1])
    values = ["λ=0", "λ=0", "λ=1", "λ=1", "β=1"]
    buttons = ("Show 0 to 100 %", "Zoom to the points")
    for button, other in (buttons, buttons[::-1]):
        boxes = _boxes(tab, "front")
        assert sorted(box["text"] for box in boxes) == sorted(values)
        assert _overlapping(boxes) == []
        tab.get_by_role("button", name=button).click()
        tab.get_by_role("button", name=other).wait_for()
        wide = tab.evaluate("document.getElementById('front').layout.xaxis.range")
        assert (wide == [0, 100]) == (button == buttons[0])
    for chart, lines in (("loss", 1), ("accuracy", 2)):
        boxes = _boxes(tab, chart)
        assert sorted(box["text"] for box in boxes) == sorted(
            ["all λ", *values[1:3], "β=1"] * lines
        )
        assert _overlapping(boxes) == []


def _wait_for_paper(tab: Any, colour: str) -> None:
    """Wait until the charts have followed the theme."""
    tab.wait_for_function(
        "colour => document.getElementById('front')._fullLayout.paper_bgcolor === colour",
        arg=colour,
    )


def test_the_page_is_accessible_in_both_themes(show: Open, at_radii: Found) -> None:
    tab = show(*_linked(at_radii))
    tab.locator("details").evaluate_all("nodes => nodes.forEach(node => { node.open = true; })")
    tab.evaluate("showDetails(points[0])")
    for scheme, paper in (("light", "#ffffff"), ("dark", "#14181f")):
        tab.emulate_media(color_scheme=scheme)
        _wait_for_paper(tab, paper)
        found = axe.Axe().run(tab)
        assert found.violations_count == 0, found.generate_report()


def test_on_paper_the_page_is_light_as_wide_as_the_paper_and_has_no_buttons(
    show: Open, found: Found
) -> None:
    tab = show(*found)
    tab.set_viewport_size({"width": 703, "height": 900})  # A4 between margins of 12 mm
    tab.emulate_media(media="print", color_scheme="dark")
    _wait_for_paper(tab, "#ffffff")
    tab.locator("details:not([open])").first.wait_for(state="detached")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 703
    charts = tab.locator("#front .main-svg, #price .main-svg, #loss .main-svg")
    assert charts.evaluate_all("all => all.every(one => one.getBoundingClientRect().right <= 703)")
    for hidden in (".modebar", "#front-zoom", ".controls", "#details"):
        assert tab.locator(hidden).first.is_hidden()


def test_without_the_library_the_page_says_so_and_its_tables_can_be_sorted(
    browser: Any, found: Found, tmp_path: Path
) -> None:
    path = tmp_path / "index.html"
    path.write_text(render_page(*found))
    context = browser.new_context()
    tab = context.new_page()
    tab.add_init_script("delete window.DecompressionStream")
    tab.goto(path.as_uri())
    tab.get_by_text("This browser is too old for the charts").wait_for()
    header = tab.locator("#table thead th").nth(1)
    header.get_by_role("button").click()
    assert header.get_attribute("aria-sort") == "ascending"
    context.close()


def _drawn(tab: Any, chart: str) -> list[dict[str, Any]]:
    """Return name, x and y of each trace of a chart."""
    drawn: list[dict[str, Any]] = tab.evaluate(
        "id => document.getElementById(id).data.map(({name, x, y}) => ({name, x, y}))", chart
    )
    return drawn


def test_the_front_and_the_curves_follow_their_selectors(show: Open, at_radii: Found) -> None:
    comparison, _ = at_radii
    radii = comparison.radii
    assert radii is not None
    tab = show(*at_radii)
    radius = tab.get_by_label("the front at")
    assert radius.locator("option").all_inner_texts() == ["ε=0.02", "ε=16/255", "ε=0.1"]
    assert radius.input_value() == "ε=0.1"
    for label, one in zip(("ε=0.02", "ε=16/255", "ε=0.1"), radii.at.values(), strict=True):
        radius.select_option(label)
        # what stands above a chart is of the radius that it shows
        said = f"digits, {label}, 1 seed; no verdict on the method: {one.counts()}"
        assert tab.locator("#front-radius-said").inner_text() == said
        traces = _drawn(tab, "front-radius")
        assert [trace["name"].split(" (")[0] for trace in traces] == ["oat", "pgd_at", "trades"]
        for trace in traces:
            own = one.cells[one.cells["variant"] == trace["name"].split(" (")[0]]
            assert trace["y"] == pytest.approx((100 * own["ra"]).tolist())
    curve = tab.get_by_label("RA by radius of")
    curve.select_option("λ=1")
    for trace in _drawn(tab, "curves"):
        own = radii.curves[radii.curves["point"] == trace["name"]]
        assert trace["x"] == own["eps"].tolist()
        assert trace["y"] == pytest.approx((100 * own["ra"]).tolist())


def test_names_cannot_inject_into_the_charts_of_radii(
    show: Open, at_radii: Found, renamed: Callable[[Comparison, str], Comparison]
) -> None:
    comparison, origin = at_radii
    tab = show(renamed(comparison, EVIL), origin)
    assert tab.locator("img").count() == 0
    assert all("&lt;/script&gt;" in trace["name"] for trace in _drawn(tab, "curves"))
