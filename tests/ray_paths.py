"""What cannot be tried where the path of Python has a blank."""

import sys

import pytest

needs_plain_path = pytest.mark.skipif(
    " " in sys.executable,
    reason="a Ray that `oat` did not start has no workers where the path of Python has a blank",
)
"""`oat` quotes that path for a Ray of its own; it refuses a node of a cluster with such a path."""
