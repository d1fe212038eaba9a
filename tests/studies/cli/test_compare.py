import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import studies
from studies.storage.local import LocalFolder
from studies.storage.sealed import seal, unseal, write_lines
from studies.study_file.loading import load_study
from tests.studies.cli.shell import Oat, is_a_sentence
from tests.studies.marks import NOLOAD

pytestmark = NOLOAD


def test_compare_shows_the_tables_and_the_verdict(oat: Oat, study: Path, finished: Path) -> None:
    result = studies.compare(studies.points(study, storage=finished))
    labels = ["pgd_at λ=0", "pgd_at λ=1", "trades β=1", "all retrained"]
    for more, shown in (((), labels[:-1]), (("--verbose",), labels)):
        said = oat("compare", study, "--storage", finished, *more)
        assert (said.code, said.err) == (0, "")
        text = " ".join(said.text.split())  # sentences are broken to the width of the terminal
        assert text.startswith(result.answer())
        assert [label for label in labels if label in said.text] == shown
        assert all(note in text for note in result.told()[: None if more else 5])
        assert "…" not in said.text


def test_compare_as_json_is_the_comparison(oat: Oat, study: Path, finished: Path) -> None:
    said = oat("compare", study, "--storage", finished, "--json", "--margin", "0.5")
    result = studies.compare(studies.points(study, storage=finished), margin=0.5)
    assert (said.code, said.err) == (0, "")
    assert said.json["verdict"] == result.verdict
    assert said.json["margin"] == 0.5
    assert said.json["answer"] == result.answer()
    (ratio,) = result.ratios.values()
    (told,) = said.json["hypervolume_ratios"].values()
    assert told["value"] == pytest.approx(ratio.value)
    assert [row["dedicated"] for row in said.json["table"]] == ["pgd_at", "pgd_at", "trades"]
    assert [row["lam"] for row in said.json["table"]] == [0, 1, None]
    for row, value in zip(said.json["table"], result.table["d_sa"], strict=True):
        assert row["d_sa"] == pytest.approx(value)


def test_compare_writes_the_report_where_it_is_told(
    oat: Oat, study: Path, finished: Path, tmp_path: Path
) -> None:
    to = tmp_path / "a b"
    said = oat("compare", study, "--storage", finished, "--out", to)
    assert said.code == 0
    assert {path.name for path in to.iterdir()} == {
        "front.png", "front.svg", "price.png", "price.svg", "index.html",
        "table.csv", "table.md", "table.tex", "same_knob.csv", "cells.csv", "fronts.csv",
        "masking.csv",
    }  # fmt: skip
    assert not (finished / "tiny" / "report").exists()
    # as a shell would take it
    command = f"oat compare {study} --storage {finished} --out '{to}'"
    assert (
        f"<code>{html.escape(command).replace('&#x27;', '&#39;')}</code>"
        in (to / "index.html").read_text()
    )


def test_compare_shows_every_attack_of_the_study_on_the_page(
    oat: Oat, tiny: dict[str, Any], tmp_path: Path, train_all: Callable[..., None]
) -> None:
    tiny["evaluate"]["attacks"].append({"name": "pgd", "steps": 2})
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(tiny))
    train_all(load_study(path), tmp_path)
    assert oat("compare", path, "--storage", tmp_path, "--out", tmp_path / "out").code == 0
    for name in ("index.html", "table.md"):
        text = (tmp_path / "out" / name).read_text()
        for attack in ("pgd1", "pgd2", "the worst of pgd1, pgd2"):
            assert f"RA under {attack}, on 50 test images" in text or name == "table.md"
        assert text.count("gives no verdict on the method") == 3


def test_compare_takes_several_studies(
    oat: Oat, study: Path, tiny: dict[str, Any], finished: Path, tmp_path: Path
) -> None:
    halves = []
    for name, methods in (("oat", tiny["methods"][:1]), ("dedicated", tiny["methods"][1:])):
        half = {**tiny, "methods": methods, "evaluate": {**tiny["evaluate"], "lams": [0, 1]}}
        halves.append(tmp_path / f"{name}.yaml")
        halves[-1].write_text(yaml.safe_dump(half))
    apart = oat("compare", *halves, "--storage", finished, "--json").json
    assert apart == oat("compare", study, "--storage", finished, "--json").json
    assert apart == oat("compare", study, study, "--storage", finished, "--json").json


def test_compare_has_nothing_to_say_before_there_are_points(
    oat: Oat, study: Path, tmp_path: Path
) -> None:
    is_a_sentence(oat("compare", study, "--storage", tmp_path / "nowhere"), "`oat run`")


def test_compare_refuses_an_attack_that_no_point_was_judged_by(
    oat: Oat, study: Path, finished: Path
) -> None:
    said = oat("compare", study, "--storage", finished, "--attack", "pgd99")
    is_a_sentence(said, "pgd99", "pgd1")


def test_compare_refuses_two_studies_on_different_data(
    oat: Oat, tiny: dict[str, Any], tmp_path: Path, make_up: Callable[..., None]
) -> None:
    files = []
    for name, methods in (("ours", tiny["methods"][:1]), ("theirs", tiny["methods"][1:])):
        evaluate = {**tiny["evaluate"], "lams": [0, 1]}
        files.append(tmp_path / f"{name}.yaml")
        files[-1].write_text(
            yaml.safe_dump({**tiny, "name": name, "methods": methods, "evaluate": evaluate})
        )
        make_up(load_study(files[-1]), tmp_path)
    both = ("compare", *files, "--storage", tmp_path)
    assert oat(*both).code == 0
    for path in (tmp_path / "theirs").rglob("points.jsonl"):
        rows = [unseal(line) for line in path.read_bytes().splitlines()]
        write_lines(
            LocalFolder(path.parent),
            path.name,
            [seal({**row, "data_fingerprint": "other"}) for row in rows],
        )
    to = tmp_path / "out"
    is_a_sentence(oat(*both, "--out", to), "different data: none, other", "`--force`")
    assert not to.exists()
    forced = oat(*both, "--force", "--json")
    assert forced.code == 0
    assert any("different data: none, other" in note for note in forced.json["notes"])


def test_comparing_a_study_whose_record_of_tuning_is_damaged_says_so(
    oat: Oat, study: Path, storage: Path
) -> None:
    (storage / "tiny" / "tuning.json").write_text("{}")
    said = oat("compare", study, "--storage", storage)
    assert said.code == 0
    assert "What tuning gained is not known" in said.text
