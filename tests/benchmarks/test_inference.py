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
