"""Runs a benchmark of speed at its smallest size, this checkout standing in for an earlier one."""

import json
import math
import platform
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
Main = Callable[[Sequence[str]], int]


def numbers(found: Any) -> Iterator[float]:
    """Yield every number at any depth."""
    if isinstance(found, dict):
        found = list(found.values())
    if isinstance(found, list):
        for part in found:
            yield from numbers(part)
    elif isinstance(found, int | float) and not isinstance(found, bool):
        yield found


@pytest.fixture
def report_of(tmp_path: Path) -> Callable[..., Any]:
    """Return a function that runs a benchmark and returns its JSON, checked for its form."""

    def run(main: Main, *argv: str) -> Any:
        file = tmp_path / "found.json"
        code = main(["--small", "--against", str(ROOT), "--json", str(file), *argv])
        text = file.read_text()
        found = json.loads(text)
        assert code == 0, found
        assert all(case["failed"] == {} for case in found["cases"])
        assert str(ROOT) not in text
        assert str(Path.home()) not in text
        assert found["machine"].keys() == {
            "processor", "cores", "threads", "flags", "python", "torch", "gpu",
        }  # fmt: skip
        assert platform.node() not in found["machine"].values()
        assert found["code"]["today"] == found["code"]["earlier"]
        assert all(math.isfinite(n) and n >= 0 for n in numbers(found))
        return found

    return run
