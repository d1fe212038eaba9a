"""The rounds of one run: what is ready, what starts from its weights, and transfer attacks."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console

from oat.adversaries import Transfer
from studies.console import say
from studies.driver.following import run_followed
from studies.planning.expand import make_plan
from studies.planning.plan import Plan, PlannedTrial, asking_as
from studies.storage.folder import Folder
from studies.study_file.plain_yaml import write_yaml
from studies.study_file.study import Study

if TYPE_CHECKING:
    from studies.cluster.retries import FirstFailure
    from studies.tracking.tracker import Tracker


def train_and_judge(
    before: Plan,
    folder: Folder,
    tracker: "Tracker",
    console: Console,
    reuse: bool,
    first: "FirstFailure | None" = None,
    brought: Callable[[str], None] | None = None,
) -> dict[str, str]:
    """Run what is left, Ray being connected if anything is; see `run_followed` for the rest.

    Returns:
        Which trials were given up, and why.
    """
    if not before.ready():
        return {}
    _write_study(before.study, folder)
    current, gave_up, tried = before, dict[str, str](), set[str]()

    def run_now(some: Plan) -> None:
        gave_up.update(run_followed(some, folder, tracker, console, reuse, first, brought))

    while left := _untried(current, tried):
        if tried:
            say(console, "Now the models that start from others; their sources are trained.")
        tried |= {trial.run_key for trial in left.ready()}
        run_now(left)
        if first is not None and first.said is not None:
            return gave_up
        current = asking_as(make_plan(before.study, folder), before)
    if waiting := _waits_for_others(current):
        console.print("The models are trained; now they are judged by transfer.")
        run_now(replace(current, trials=waiting))
    return gave_up


def _untried(current: Plan, tried: Collection[str]) -> Plan | None:
    """Return a plan without the trials left over from this run's launches; None if none is ready.

    A launch ends when no trial is running. Then those may start that have waited for the weights
    of others, while what has failed is left to the next run.
    """
    kept = (trial for trial in current.trials if not (trial.needs_run and trial.run_key in tried))
    left = replace(current, trials=tuple(kept))
    return left if left.ready() else None


def _waits_for_others(current: Plan) -> tuple[PlannedTrial, ...]:
    """Return the trials whose points may need the networks of others; none without `Transfer`."""
    if not any(isinstance(attack, Transfer) for attack in current.study.attacks()):
        return ()
    return tuple(trial for trial in current.trials if trial.state == "evaluate")


def _write_study(study: Study, folder: Folder) -> None:
    text = write_yaml(study.dump())
    folder.write("study.yaml", text.encode())


def with_reasons(current: Plan, gave_up: Mapping[str, str]) -> Plan:
    """Return a plan that says of trials without a reason of their own what their worker said."""
    trials = [
        replace(trial, reason=f"given up: {gave_up[trial.run_key]} again and again")
        if trial.run_key in gave_up and trial.reason is None
        else trial
        for trial in current.trials
    ]
    return replace(current, trials=tuple(trials))
