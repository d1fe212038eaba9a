"""Any interleaving of crashes, restarts and faults ends with each key exactly once.

The plan, the trial, its checkpoints, records, claims and storage are the real ones. Workers are
threads of which one at a time runs, from one operation on storage to the next, so that hypothesis
decides their order and where each dies. A training and an attack are arithmetic on a few numbers,
which tell every epoch and every judgement apart.
"""

import json
import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from oat.data import DataError
from oat.models import Cost
from studies.planning import expand as planning
from studies.planning.expand import make_plan
from studies.planning.plan import Plan
from studies.results.reading import read_trial
from studies.storage.sealed import digest
from studies.trial import choosing, claims, judging
from studies.trial import run as trial
from studies.trial.checkpoints import SLOTS
from studies.trial.records import read_epochs
from tests.studies.trial.interrupted_disk import DATA, DIVERGES, EPOCHS, WIDER, Worker, study_of
from tests.studies.trial.world import (
    ModelTraining,
    World,
    check_plan,
    checked_for_masking,
    evaluated_at,
    rebuilt,
    weights_of,
)

STEPS = st.sampled_from([0, 1, 2, 3, 5, 10, 30, 100])

FEW = st.integers(0, 6)

CLAIMS = 4
"""Steps after which a worker has claimed its trial."""

THEN = st.sampled_from(["killed", "lost", "refused", "refused again and again", "waits"])

INDEX = st.integers(0, 11)

FILES = (  # or how their names begin
    "config.json",
    *SLOTS,
    "epochs.jsonl",
    "model.safetensors",
    "provenance.json",
    "trained.json",
    "correct.npz",
    "points.jsonl",
    "checks.jsonl",
    "judging-",
    "result.json",
)


class Interleavings(RuleBasedStateMachine):
    """A driver, its workers, those given up on, and all that happens to them."""

    make_world: Callable[[], World]

    def __init__(self) -> None:
        super().__init__()
        self.world = type(self).make_world()
        self.wider: frozenset[str] = frozenset()
        self.plan: Plan | None = None
        self.queue: list[Any] = []
        self.seed = 0
        self.keys: set[str] = set()

    # the driver

    def _start_driver(self) -> None:
        """Start one if there is none; where nothing is left to do, on another seed."""
        if self.plan is not None:
            return
        if not self._planned().to_run():
            self.seed += 1
        self.plan = self._planned()
        self.queue = [planned.job for planned in self.plan.to_run()]

    def _planned(self, at_last: bool = False) -> Plan:
        seeds = tuple(range(self.seed + 1)) if at_last else (self.seed,)
        plan = make_plan(study_of(self.wider, seeds, at_last), self.world.disk)
        check_plan(plan, self.world)
        self.keys |= {planned.run_key for planned in plan.trials}
        return plan

    @precondition(lambda self: self.plan is not None)
    @rule(spared=st.booleans())
    def kill_driver(self, spared: bool) -> None:
        """Its workers die with it, or live on."""
        self.plan, self.queue = None, []
        for worker in list(self.world.workers):
            if spared:
                worker.zombie = True
            elif not worker.zombie:
                self._kill(worker)

    @rule(name=st.sampled_from(sorted(WIDER)))
    def change_study(self, name: str) -> None:
        """The next driver finds more to do, or less; whoever asks sees it at once."""
        self.wider ^= {name}
        if not self.world.away:
            self._planned()

    # workers

    @precondition(lambda self: self.plan is not None or not self.world.away)
    @rule(i=INDEX, to=st.sampled_from([*FILES, *[None] * 3]), steps=STEPS, then=THEN)
    def work(self, i: int, to: str | None, steps: int, then: str) -> None:
        """Let a worker, or one more, go on: at first until it is about to change a file."""
        self._start_driver()
        workers = self.world.workers
        if i % (len(workers) + len(self.queue)) < len(workers):
            worker = workers[i % len(workers)]
        else:
            worker = self.world.start(self.queue.pop(i % len(self.queue)))
        while to is not None and not worker.at.startswith(to) and not worker.ended:
            self._advance(worker, 1)
        if not worker.ended:
            self._advance(worker, steps)
        if worker.ended:
            return
        if then == "killed":
            self._die(worker)
        elif then == "refused":
            worker.refusal = OSError(110, "Connection timed out")
        elif then == "refused again and again":
            for _ in range(5):
                if not worker.ended:
                    worker.refusal = OSError(110, "Connection timed out")
                    self._advance(worker, 1)
        elif then == "lost" and not worker.zombie:
            self._lose(worker)

    @precondition(lambda self: self.plan is not None or not self.world.away)
    @rule(i=INDEX, to=st.sampled_from(FILES), steps=FEW, then=THEN)
    def work_to_a_file(self, i: int, to: str, steps: int, then: str) -> None:
        """As `work`; more often."""
        self.work(i, to, steps, then)

    def _lose(self, worker: Worker) -> None:
        """Let the driver start its trial again while it lives on."""
        worker.zombie = True
        self._again(worker)

    def _die(self, worker: Worker) -> None:
        self._kill(worker)
        if not worker.zombie:
            self._again(worker)

    def _kill(self, worker: Worker) -> None:
        worker.kill()
        self.world.workers.remove(worker)

    def _again(self, worker: Worker) -> None:
        """Put a lost worker's trial back, as Tune does."""
        assert self.plan is not None
        jobs = {planned.run_key: planned.job for planned in self.plan.trials}
        self.queue.append(jobs[worker.run_key])

    def _advance(self, worker: Worker, steps: int) -> None:
        self.world.advance(worker, steps)
        if worker.ended and not worker.zombie:
            if isinstance(worker.error, OSError):
                self._again(worker)
            elif worker.outcome is not None and worker.outcome["status"] == "done":
                self.world.look()
        if self.plan is not None and not self.queue and all(w.zombie for w in self.world.workers):
            self.plan = None

    # what happens to them

    @rule(kind=st.sampled_from(["full", "away", "no_data"]))
    def trouble(self, kind: str) -> None:
        """A disk fills, storage or the data go; the next time, all is well again."""
        if self.world.well:
            setattr(self.world, kind, True)
        else:
            self.world.heal()

    @rule(i=INDEX, j=st.integers(0, 30), at=st.integers(0, 10**6), flip=st.integers(1, 255))
    def damage(self, i: int, j: int, at: int, flip: int) -> None:
        """Change a byte of a file."""
        keys = self.world.plain.sub("trials").names()
        names = self.world.folder(keys[i % len(keys)]).names() if keys else []
        if not names:
            return
        run_key, name = keys[i % len(keys)], names[j % len(names)]
        path = self.world.folder(run_key).path / name
        data = bytearray(path.read_bytes())
        data[at % len(data)] ^= flip
        path.write_bytes(data)
        self.world.changed(None, run_key, name)
        self.world.known[run_key].spoil(name)
        self.world.disturb(run_key)

    @invariant()
    def nothing_is_lost_and_nothing_is_wrong(self) -> None:
        self.world.look()

    def teardown(self) -> None:
        """Let all go on undisturbed; one driver more, and every trial is whole."""
        try:
            self._come_to_an_end()
        finally:
            for worker in self.world.workers:
                worker.kill()

    def _come_to_an_end(self) -> None:
        world = self.world
        world.heal()
        for job in self.queue:
            world.advance(world.start(job), CLAIMS)
        while world.workers:
            for worker in list(world.workers):
                world.advance(worker, 1)
            world.look()
        for planned in self._planned(at_last=True).to_run():
            worker = world.start(planned.job)
            world.advance(worker, 10**4)
            assert worker.outcome is not None, worker.error
            world.look()
        self._is_whole(self._planned(at_last=True))
        assert set(world.plain.sub("trials").names()) <= self.keys

    def _is_whole(self, plan: Plan) -> None:
        for planned in plan.trials:
            folder, known = self.world.folder(planned.run_key), self.world.known[planned.run_key]
            expected = "diverged" if planned.label == DIVERGES else "done"
            assert planned.state == expected, (planned.label, planned.reason)
            assert known.result is not None
            if expected == "diverged":
                continue
            assert [weights_of(folder, kind)[:1] for kind in ("last", "chosen")] == [
                [int(digest([planned.label, planned.seed]), 16)]
            ] * 2
            keys = [point["point_key"] for point in planned.job["points"]]
            rows, _ = read_trial(folder, keys)
            assert sorted(row["point_key"] for row in rows) == sorted(keys)
            assert json.loads(folder.read("config.json")) == planned.job["config"]
            if "epochs.jsonl" not in known.unsealed:
                epochs = [epoch["epoch"] for epoch in read_epochs(folder)]
                assert epochs == list(range(1, EPOCHS + 1)), "the epochs are not all there"
            if "provenance.json" not in known.unsealed:
                assert json.loads(folder.read("provenance.json"))["versions"]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[type[Interleavings]]:
    """The machine, with the arithmetic in place of trainings and attacks."""
    numbers = count()
    world: World

    def make_world() -> World:
        nonlocal world
        world = ModelTraining.world = World(tmp_path / f"{next(numbers)}")
        return world

    def load(data: Any) -> Any:
        if world.no_data:
            raise DataError("The data are away.")
        return DATA

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claims, "PATIENCE", (0.0, 0.0, 0.0))
        patch.setattr(choosing, "Training", ModelTraining)
        patch.setattr(trial, "load", load)
        patch.setattr(planning, "assumed_seconds_per_unit", lambda *_: 1.0)
        patch.setattr(judging, "evaluate_at", evaluated_at)
        patch.setattr(judging, "check_masking", checked_for_masking)
        patch.setattr(judging, "rebuild", rebuilt)
        patch.setattr(judging, "fold", lambda model, lam, width: (model, lam))
        patch.setattr(judging, "in_situ_cost", lambda *_: Cost(1, 1))
        patch.setattr(os, "fsync", lambda _: None)  # processes die here, not machines
        patch.setattr(Interleavings, "make_world", staticmethod(make_world), raising=False)
        yield Interleavings


@pytest.mark.slow
def test_any_interleaving_ends_with_each_key_exactly_once(machine: type[Interleavings]) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
