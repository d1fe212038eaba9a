import pytest

from benchmarks.faults import FAULTS, measure


@pytest.mark.ray
@pytest.mark.mlflow
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_study_survives_what_kills_nodes_workers_drivers_disks_and_servers() -> None:
    found = measure(seeds=1, epochs=2)
    counts = {name: found[name] for name in ("planned", "finished", "lost", "duplicated")}
    assert counts == {"planned": 7, "finished": 7, "lost": 0, "duplicated": 0}
    assert found["runs"] == {"missing": 0, "doubled": 0}
    assert found["weights_equal"]
    assert found["odd"] == []
    assert sum(found["faults"].values()) >= 3  # as many as come before a short study has ended
    assert found["faults"].keys() == set(FAULTS)
