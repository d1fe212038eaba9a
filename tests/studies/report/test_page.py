import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pandas as pd
import pytest

from studies.comparison.answer import Comparison
from studies.report.origin import Origin
from studies.report.page import render_page
from studies.report.provenance import gaps, provenance_rows, trial_rows
from studies.report.rows import HEADINGS, front_rows, rows, variant_rows
from studies.results.masking import CHECK_COLUMNS, NOT_CHECKED, masking_verdict
from studies.results.mlflow_index import Links

Found = tuple[Comparison, Origin]
EVIL = '</script><img src=x onerror=alert(1)>&"<b>'


class Page(HTMLParser):
    """The tags of a page with their attributes, its words, its tables, and its data."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.tables: dict[str, list[list[str]]] = {}
        self.keys: dict[str, list[list[str | None]]] = {}
        self.scripts: list[str] = []
        self._cell = self._style = self._script = False
        self.feed(text)
        self.close()
        self.data: dict[str, Any] = json.loads(self.scripts[0])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.tags.append((tag, named))
        self._style = tag == "style"
        if tag == "script":
            self._script = True
            self.scripts.append("")
        elif tag == "table":
            self._table = str(named["id"])
            self.tables[self._table], self.keys[self._table] = [], []
        elif tag == "tr":
            self.tables[self._table].append([])
            self.keys[self._table].append([])
        elif tag in {"td", "th"}:
            self.tables[self._table][-1].append("")
            self.keys[self._table][-1].append(named.get("data-key"))
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        self._style = self._script = False
        if tag in {"td", "th"}:
            self._cell = False

    def handle_data(self, data: str) -> None:
        if self._script:
            self.scripts[-1] += data
        elif not self._style:
            self.words += data
        if self._cell:
            self.tables[self._table][-1][-1] += data


def test_the_page_asks_for_nothing_outside_itself(found: Found) -> None:
    text = render_page(*found)
    for tag, attributes in Page(text).tags:
        assert tag not in {"iframe", "object", "embed", "base", "img"}
        if tag == "link":
            assert attributes == {"rel": "icon", "href": "data:,"}
            continue
        for name in ("src", "href", "srcset", "action", "data"):
            assert not attributes.get(name), (tag, attributes)
    style = text.partition("</style>")[0]
    assert "@import" not in style
    assert "url(" not in style


def test_the_page_has_the_answer_the_tables_and_the_trials(found: Found) -> None:
    comparison, origin = found
    seen = Page(render_page(comparison, origin))
    assert comparison.answer() in seen.words
    for note in comparison.notes:
        assert note in seen.words
    main = [list(HEADINGS.values()), *(list(row.values()) for row in rows(comparison))]
    assert seen.tables["table"] == main
    shown = [
        dict(zip(names, cells, strict=True))
        for names, *body in (seen.tables["fronts"], seen.tables["prices"])
        for cells in body
    ]
    count = len(comparison.fronts)
    together = [a | b for a, b in zip(shown[:count], shown[count:], strict=True)]
    assert together == front_rows(comparison)
    keys = [row[2] for row in seen.tables["trials"][1:]]
    assert keys == [trial.run_key for trial in origin.plan.trials]
    assert "from Python" not in seen.words
    assert "oat compare tiny" in seen.words
    assert "oat demo tiny" in seen.words
    assert list(HEADINGS)[1] == "verdict"
    charts = [a for _, a in seen.tags if "chart" in str(a.get("class")).split()]
    assert [chart["id"] for chart in charts] == ["front", "price", "loss", "accuracy"]
    assert all(chart["role"] == "figure" and chart["aria-label"] for chart in charts)
    # data, radius, seeds and verdict stand above each
    said = "digits, ε=0.1, 1 seed; no verdict on the method: OAT "
    assert seen.words.count(f"{said}{comparison.counts().removeprefix('OAT ')}") == len(charts)


def test_the_page_is_smaller_than_two_megabytes(along_widths: Found) -> None:
    assert len(render_page(*along_widths).encode()) < 2_000_000


def test_cells_carry_the_number_behind_them(found: Found) -> None:
    comparison, origin = found
    keys = Page(render_page(comparison, origin)).keys["table"][1:]
    place = list(HEADINGS).index("d_sa")
    assert [float(str(row[place])) for row in keys] == comparison.table["d_sa"].tolist()
    seen = Page(render_page(comparison, origin))
    ratio = seen.tables["fronts"][0].index("ratio")
    shown = [row[ratio] for row in seen.keys["fronts"][1:]]
    assert shown == ["" if math.isnan(r) else str(r) for r in comparison.fronts["ratio"]]


def test_fronts_and_variants_stand_on_the_page_with_their_widths(along_widths: Found) -> None:
    comparison, origin = along_widths
    seen = Page(render_page(comparison, origin))
    assert sorted(row["dedicated"] for row in rows(comparison)) == [
        "pgd_at λ=1 width=0.5",
        *["pgd_at λ=1 width=1"] * 3,
    ]
    fronts = {row["front"]: row["ratio"] for row in front_rows(comparison)}
    assert len(fronts) == 8
    assert {name for name, ratio in fronts.items() if ratio} == set(comparison.ratios)
    for name in fronts:
        assert name in seen.words
    texts = variant_rows(comparison)
    assert seen.tables["variants"][1:] == [list(row.values()) for row in texts]


def test_other_attacks_stand_below_under_headings_of_their_own(found: Found) -> None:
    comparison, origin = found
    others = [replace(comparison, attack="pgd50"), replace(comparison, attack="autoattack")]
    seen = Page(render_page(comparison, origin, others))
    assert seen.tables["table-1"] == seen.tables["table-2"] == seen.tables["table"]
    for attack in ("pgd50", "autoattack"):
        assert f"RA under {attack}, on 50 test images" in seen.words


def _evil(origin: Origin) -> Origin:
    """Put what must be escaped wherever a text of others comes in."""
    study = origin.plan.study.model_copy(update={"name": EVIL})
    trials = tuple(replace(trial, label=EVIL + trial.label) for trial in origin.plan.trials)
    return replace(
        origin,
        plan=replace(origin.plan, study=study, trials=trials),
        provenance={
            key: {**record, "device": EVIL, "versions": {EVIL: EVIL}}
            for key, record in origin.provenance.items()
        },
        links=Links(EVIL, {trials[0].run_key: EVIL}, {}, EVIL),
        command=EVIL,
    )


def test_the_page_escapes_what_it_is_told(
    found: Found, renamed: Callable[[Comparison, str], Comparison]
) -> None:
    comparison, origin = found
    table = _checked(flags=EVIL).assign(variant=EVIL)
    evil = replace(renamed(comparison, EVIL), masking=table, attack=EVIL)
    text = render_page(evil, _evil(origin), [evil])
    seen = Page(text)
    assert [tag for tag, _ in seen.tags].count("script") == 3
    assert not [tag for tag, _ in seen.tags if tag in {"img", "b"}]
    assert EVIL in seen.words
    # plotly reads tags in what it shows: there, none of the text's own is left
    shown = re.findall(r"<(?!/?b>|br>)", json.dumps(seen.data["figures"]))
    assert shown == []
    for name in ("table", "table-1", "fronts", "trials", "masking-numbers"):
        assert all(row[0].startswith(EVIL) for row in seen.tables[name][1:])
    # as data it is the text itself, which the script shows as text
    assert seen.data["points"][0]["name"].startswith(EVIL)


def test_a_report_from_python_says_so(found: Found) -> None:
    comparison, origin = found
    assert dict(provenance_rows(replace(origin, command="")))["command"] == "from Python"
    assert "from Python" in Page(render_page(comparison, replace(origin, command=""))).words


def test_provenance_names_machine_versions_and_settings(found: Found) -> None:
    _, origin = found
    facts = dict(provenance_rows(origin))
    record = next(iter(origin.provenance.values()))
    assert record["device"] == facts["devices"]
    assert f"torch {record['versions']['torch']}" in facts["packages"]
    assert record["data_fingerprint"] in facts["data"]
    assert "eps 0.1, steps 1" in facts["attack in training"]
    assert "steps 1" in facts["attack pgd1"]
    assert facts["seeds"] == "0"
    row = trial_rows(origin)[0]
    assert row["started"].endswith("UTC")
    assert row["started"].key == origin.provenance[row["run"]]["started"]


def test_what_is_not_known_of_the_trials_is_said(found: Found) -> None:
    comparison, origin = found
    first, *rest = origin.plan.trials
    lacking = replace(
        origin, provenance={k: v for k, v in origin.provenance.items() if k != first.run_key}
    )
    said = gaps(comparison, lacking)
    assert first.run_key in said[0]
    assert all(trial.run_key not in said[0] for trial in rest)
    assert first.run_key in Page(render_page(comparison, lacking)).words
    foreign = replace(origin, plan=replace(origin.plan, trials=(first,)))
    assert any(
        f"{len(rest)} models belong to other studies" in g for g in gaps(comparison, foreign)
    )
    assert any("oat sync tiny" in gap for gap in gaps(comparison, origin))
    linked = replace(origin, links=Links("u", {}, {"p": "u"}))
    assert gaps(comparison, linked) == []


def test_run_keys_of_trials_link_to_their_runs(found: Found) -> None:
    comparison, origin = found
    key = origin.plan.trials[0].run_key
    links = Links("http://h/study", {key: "http://h/trial"}, {"p": "x"}, "mlflow ui")
    seen = Page(render_page(comparison, replace(origin, links=links)))
    addresses = [attributes["href"] for tag, attributes in seen.tags if tag == "a"]
    assert addresses == ["http://h/study", "http://h/trial"]
    assert "mlflow ui" in seen.words


def _checked(flags: str = "", seeds: tuple[int, ...] = (0,)) -> pd.DataFrame:
    numbers = dict.fromkeys(CHECK_COLUMNS, math.nan) | {"check_ra_eps_4x": 0.0, "check_ra": 0.5}
    common = {"variant": "oat", "beta": math.nan, "width_mult": 1.0, "check_images": 256}
    return pd.DataFrame(
        [
            {**common, "lam": lam, "seed": seed, "flags": flags, **numbers}
            for lam in (0.0, 1.0)
            for seed in seeds
        ]
    )


def test_the_masking_box_counts_operating_points_and_not_seeds(found: Found) -> None:
    table = _checked(seeds=(0, 1))
    seen = masking_verdict(table)
    assert seen.said == "No sign of masked gradients in 2 operating points."
    assert (seen.state, seen.flagged) == ("good", [])
    comparison, origin = found
    words = Page(render_page(replace(comparison, masking=table), origin)).words
    assert seen.said in words
    assert "RA at ε = 0.5" in words


@pytest.mark.parametrize(
    "table", [pd.DataFrame(), _checked(flags=NOT_CHECKED)], ids=["no rows", "none checked"]
)
def test_the_masking_box_says_that_nothing_was_checked(table: pd.DataFrame, found: Found) -> None:
    assert masking_verdict(table).state == "unknown"
    comparison, origin = found
    assert (
        "Nothing was checked" in Page(render_page(replace(comparison, masking=table), origin)).words
    )


def test_the_masking_box_names_what_is_flagged(found: Found) -> None:
    table = _checked()
    table.loc[1, "flags"] = "black box wins"
    seen = masking_verdict(pd.concat([table, _checked(NOT_CHECKED).assign(variant="trades")]))
    assert seen.said == "Signs of masked gradients in 1 of 2 operating points. 2 were not checked."
    assert seen.flagged == ["oat λ=1 seed 0: black box wins"]
    assert seen.state == "bad"
    comparison, origin = found
    words = Page(render_page(replace(comparison, masking=table), origin)).words
    assert "Warning: Signs of masked gradients in 1 of 2" in words
    assert seen.flagged[0] in words


def test_a_page_without_curves_or_provenance_is_still_a_page(found: Found) -> None:
    comparison, origin = found
    seen = Page(render_page(comparison, Origin(origin.plan)))
    assert "Training curves" not in seen.words
    assert "No provenance is stored" in seen.words
