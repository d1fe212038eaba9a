from collections.abc import Iterator
from pathlib import Path

import pytest

import studies
from studies.deploying.demo_server import DemoPage


@pytest.fixture(scope="module")
def page(finished: Path, tiny_file: Path) -> Iterator[DemoPage]:
    """The demo of the tiny study's OAT."""
    with studies.demo(tiny_file, storage=finished, port=0) as found:
        yield found
