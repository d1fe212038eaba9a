import subprocess
import sys

import pytest

from oat.memory import keep_freed_memory

FAULTS = """
import resource, sys, torch
from oat.memory import keep_freed_memory
if sys.argv[1] == "kept":
    print(keep_freed_memory())
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.zeros(2**24)  # 64 MiB
before = faults()
for _ in range(20):
    torch.zeros(2**24)
print(faults() - before)
"""


def _run(how: str) -> list[str]:
    ran = subprocess.run(
        [sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True
    )
    return ran.stdout.split()


@pytest.mark.slow
def test_freed_memory_is_used_again_without_asking_the_kernel() -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("the kernel's page faults are counted on Linux")
    (asked,) = map(int, _run("asked"))
    could, kept = _run("kept")
    assert could == "True"
    # a page is 4 KiB, or 2 MiB where the kernel joins them
    assert asked >= 20 * 64 // 2
    assert int(kept) < asked / 10


def test_asking_twice_is_no_error() -> None:
    assert keep_freed_memory() == keep_freed_memory()
