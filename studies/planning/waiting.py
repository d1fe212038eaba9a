"""Trials that need the weights of others: which of them wait, and which are out of date."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from studies.planning.plan import PlannedTrial
from studies.trial.stored import Trained

OUTDATED = "its source was trained anew"
"""Reason of a trial that was made from weights that are there no more."""


class LookedUp(NamedTuple):
    """A trial with what its folder says of its training.

    Attributes:
        trial: In the state that its own folder tells.
        trained: The record of its training; None where none is finished and sound.
    """

    trial: PlannedTrial
    trained: Trained | None


def heed_sources(found: Sequence[LookedUp]) -> list[LookedUp]:
    """Let trials wait for the trials whose weights they need, and redo those that are outdated.

    A trial with a checkpoint goes on from that and waits for nobody.

    Args:
        found: All trials of a plan.
    """
    by_key = {one.trial.run_key: one for one in found}
    return [_heeded(one, by_key) for one in found]


def _heeded(one: LookedUp, by_key: dict[str, LookedUp]) -> LookedUp:
    trial, trained = one
    if not trial.sources or trial.state in {"unfinished", "diverged"}:
        return one
    if trained is not None and not _is_outdated(trained, by_key):
        return one
    if (reason := _waits_for(trial, by_key)) is not None:
        return LookedUp(replace(trial, state="waiting", reason=reason), None)
    if trained is not None:
        return LookedUp(replace(trial, state="damaged", reason=OUTDATED), None)
    return one


def _is_outdated(trained: Trained, by_key: dict[str, LookedUp]) -> bool:
    """Tell whether a source has a finished training that is not the one that was used."""
    for run_key, training_id in trained.get("sources", {}).items():
        now = by_key[run_key].trained if run_key in by_key else None
        if now is not None and now["training_id"] != training_id:
            return True
    return False


def _waits_for(trial: PlannedTrial, by_key: dict[str, LookedUp]) -> str | None:
    """Say which source a trial waits for, and why; None if all are there."""
    for run_key in trial.sources.values():
        source, trained = by_key[run_key]
        name = f"{source.label} seed {source.seed}"
        if source.state in {"diverged", "failed"} and trained is None:
            return f"It cannot start: {name} has {source.state}."
        if trained is None:
            further = _waits_for(source, by_key) if source.state != "unfinished" else None
            if further is not None and further.startswith("It cannot start"):
                return f"It cannot start: {name} cannot start either."
            return f"It waits for {name}, which is not trained yet."
    return None
