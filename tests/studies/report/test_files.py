import io

import pandas as pd

from studies.comparison.answer import Comparison
from studies.report.files import render
from studies.report.origin import Origin

PICTURES = {"front.png", "front.svg", "price.png", "price.svg"}
TABLES = {
    "table.csv", "table.md", "table.tex", "same_knob.csv", "cells.csv", "fronts.csv", "masking.csv",
}  # fmt: skip
FILES = {*PICTURES, *TABLES, "index.html"}
Found = tuple[Comparison, Origin]


def test_the_report_is_of_these_files(found: Found) -> None:
    files = render(*found)
    assert files.keys() == FILES
    assert all(isinstance(data, bytes) and data for data in files.values())


def test_variants_have_a_file_of_their_own(along_widths: Found) -> None:
    assert render(*along_widths).keys() == {*FILES, "variants.csv"}


def test_the_same_points_make_the_same_pictures_and_tables(found: Found) -> None:
    one, two = render(*found), render(*found)
    for name in FILES - {"index.html"}:  # which says when it was made
        assert one[name] == two[name], name


def test_the_csv_files_hold_the_tables_unrounded(found: Found) -> None:
    comparison, origin = found
    files = render(comparison, origin)
    for name, table in (("table.csv", comparison.table), ("cells.csv", comparison.cells)):
        read = pd.read_csv(io.BytesIO(files[name]))
        read["recipe"] = read["recipe"].astype("str").fillna("")  # an empty text reads as NaN
        pd.testing.assert_frame_equal(read, table, check_dtype=False, rtol=1e-12)
