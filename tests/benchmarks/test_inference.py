from collections.abc import Callable
from typing import Any

import pytest

from benchmarks import inference


@pytest.mark.slow
def test_all_ways_are_timed_at_each_width_and_batch(report_of: Callable[..., Any]) -> None:
    (case,) = report_of(inference.main)["cases"]
    assert list(case["shapes"]) == [
        f"width {width}, batch {batch}" for width in ("1", "0.5") for batch in (1, 8)
    ]
    for shape in case["shapes"].values():
        assert len(shape["times"]) == len(inference.WAYS) * 2
        assert all(times["min_ms"] > 0 for times in shape["times"].values())
        ours = shape["speedup"]["ours"]
        assert ours["folded over plain network"]["min"] > 0
        assert shape["speedup"]["folded"]["ours over earlier code"]["min"] > 0


@pytest.mark.slow
def test_exported_files_stand_beside_a_dedicated_network_that_is_folded_as_well(
    report_of: Callable[..., Any],
) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    (case,) = report_of(inference.main, "--exported", "--widths", "1")["cases"]
    ways = (*inference.WAYS, *inference.EXPORTED)
    assert len(case["shapes"]) == 2
    for shape in case["shapes"].values():
        # the earlier code has the ways alone
        assert len(shape["times"]) == len(ways) + len(inference.WAYS)
        assert {f"{way}, ours" for way in ways} <= shape["times"].keys()
        for way in inference.EXPORTED:
            if way != inference.DEDICATED:
                assert shape["speedup"]["ours"][f"{way} over {inference.DEDICATED}"]["min"] > 0
