from pathlib import Path

import pytest


@pytest.fixture
def study(tiny_file: Path) -> Path:
    """The file of the tiny study."""
    return tiny_file
