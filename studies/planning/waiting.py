"""Trials that need the weights of others: which of them wait, and which are out of date."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from studies.planning.plan import PlannedTrial
from studies.trial.stored import Trained

OUTDATED = "its source was trained anew"
"""Reason of a trial that was made from weights that are there no more."""

CANNOT = "It cannot start"
"""How the reason of a trial begins whose source came to nothing."""


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
    known = {one.trial.run_key: one for one in found}
    heeded: dict[str, LookedUp] = {}

    def heed(one: LookedUp) -> LookedUp:
        key = one.trial.run_key
        if key not in heeded:
            for source in one.trial.sources.values():  # a source may have sources of its own
                heed(known[source])
            heeded[key] = _heeded(one, heeded, known)
        return heeded[key]

    return [heed(one) for one in found]


def _heeded(one: LookedUp, by_key: dict[str, LookedUp], before: dict[str, LookedUp]) -> LookedUp:
    trial, trained = one
    if not trial.sources or trial.state in {"unfinished", "diverged"}:
        return one
    if trained is not None and not _is_outdated(trained, by_key, before):
        return one
    if (reason := _waits_for(trial, by_key)) is not None:
        return LookedUp(replace(trial, state="waiting", reason=reason, left=None), None)
    if trained is not None:
        return LookedUp(replace(trial, state="damaged", reason=OUTDATED, left=None), None)
    return one


def _is_outdated(
    trained: Trained, by_key: dict[str, LookedUp], before: dict[str, LookedUp]
) -> bool:
    """Tell whether a source was trained anew since, or will be, as it is outdated itself."""
    for run_key, training_id in trained.get("sources", {}).items():
        now = by_key[run_key].trained if run_key in by_key else None
        if now is None and run_key in by_key and before[run_key].trained is not None:
            return True
        if now is not None and now["training_id"] != training_id:
            return True
    return False


def _waits_for(trial: PlannedTrial, by_key: dict[str, LookedUp]) -> str | None:
    """Say which source a trial waits for, and why; None if all are there."""
    sources = [by_key[run_key] for run_key in trial.sources.values()]
    reasons = [_why_not_there(source.trial, by_key) for source in sources if not source.trained]
    hopeless = [reason for reason in reasons if reason.startswith(CANNOT)]
    return next(iter([*hopeless, *reasons]), None)


def _why_not_there(source: PlannedTrial, by_key: dict[str, LookedUp]) -> str:
    """Say why what starts from a trial that is not trained waits, or cannot start."""
    name = f"{source.label} seed {source.seed}"
    if source.state in {"diverged", "failed"}:
        return f"{CANNOT}: {name} has {source.state}."
    further = None if source.state == "unfinished" else _waits_for(source, by_key)
    if further is not None and further.startswith(CANNOT):
        return f"{CANNOT}: {name} cannot start either."
    return f"It waits for {name}, which is not trained yet."
