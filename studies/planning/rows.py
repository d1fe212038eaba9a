"""A plan as rows of text, for a terminal and for a notebook: one for each entry, or each trial."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from studies.naming import time_range
from studies.planning.estimates import ENDS, Estimate
from studies.trial.shapes import Need

MEANINGS = {
    "trial": "method and trade-off value",
    "seeds": "its trials, one for each seed",
    "seed": "seed of the trial",
    "run key": "name of the trial's folder: 12 hex digits of all that decides the weights",
    "cpu": "CPU cores that each trial asks for",
    "gpu": "GPUs, or the share of one, that each trial asks for",
    "state": "what storage has of them; counted where their states differ",
    "training": "time of one training with its validations, alone on its device",
    "evaluation": "time to evaluate one trained network under all attacks, with its checks",
    "basis": "how the times are known",
}
"""What each column of a plan means."""

Row = dict[str, str]


class Line(NamedTuple):
    """What the rows show of a trial.

    Attributes:
        label: Method and value.
        seed: Of the trial.
        run_key: Likewise.
        state: What its folder says.
        need: What it asks of a node.
        estimate: How long it takes with nothing done.
    """

    label: str
    seed: int
    run_key: str
    state: str
    need: Need
    estimate: Estimate


def folded(lines: Iterable[Line]) -> list[Row]:
    """Return a row for each label: its seeds together, their states counted where they differ."""
    by_label: dict[str, list[Line]] = {}
    for line in lines:
        by_label.setdefault(line.label, []).append(line)
    return [
        {
            "trial": label,
            "seeds": seeds_text([line.seed for line in group]),
            **_shared(group[0].need),
            "state": _states([line.state for line in group]),
            **_times([line.estimate for line in group]),
        }
        for label, group in by_label.items()
    ]


def apart(lines: Iterable[Line]) -> list[Row]:
    """Return a row for each trial, with its run key."""
    return [
        {
            "trial": line.label,
            "seed": str(line.seed),
            "run key": line.run_key,
            **_shared(line.need),
            "state": line.state,
            **_times([line.estimate]),
        }
        for line in lines
    ]


def seeds_text(seeds: Sequence[int]) -> str:
    """Write seeds for people, neighbours together: ``0``, ``0-2``, ``0-2, 7``."""
    known = sorted(seeds)
    starts = [known[0], *(b for a, b in pairwise(known) if b != a + 1)]
    ends = [*(a for a, b in pairwise(known) if b != a + 1), known[-1]]
    spans = zip(starts, ends, strict=True)
    return ", ".join(f"{low}" if low == high else f"{low}-{high}" for low, high in spans)


def _shared(need: Need) -> Row:
    gpu = need["gpu"] if isinstance(need["gpu"], str) else f"{need['gpu']:.4g}"
    return {"cpu": f"{need['cpu']:g}", "gpu": gpu}


def _states(states: Sequence[str]) -> str:
    counts = Counter(states)
    if len(counts) == 1:
        return states[0]
    return ", ".join(f"{count} {state}" for state, count in counts.items())


def _times(estimates: Sequence[Estimate]) -> Row:
    low, high = (
        [
            ((e.training + e.validation) * e.factor(end), e.judging * e.factor(end))
            for e in estimates
        ]
        for end in ENDS
    )
    training, evaluation = (
        time_range(min(shortest), max(longest))
        for shortest, longest in zip(zip(*low, strict=True), zip(*high, strict=True), strict=True)
    )
    basis = ", ".join(dict.fromkeys(estimate.basis for estimate in estimates))
    return {"training": training, "evaluation": evaluation, "basis": basis}
