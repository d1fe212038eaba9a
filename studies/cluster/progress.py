"""What a person sees while a study runs: a live table on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ray.tune import Callback
from rich.console import Console
from rich.live import Live
from rich.table import Table

from studies.cluster.retries import how_lost, run_key_of
from studies.console import say
from studies.naming import duration
from studies.planning.plan import Plan, PlannedTrial
from studies.trial.shapes import TrialReport

LINE_EVERY_SECONDS = 15.0
FEWEST_ROWS = 8
NARROW = 72
"""Columns of a terminal below which the live table shows how far trials are, and no more."""
STOPPED = "stopped"
ENDS = {"done": "ended", "failed": "failed", "diverged": "diverged", STOPPED: "stopped"}
"""How a trial may end, and what is said of it; one that is stopped has not come to its end."""
NOT_STARTED = "not started"
WAITING_FOR_STORAGE = "waiting for storage"
SOONEST_ESTIMATE = 0.05
"""Share of the work that must be done before the time left is guessed."""


@dataclass
class _Row:
    label: str
    seed: int
    units: float
    judge_units: float
    points: int
    state: str
    epoch: int = 0
    epochs: int = 0
    judged: int = 0
    sa: float | None = None
    ra: float | None = None
    images_per_second: float | None = None
    started: float = 0.0
    outcome: str = STOPPED
    error: str | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more comes of it in this run."""
        return self.state in ENDS

    @property
    def cost(self) -> float:
        """Units of the whole trial."""
        return self.units + self.judge_units

    @property
    def behind(self) -> float:
        """Units of the trial that are behind us."""
        if self.ended:
            return self.cost
        trained = self.epoch / self.epochs if self.epochs else 0.0
        # only the checks may be left, which are not reported one by one
        judged = self.judged / self.points if self.points else 0.0
        return trained * self.units + judged * self.judge_units

    @property
    def place(self) -> str:
        """What the trial is at."""
        if self.judged:
            return f"judged {self.judged} of {self.points} points"
        return f"epoch {self.epoch}/{self.epochs}"


class Progress(Callback):  # type: ignore[misc]
    """Shows the trials of a run; also tells others which trial has changed.

    Args:
        plan: The plan that runs.
        console: Where to show it.
        changed: Called with the run key of a trial whose folder has changed.
        search: Name of what is searched, where trials are added one by one; how many there will be
            is not known then, nor the time left.
    """

    def __init__(
        self, plan: Plan, console: Console, changed: Callable[[str], None], search: str = ""
    ) -> None:
        self._console, self._changed, self._search = console, changed, search
        self._rows: dict[str, _Row] = {}
        self._left: set[str] = set()
        self._told: set[str] = set()
        for trial in plan.trials:
            self.add(trial)
        self._began = self._spoke = time.monotonic()
        self._live = (
            Live(
                console=console,
                get_renderable=self._table,
                refresh_per_second=2,
                redirect_stdout=False,
            )
            if console.is_terminal
            else None
        )

    def add(self, trial: PlannedTrial) -> None:
        """Take a trial that is to run, or is done."""
        every = len(trial.job["points"]) + len(trial.job["held_out"])
        self._rows[trial.run_key] = _Row(
            trial.label,
            trial.seed,
            trial.units if trial.left is None else 0.0,
            trial.judge_units if trial.left is None else trial.left.units,
            every if trial.left is None else trial.left.points,
            "waiting" if trial.needs_run else trial.state,
        )
        if trial.needs_run:
            self._left.add(trial.run_key)

    def __getstate__(self) -> dict[str, Any]:
        """Give Tune nothing to pickle: it would write callbacks for a restore we never do."""
        return {}

    def __enter__(self) -> "Progress":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Mark a trial as running."""
        row = self._row(trial)
        row.state, row.started = "running", time.monotonic()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: TrialReport, **info: Any
    ) -> None:
        """Take an epoch or a point."""
        row = self._row(trial)
        if result["kind"] == "start":
            return
        if result["kind"] == "waiting":
            self._wait(row, result["said"])
            return
        if result["kind"] == "epoch":
            row.state = "running"
            row.epoch, row.epochs = result["epoch"], result["epochs"]
            row.images_per_second = result["images_per_second"]
            self._tell_once(result["execution"])
            if result["sa_val"] is not None:
                row.sa, row.ra = result["sa_val"], result["ra_val"]
        elif result["kind"] == "point":
            row.state = "judging"
            row.judged += 1
        else:
            row.outcome, row.error = result["status"], result["error"]
        self._changed(run_key_of(trial))
        if self._live is None and time.monotonic() - self._spoke > LINE_EVERY_SECONDS:
            self._say(f"{row.label} seed {row.seed}: {row.place}{_rates(row)}")

    def _wait(self, row: _Row, said: str) -> None:
        """Say that storage does not take what a trial writes, once until it does."""
        if row.state != WAITING_FOR_STORAGE:
            row.state = WAITING_FOR_STORAGE
            self._say(f"{row.label} seed {row.seed}: {row.state}: {said.rstrip('.')}")

    def _tell_once(self, sentence: str) -> None:
        """Say how trials are executed, once for all that are executed so."""
        if sentence not in self._told:
            self._told.add(sentence)
            say(self._console, sentence)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Take the end of a trial, good or bad."""
        row = self._row(trial)
        if row.state == "waiting":
            row.state = NOT_STARTED
            return
        row.state = row.outcome
        self._changed(run_key_of(trial))
        if self._live is None:
            seconds = time.monotonic() - row.started
            why = f" ({row.error})" if row.error else ""
            what = f"{ENDS[row.state]} after {seconds:.0f} s{why}"
            self._say(f"{row.label} seed {row.seed}: {what}{_rates(row)}")

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Take the loss of a worker whose trial another one continues."""
        self._lost(trial, f"{how_lost(trial)}, goes on")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Take the loss of a worker whose trial has been lost too often."""
        self._lost(trial, f"{how_lost(trial)} again and again")

    def _lost(self, trial: Any, state: str) -> None:
        row = self._row(trial)
        row.state = state
        self._changed(run_key_of(trial))
        if self._live is None:
            self._say(f"{row.label} seed {row.seed}: {state}")

    def _row(self, trial: Any) -> _Row:
        return self._rows[run_key_of(trial)]

    def _say(self, line: str) -> None:
        self._spoke = time.monotonic()
        ended = sum(self._rows[key].ended for key in self._left)
        say(self._console, f"[{self._count(ended)}] {line}{self._time_left()}")

    def _count(self, ended: int) -> str:
        return f"{self._search} {ended}" if self._search else f"{ended}/{len(self._left)}"

    def _time_left(self) -> str:
        if self._search:
            return ""
        rows = [self._rows[key] for key in self._left]
        total = sum(row.cost for row in rows)
        behind = sum(row.behind for row in rows)
        if behind < SOONEST_ESTIMATE * total or behind == total:
            return ""
        seconds = (time.monotonic() - self._began) * (total - behind) / behind
        return f", about {duration(seconds)} left"

    def _table(self) -> Table:
        ended = sum(self._rows[key].ended for key in self._left)
        title = f"{ended} of {len(self._left)} trials{self._time_left()}"
        if self._search:
            title = f"Search of {self._search}: {ended} trials have ended"
        table = Table(title=title, title_justify="left")
        names = ("trial", "seed", "state", "epoch", "judged", "SA val", "RA val", "images/s")
        shown = names if self._console.width >= NARROW else names[:4]
        for name in shown:
            side: Literal["left", "right"] = "left" if name in {"trial", "state"} else "right"
            table.add_column(name, justify=side, overflow="fold")
        rows = list(self._rows.values())
        most = max(FEWEST_ROWS, self._console.height - 6)
        if len(rows) > most:  # what is at work comes first
            rows.sort(key=lambda row: (row.ended, row.state == "waiting"))
            table.caption = f"and {len(rows) - most} more; `oat status` shows all"
        for row in rows[:most]:
            texts = (
                row.label,
                str(row.seed),
                row.state,
                f"{row.epoch}/{row.epochs}" if row.epochs else "",
                f"{row.judged}/{row.points}" if row.judged else "",
                _percent(row.sa),
                _percent(row.ra),
                "" if row.images_per_second is None else f"{row.images_per_second:,.0f}",
            )
            table.add_row(*texts[: len(shown)])
        return table


def _percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{100 * fraction:.1f}"


def _rates(row: _Row) -> str:
    said = ""
    if row.sa is not None:
        said += f", validation SA {_percent(row.sa)} RA {_percent(row.ra)}"
    if row.images_per_second is not None:
        said += f", {row.images_per_second:,.0f} images/s"
    return said
