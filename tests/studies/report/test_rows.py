import io
import re
from dataclasses import replace

import pandas as pd
import pytest
from rich.console import Console

from studies.comparison.answer import Comparison
from studies.comparison.verdict import VERDICTS
from studies.report.markdown import markdown_tables
from studies.report.origin import Origin
from studies.report.rows import HEADINGS, front_rows, rows, variant_rows
from studies.report.terminal import terminal_parts


def test_rows_are_the_numbers_of_the_table_in_percent(found: tuple[Comparison, Origin]) -> None:
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


def test_markdown_has_the_same_rows(found: tuple[Comparison, Origin]) -> None:
    comparison, _ = found
    text = markdown_tables(comparison)
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


def test_variants_stand_beside_the_plainest_in_every_form(
    along_widths: tuple[Comparison, Origin],
) -> None:
    comparison, _ = along_widths
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
    assert markdown_tables(comparison).count("\n| oats λ=") == 4
    lines, _ = _printed(comparison, 120)
    for row in texts:
        assert row["SA"] in " ".join(lines)


def _printed(
    comparison: Comparison, width: int, *, everything: bool = True
) -> tuple[list[str], list[str]]:
    """Return the lines of the tables and the sentences, as a terminal shows them."""
    buffer, sentences = io.StringIO(), []
    console = Console(file=buffer, width=width, color_system=None)
    for part in terminal_parts(comparison, width, everything=everything):
        if isinstance(part, str):
            sentences += [part] if part else []
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
    width: int, several: bool, found: tuple[Comparison, Origin]
) -> None:
    comparison = _two_networks(found[0]) if several else found[0]
    lines, sentences = _printed(comparison, width)
    assert all(len(line) <= width for line in lines)
    text = "\n".join(lines)
    assert "…" not in text
    words = set(text.split())
    for row in rows(comparison):
        shown = [v for key, v in row.items() if key not in {"dedicated", "oat", "cost", "decide"}]
        for piece in " ".join(shown).split():
            assert piece in words
    for row in front_rows(comparison):
        for piece in row["hypervolume"].split():
            assert piece in text
    assert sentences[0] == comparison.answer()
    assert sentences[1:] == ["Caveats", *(f"- {said}" for said in comparison.told())]


@pytest.mark.parametrize(
    ("notes", "rest"), [(3, []), (4, ["1 more caveat"]), (9, ["6 more caveats"])]
)
def test_the_terminal_gives_the_answer_the_main_table_and_five_caveats_unless_asked_for_all(
    notes: int, rest: list[str], found: tuple[Comparison, Origin]
) -> None:
    comparison = replace(found[0], notes=[f"Caveat {i}." for i in range(notes)])
    lines, sentences = _printed(comparison, 120, everything=False)
    assert "\n".join(lines).count("retrained model") == 1
    told = comparison.told()
    assert len(told) == notes + 2
    assert sentences[:7] == [comparison.answer(), "Caveats", *(f"- {said}" for said in told[:5])]
    assert [said.partition(":")[0] for said in sentences[7:]] == rest
    assert all("`--verbose`" in said and "page" in said for said in sentences[7:])


@pytest.mark.parametrize("width", [90, 120, 160])
def test_a_long_name_is_broken_between_its_settings_and_not_within_one(
    width: int, found: tuple[Comparison, Origin]
) -> None:
    settings = "train.weight_decay=0.000123 attack.steps=7 train.lr=0.1234"
    table = found[0].table
    comparison = replace(
        found[0], table=table.assign(dedicated=table["dedicated"] + " " + settings)
    )
    lines, _ = _printed(comparison, width)
    assert all(len(line) <= width for line in lines)
    words = "\n".join(lines).split()
    assert all(words.count(setting) == len(table) for setting in settings.split()), lines
    verdicts = len(table) + len(comparison.same_knob)
    assert words.count("undecided") + words.count("free") + words.count("better") == verdicts


def test_a_cell_knows_the_number_behind_its_text(found: tuple[Comparison, Origin]) -> None:
    comparison, _ = found
    for cells, row in zip(rows(comparison), comparison.table.to_dict("records"), strict=True):
        assert cells["oat"].key == row["oat_lam"]
        assert cells["cost"].key == row["seconds_dedicated"]
        assert cells["verdict"].key == VERDICTS.index(row["verdict"])
        for name in ("sa_oat", "sa_dedicated", "d_sa", "ra_oat", "ra_dedicated", "d_ra"):
            assert cells[name].key == row[name]


def _with_summary(comparison: Comparison) -> Comparison:
    """Add the columns that a front of OAT may have; NaN in those of dedicated models."""
    once = comparison.fronts["ratio"].notna()
    values = {
        "matched": 0.987, "matched_low": 0.95, "matched_high": 1.02, "gap": 0.034,
        "gap_at": 0.891, "covered": 0.75, "break_even": 3, "break_even_seconds": 4,
    }  # fmt: skip
    fronts = comparison.fronts.assign(
        parameters=78042,
        train_gradients=1.5e6,
        **{
            name: pd.Series(value, comparison.fronts.index).where(once)
            for name, value in values.items()
        },
    )
    return replace(comparison, fronts=fronts)


def test_summaries_of_a_front_are_shown_where_they_are_known(
    found: tuple[Comparison, Origin],
) -> None:
    comparison, _ = found
    full = front_rows(_with_summary(comparison))
    lone = comparison.fronts[comparison.fronts["gap"].isna()]  # no once-for-all front
    summaries = {
        "matched ratio", "largest gap (points of RA)", "share of front matched",
        "break-even (models) by cost", "break-even (models) by time",
    }  # fmt: skip
    assert set(full[0]) - set(front_rows(replace(comparison, fronts=lone))[0]) == summaries
    once = full[0]
    assert once["matched ratio"] == "0.987 [0.950, 1.020]"
    assert once["largest gap (points of RA)"] == "3.4 at SA 89.1"
    assert once["share of front matched"] == "75%"
    assert once["break-even (models) by cost"] == "3"
    assert once["break-even (models) by time"] == "4"
    assert once["gradients (millions)"] == "1.50"
    assert once["parameters"] == "78,042"
    dedicated = full[1]
    assert {dedicated[name] for name in summaries} == {""}
    share = dedicated["share of front matched"]
    assert share.key != share.key  # NaN: nothing to sort by


def test_other_attacks_have_a_heading_and_a_table_each(found: tuple[Comparison, Origin]) -> None:
    comparison, _ = found
    other = replace(comparison, attack="pgd50")
    text = markdown_tables(comparison, [other])
    assert "## RA under pgd50, on 50 test images" in text
    own = "| " + " | ".join(HEADINGS.values()) + " |"
    assert text.count(own) == 2
    assert markdown_tables(comparison).count(own) == 1
