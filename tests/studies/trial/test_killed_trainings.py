from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studies.planning.expand import make_plan
from studies.study_file.loading import load_study
from studies.trial.records import read_epochs, read_points, read_result
from studies.trial.weights import weights_file
from tests.studies.trial.interrupted_disk import EPOCHS, SOURCE
from tests.studies.trial.world import World

REAL = (
    "methods=[{name: pgd_at, lam: 1}]",
    "data.train_images=32",
    "train.val_images=4",
    "evaluate.attacks=[{name: pgd, steps: 1}, {name: pgd, steps: 2}]",
)


def _real(path: Path, kills: Sequence[int]) -> tuple[dict[str, bytes], list[Any], list[bytes]]:
    """Train and judge for real; die after so many operations each; return what came of it."""
    world = World(path)
    study = load_study(deepcopy(SOURCE), REAL)

    def job() -> Any:
        (planned,) = make_plan(study, world.disk).trials
        return planned.job if planned.needs_run else None

    for operations in (*kills, 10**4):
        wanted = job()
        if wanted is None:
            break
        worker = world.start(wanted)
        world.advance(worker, operations)
        if not worker.ended:
            worker.kill()
            world.workers.remove(worker)
    assert job() is None
    (run_key,) = world.plain.sub("trials").names()
    folder = world.folder(run_key)
    assert len(read_epochs(folder)) == EPOCHS
    result = read_result(folder)
    assert result is not None
    rows, correct = read_points(folder, result["trained"]["training_id"])
    weights = {kind: folder.read(weights_file(kind)) for kind in result["trained"]["weights"]}
    untimed = [
        {k: v for k, v in row.items() if k not in {"training_id", "train_device_seconds"}}
        for row in rows
    ]
    return weights, untimed, [correct[key].tobytes() for key in sorted(correct)]


@pytest.mark.slow
def test_a_real_training_that_is_killed_anywhere_ends_as_if_it_had_not_been(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    undisturbed = _real(tmp_path_factory.mktemp("undisturbed"), [])

    @settings(max_examples=8)
    @given(kills=st.lists(st.integers(1, 90), min_size=1, max_size=4))
    def check(kills: list[int]) -> None:
        assert _real(tmp_path_factory.mktemp("killed"), kills) == undisturbed

    check()
