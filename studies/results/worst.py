"""Robust accuracy as the worst over every attack of one radius that judged the same images.

An image counts as robust if it withstands each of the attacks; so a model that one of them fools
and another does not is never flattered by which of them a table names. Attacks at two radii are
two questions and never put together.
"""

import numpy as np
import pandas as pd

from studies.results.points import OPERATING_POINT
from studies.trial.records import Correct

SAME_RADIUS = 1e-9
"""Radii that differ by less are the same."""

AT = "@"
"""In the name of an attack at another radius than that of training, before the radius."""


def bare_name(attack: str) -> str:
    """Return the name of an attack without its radius."""
    return attack.partition(AT)[0]


def own_radius(points: pd.DataFrame) -> list[str]:
    """Return the attacks at the radius of training that judged most, by name.

    Most is the most operating points, and of those the most images. Attacks at other radii have
    an ``@`` in their name; where there are no others, those at the largest radius count.
    """
    grouped = points.groupby("attack")
    attacks = grouped.agg(judged=("ra", "size"), images=("images", "min"), eps=("eps", "max"))
    own = attacks[~attacks.index.str.contains(AT)]
    largest = attacks[attacks["eps"] > attacks["eps"].max() - SAME_RADIUS]
    attacks = own if len(own) else largest
    for most in ("judged", "images"):
        attacks = attacks[attacks[most] == attacks[most].max()]
    return sorted(map(str, attacks.index))


def attacks_by_radius(points: pd.DataFrame) -> dict[float, list[str]]:
    """Return the attacks that judged most at each radius, by rising radius; see `own_radius`.

    Attacks whose points are of several radii under one name, as of studies that were trained at
    different radii, are left out.
    """
    known = points.groupby("attack")["eps"].agg(["min", "max"])
    known = known[known["max"] - known["min"] < SAME_RADIUS]["max"].sort_values()
    found: dict[float, list[str]] = {}
    while len(known):
        eps = float(known.iloc[0])
        here = known.index[known < eps + SAME_RADIUS]
        found[eps] = own_radius(points[points["attack"].isin(here)])
        known = known[known >= eps + SAME_RADIUS]
    return found


def label_of(attacks: list[str]) -> str:
    """Name the worst over some attacks."""
    return attacks[0] if len(attacks) == 1 else f"the worst of {', '.join(attacks)}"


def worst_case(
    points: pd.DataFrame, correct: Correct, attacks: list[str]
) -> tuple[pd.DataFrame, Correct, list[str]]:
    """Put the points under several attacks together, one for each operating point and seed.

    Args:
        points: A frame of points.
        correct: Which images each has right, where that is known.
        attacks: The attacks, all at one radius.

    Returns:
        The points, each with the key of the one with the lowest RA; which images those have right
        under all attacks; and notes.
    """
    under = points[points["attack"].isin(attacks)]
    if len(attacks) == 1:
        return under, correct, []
    rows, worst, bounds = [], dict(correct), 0
    for _, group in under.groupby(OPERATING_POINT, dropna=False):
        if len(group) < len(attacks):  # it is missing, and named as such
            continue
        assert np.ptp(group["eps"]) < SAME_RADIUS, "attacks at two radii are never put together"
        # the attack that leaves least stands for all; of equal ones the first by name
        row = group.sort_values(["ra", "attack"]).iloc[0].copy()
        row["attack_settings"] = " ".join(group.sort_values("attack")["attack_settings"])
        row["step_size"] = group["step_size"].max()
        arrays = [correct.get(f"{key}.robust") for key in group["point_key"]]
        known = [right for right in arrays if right is not None]
        if len(known) == len(arrays) and len({len(right) for right in known}) == 1:
            robust = np.logical_and.reduce(known)
            worst[f"{row['point_key']}.robust"] = robust
            row["ra"] = float(robust.mean())
        else:
            bounds += 1
        rows.append(row)
    notes = []
    if bounds:
        notes.append(
            f"For {bounds} points it is not known which images withstand each attack, so their RA "
            "is the lowest under any one attack; under all of them together it may be lower."
        )
    table = pd.DataFrame(rows, columns=under.columns).astype(under.dtypes)
    return table.assign(attack=label_of(attacks)), worst, notes
