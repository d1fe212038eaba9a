import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.faults import FAULTS
from tests.ray_paths import needs_plain_path

ROOT = Path(__file__).parents[2]


@needs_plain_path
@pytest.mark.ray
@pytest.mark.mlflow
@pytest.mark.slow
def test_a_study_survives_what_kills_nodes_workers_drivers_disks_and_servers() -> None:
    # in a process of its own, as the cluster's token stays in the environment
    drill = [sys.executable, "-m", "benchmarks.faults", "--seeds", "1", "--epochs", "2"]
    done = subprocess.run(drill, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("{"), done.stderr
    found = json.loads(done.stdout)
    counts = {name: found[name] for name in ("planned", "finished", "lost", "duplicated")}
    assert counts == {"planned": 7, "finished": 7, "lost": 0, "duplicated": 0}
    assert found["runs"] == {"missing": 0, "doubled": 0}
    assert found["weights_equal"]
    assert found["odd"] == []
    assert sum(found["faults"].values()) >= 3  # as many as come before a short study has ended
    assert found["faults"].keys() == set(FAULTS)
    assert done.returncode == 0
