"""One comparison at each radius that the models were attacked at, and RA(ε) over all of them.

One radius gives the verdict. The others are told beside it: the error of *not free* is held at
each radius alone, and who looks at several must not choose the one that suits.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from studies.comparison.answer import BEST, SAME, Comparison, Radii
from studies.comparison.curves import Judged, area_notes, areas_under, radius_curves, rises
from studies.comparison.guards import check_comparable
from studies.comparison.verdict import VERDICTS
from studies.errors import ComparisonError
from studies.known_methods import CONDITIONAL
from studies.naming import listed, radius_text
from studies.results.worst import AT, SAME_RADIUS, attacks_by_radius, bare_name

ACROSS = ("budget", "checkpoint_rule", "results_version")
"""What points at two radii must share; attacks, steps and images may be others."""

ENDS = ("", "_low", "_high")
"""Of the columns of a value and its interval."""

CompareAt = Callable[[list[str]], tuple[Comparison, Judged]]
"""Compares under the worst over some attacks of one radius."""


def others_by_radius(
    points: pd.DataFrame, judged: Judged, attack: str | None
) -> dict[float, list[str]]:
    """Return the attacks at each radius but that of the first comparison, by rising radius.

    Args:
        points: Points under every attack.
        judged: Those of the first comparison.
        attack: The attack that was asked for, which alone counts at the other radii as well.
    """
    own = judged.points["eps"]
    if np.ptp(own) >= SAME_RADIUS:  # only if forced
        return {}
    if attack is not None:
        points = points[points["attack"].map(bare_name) == bare_name(attack)]
    return {
        eps: names
        for eps, names in attacks_by_radius(points).items()
        if abs(eps - own.iloc[0]) >= SAME_RADIUS
    }


def with_radii(
    first: Comparison,
    judged: Judged,
    others: Mapping[float, list[str]],
    compare_at: CompareAt,
    *,
    asked: bool,
    force: bool,
) -> Comparison:
    """Add to a comparison what it is at other radii.

    Args:
        first: The comparison that gives the verdict.
        judged: Its points.
        others: The attacks at each other radius; see `others_by_radius`.
        compare_at: Makes the comparison there.
        asked: Whether the first one's attack was asked for by name.
        force: Compare points of different settings all the same.
    """
    if not others:
        return first
    decides = float(judged.points["eps"].iloc[0])
    found, notes = {decides: (first, judged)}, list[str]()
    for eps, names in others.items():
        where = f"ε={radius_text(eps)}"
        try:
            there = compare_at(names)
            both = pd.concat([judged.points, there[1].points])
            notes += [f"At {where}: {said}" for said in check_comparable(both, force, ACROSS)]
            found[eps] = there
        except ComparisonError as error:
            notes.append(f"Not compared at {where}: {error}")
    if len(found) == 1:
        return replace(first, notes=first.notes + notes)
    at = {eps: found[eps][0] for eps in sorted(found)}
    points = {eps: found[eps][1] for eps in sorted(found)}
    curves = radius_curves({eps: one.cells for eps, one in at.items()})
    areas = areas_under(points, curves)
    notes = [_deciding(at, decides, asked), *notes, *_odd_radii(at, first)]
    notes += [*rises(points), *area_notes(areas)]
    radii = Radii(decides, at, _table(at, decides), curves, areas)
    return replace(first, radii=radii, notes=first.notes + notes)


def _deciding(at: Mapping[float, Comparison], decides: float, asked: bool) -> str:
    """Say which radius gives the verdict, and what the others are."""
    others = listed(f"ε={radius_text(eps)}" for eps in at if eps != decides)
    if not any(AT in attack for attack in at[decides].attacks):
        why = "the radius of training"
    else:
        why = "as asked for" if asked else "the largest, as none is that of training"
    return (
        f"The answer is for ε={radius_text(decides)}, {why}. The results at {others} are "
        "descriptive: the chance of a false 'not free' is at most 5% at each radius, not over all "
        "of them."
    )


def _odd_radii(at: Mapping[float, Comparison], first: Comparison) -> list[str]:
    """Say where a radius was not judged, or λ not chosen, as at the others."""
    names = {eps: sorted(map(bare_name, one.attacks)) for eps, one in at.items()}
    notes = []
    if len(set(map(tuple, names.values()))) > 1:
        said = "; ".join(f"ε={radius_text(eps)}: {', '.join(some)}" for eps, some in names.items())
        notes.append(
            f"RA is not the worst over the same attacks at every radius ({said}), so part of its "
            "fall between radii may come from the attacks."
        )
    unchosen = [eps for eps, one in at.items() if one.question == SAME and len(one.same_knob)]
    if first.question == BEST and unchosen:
        where = listed(f"ε={radius_text(eps)}" for eps in unchosen)
        notes.append(
            f"At {where} there are no points on held-out images to choose λ by, so OAT runs at "
            "the λ of the retrained model there. `oat run` evaluates them; it trains nothing for "
            "that."
        )
    return notes


def _table(at: Mapping[float, Comparison], decides: float) -> pd.DataFrame:
    """Return a row for each radius and front of a once-for-all model; see `Radii.table`."""
    rows: list[dict[str, Any]] = []
    for eps, one in at.items():
        verdicts = list(one.own_rows["verdict"])
        images = one.cells["images"]
        ours = one.fronts["front"].str.split().str[0].isin(CONDITIONAL)
        known = one.fronts[one.fronts["ratio"].notna() | ours].to_dict("records")
        for front in known or [{"front": ""}]:
            rows.append(
                {
                    "eps": eps,
                    "decides": eps == decides,
                    "attacks": ", ".join(sorted(map(bare_name, one.attacks))),
                    "images": int(images.iloc[0]),
                    "question": one.question,
                    "models": len(verdicts),
                    **{verdict.replace(" ", "_"): verdicts.count(verdict) for verdict in VERDICTS},
                    "verdict": one.verdict,
                    "front": front["front"],
                    **{f"ratio{end}": front.get(f"ratio{end}", np.nan) for end in ENDS},
                }
            )
    return pd.DataFrame(rows)
