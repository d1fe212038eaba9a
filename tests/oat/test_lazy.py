"""Quick imports leave Python's own search for garbage as they found it."""

import gc
import subprocess
import sys

import pytest

from oat.lazy import without_collections


@pytest.mark.parametrize("enabled", [True, False])
def test_collections_pause_and_are_as_before_also_after_an_error(enabled: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with pytest.raises(ImportError, match="while it was False"):
            _fail()
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()


@without_collections()
def _fail() -> None:
    raise ImportError(f"while it was {gc.isenabled()}")


def test_a_worker_looks_for_garbage_once_it_has_imported_all() -> None:
    code = "import gc, studies.cluster.worker; assert gc.isenabled()"
    subprocess.run([sys.executable, "-c", code], check=True)
