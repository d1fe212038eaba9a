"""Drivers that come, go, pause and die in any order: no two run a study for longer than a beat.

The lease is the real one. Its drivers and their heartbeats are threads of which one at a time runs,
from one operation on storage to the next, on a clock of the test's own.
"""

import math
import threading
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from studies.driver import lease as module
from studies.driver.lease import BEAT_SECONDS, PATIENCE_SECONDS, Lease, LeaseError
from studies.storage.local import LocalFolder


class Killed(BaseException):
    """Ends a thread where it stands."""


class Clock:
    """The time of all drivers."""

    now = 0.0


class Actor(threading.Thread):
    """Runs a call from one wait, or one operation on storage, to the next."""

    def __init__(self, driver: "Driver", call: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self.driver, self.call, self.wake = driver, call, 0.0
        self.ended = False
        self.error: BaseException | None = None
        self._go, self._parked = threading.Semaphore(0), threading.Semaphore(0)
        self.start()

    def run(self) -> None:
        self._go.acquire()
        try:
            if not self.driver.dead:
                self.call()
        except BaseException as error:
            self.error = error
        self.ended = True
        self._parked.release()

    def step(self) -> None:
        """Run until the next wait, or the end."""
        self._go.release()
        self._parked.acquire()
        if not isinstance(self.error, None | LeaseError | Killed):
            raise self.error

    def wait_until(self, wake: float) -> None:
        """Wait, on its own thread, until the clock shows a time and it is chosen."""
        self.wake = wake
        if not self.driver.dead:
            self._parked.release()
            self._go.acquire()
        if self.driver.dead:
            raise Killed


def _wait_until(wake: float) -> None:
    actor = threading.current_thread()
    assert isinstance(actor, Actor)
    actor.wait_until(wake)


class Event:
    """`threading.Event` on the test's clock."""

    def __init__(self) -> None:
        self._set = False
        self._waiting: list[Actor] = []

    def set(self) -> None:
        self._set = True
        for actor in self._waiting:
            actor.wake = 0.0

    def wait(self, timeout: float = math.inf) -> bool:
        actor = threading.current_thread()
        assert isinstance(actor, Actor)
        if not self._set:
            self._waiting.append(actor)
            actor.wait_until(Clock.now + timeout)
            self._waiting.remove(actor)
        return self._set


class Heartbeat:
    """`threading.Thread`, as one more actor of the driver that starts it."""

    def __init__(self, target: Callable[[], None], **_: Any) -> None:
        self._target, self._over = target, Event()

    def start(self) -> None:
        starter = threading.current_thread()
        assert isinstance(starter, Actor)

        def beat() -> None:
            self._target()
            self._over.set()

        starter.driver.actors.append(Actor(starter.driver, beat))

    def join(self) -> None:
        self._over.wait()


class Slow(LocalFolder):
    """The real folder; others may go first at each operation."""

    def read(self, name: str) -> bytes:
        _wait_until(Clock.now)
        return super().read(name)

    def write(self, name: str, data: bytes) -> None:
        _wait_until(Clock.now)
        super().write(name, data)

    def remove(self, name: str) -> None:
        _wait_until(Clock.now)
        super().remove(name)


class Driver:
    """Runs the study while it holds the lease."""

    def __init__(self, path: Path) -> None:
        self.dead = self.entered = self.lost = self.paused = False
        self.leaving = Event()
        self.lease = Lease(Slow(path), "tiny", lost=self._lose, waiting=lambda _: None)
        self.actors = [Actor(self, self._run)]

    def _lose(self) -> None:
        self.lost = True
        self.leaving.set()

    def _run(self) -> None:
        with self.lease:
            self.entered = True
            self.leaving.wait()
            self.entered = False

    @property
    def holds(self) -> bool:
        return self.entered and not self.lost and not self.dead

    def kill(self) -> None:
        """End all its threads where they stand."""
        self.dead = True
        for actor in self.actors:
            if not actor.ended:
                actor.step()
            actor.join()


class Drivers(RuleBasedStateMachine):
    """Drivers on machines of their own; each operation takes no time unless one pauses."""

    make_path: Callable[[], Path]

    def __init__(self) -> None:
        super().__init__()
        self.path = type(self).make_path()
        self.drivers: list[Driver] = []
        self.disturbed = False
        """Whether anybody has paused for longer than the lease allows for."""

    def _awake(self) -> list[Actor]:
        return [
            actor
            for driver in self.drivers
            for actor in driver.actors
            if not actor.ended and not driver.dead and actor.wake <= Clock.now
        ]

    def _tick(self) -> bool:
        """Let time pass until somebody wakes; false if nobody ever does."""
        actors = [actor for driver in self.drivers if not driver.dead for actor in driver.actors]
        soonest = min((a.wake for a in actors if not a.ended), default=math.inf)
        if soonest < math.inf:
            Clock.now = max(Clock.now, soonest)
        return soonest < math.inf

    @precondition(lambda self: sum(not driver.dead for driver in self.drivers) < 4)
    @rule()
    def arrive(self) -> None:
        self.drivers.append(Driver(self.path))

    @rule(order=st.lists(st.integers(0, 7), min_size=1, max_size=20))
    def go_on(self, order: list[int]) -> None:
        """Let those who are awake go on in any order; time passes while all wait."""
        for i in order:
            if awake := self._awake():
                awake[i % len(awake)].step()
            elif not self._tick():
                return

    @precondition(lambda self: self.drivers)
    @rule(i=st.integers(0, 7))
    def kill(self, i: int) -> None:
        self.drivers[i % len(self.drivers)].kill()

    @precondition(lambda self: any(driver.holds for driver in self.drivers))
    @rule()
    def leave(self) -> None:
        next(driver for driver in self.drivers if driver.holds).leaving.set()

    @precondition(lambda self: self.may_pause and self._awake())
    @rule(seconds=st.sampled_from([0.5, 2.0, BEAT_SECONDS, 20.0, 2 * PATIENCE_SECONDS]))
    def pause(self, seconds: float) -> None:
        """Let time pass while somebody is in the middle of something."""
        Clock.now += seconds
        self.disturbed = True

    may_pause = True

    @invariant()
    def of_drivers_that_do_not_pause_one_holds_and_keeps_the_lease(self) -> None:
        if not self.disturbed:
            assert sum(driver.holds for driver in self.drivers) <= 1
            assert not any(driver.lost for driver in self.drivers)

    def _quietly(self, seconds: float) -> None:
        until = Clock.now + seconds
        while Clock.now < until:
            if awake := self._awake():
                awake[0].step()
            elif not self._tick():
                return

    def teardown(self) -> None:
        try:
            self._quietly(2 * PATIENCE_SECONDS)
            holders = [driver for driver in self.drivers if driver.holds]
            assert len(holders) <= 1
            last = Driver(self.path)
            self.drivers.append(last)
            self._quietly(2 * PATIENCE_SECONDS)
            # refused while the holder lives; let in if there is none
            assert [driver for driver in self.drivers if driver.holds] == (holders or [last])
            for driver in holders:
                driver.kill()
            after = Driver(self.path)
            self.drivers.append(after)
            self._quietly(2 * PATIENCE_SECONDS)
            assert sum(driver.holds for driver in self.drivers) == 1
        finally:
            for driver in self.drivers:
                driver.kill()


class Prompt(Drivers):
    """The same, where nobody pauses."""

    may_pause = False


@pytest.fixture
def _on_the_tests_clock(tmp_path: Path) -> Iterator[None]:
    numbers = count()

    def make_path() -> Path:
        Clock.now = 0.0
        return tmp_path / f"{next(numbers)}"

    time = SimpleNamespace(
        monotonic=lambda: Clock.now, sleep=lambda seconds: _wait_until(Clock.now + seconds)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "time", time)
        patch.setattr(module, "threading", SimpleNamespace(Event=Event, Thread=Heartbeat))
        patch.setattr(module, "_whereabouts", lambda: {"host": "far", "pid": 1, "place": None})
        patch.setattr(Drivers, "make_path", staticmethod(make_path), raising=False)
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("_on_the_tests_clock")
@pytest.mark.parametrize("drivers", [Drivers, Prompt])
def test_any_interleaving_of_drivers_leaves_at_most_one(drivers: type[Drivers]) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        drivers,
        settings=settings(
            max_examples=100,
            stateful_step_count=20,
            derandomize=True,
            deadline=None,
            database=None,
        ),
    )
