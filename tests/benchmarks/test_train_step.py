from collections.abc import Callable
from typing import Any

import pytest

from benchmarks import train_step

Reports = Callable[..., Any]


@pytest.mark.slow
def test_a_step_is_timed_on_all_sides_and_set_against_the_floor(
    report_of: Reports, capsys: pytest.CaptureFixture[str]
) -> None:
    found = report_of(
        train_step.main, "--methods=oat,trades", "--precision=auto,bfloat16", "--profile"
    )
    assert found["rates"]["bfloat16_tflops"] > 0
    assert [case["method"] for case in found["cases"]] == ["oat", "trades"]
    for case in found["cases"]:
        sides = case["sides"]
        earlier = [name for name in sides if name.startswith("earlier")]
        assert list(sides) == ["plain way", *earlier, "ours, auto", "ours, bfloat16"]
        assert sides["ours, bfloat16"]["floor"]["rate"] == "bfloat16"
        assert sides["plain way"]["floor"]["rate"] != "bfloat16"
        for side in sides.values():
            assert len(side["ms"]) == 2
            assert side["min_ms"] > 0
            assert side["floor"]["gap"] > 0
            assert side["share_of_bf16_rate"] > 0
            assert len(side["kernels_of_a_step"]) == train_step.KERNELS
        assert {f"ours, auto over {base}" for base in ("plain way", *earlier)} <= set(
            case["speedup"]
        )
        assert all(ratio["min"] > 0 for ratio in case["speedup"].values())
    assert "ms a step" in capsys.readouterr().out


@pytest.mark.slow
def test_a_side_that_cannot_is_named_and_the_rest_is_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = ["--small", "--no-plain", "--precision=float32,float8", "--methods=standard"]
    assert train_step.main(argv) == 1
    said = capsys.readouterr().out
    assert (
        "failed: ours, float8: Faults: `precision` must be one of auto, float32, bfloat16" in said
    )
    assert "ours, float32" in said
