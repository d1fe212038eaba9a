"""Signs of masked gradients: flags on the numbers of `oat.masking` and on points side by side.

A network whose gradients lead nowhere looks robust to attacks that follow them. Each sign has a
threshold below; sources as in `oat.masking`.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, TypedDict, cast, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from studies.naming import name_point
from studies.trial.evaluated import MaskingCheck, Point
from studies.trial.records import Correct

RISE = 0.02
"""RA may rise by this much from one radius to a larger one: the starts differ."""
LEFT = 0.05
"""RA may be this much at radius 0.5, where every image can be made uniformly grey."""
HELP = 0.05
"""RA may fall by this much with 5 starts instead of one. On 100 images chance alone moves such a
fall by 2 points (standard error, at a fall of 5)."""
STRONGER = 0.10
"""RA may fall by this much from PGD of one start to the strongest attack of the checks. On digits,
networks without other signs lost 2.5 to 9 points to 200 steps from five starts with margin losses
and to images of other networks. The distance itself is always told, whatever this says."""
NOISE = 0.8
"""Noise may do this share of PGD's harm, where it does any worth counting."""
HARM = 0.02
"""Harm of noise that is worth counting."""
FLAT = 0.01
"""Share of the right images that may have no gradient at all."""
GAP = 0.10
"""RA under AutoAttack may be this much below that under PGD, on the same images."""
BLACK_BOX = 0.02
"""RA under a black box may be this much below that under PGD, on the same images."""

Checked = Literal[
    "images",
    "sa",
    "ra",
    "ra_restarts",
    "ra_strong",
    "ra_noise",
    "ra_eps_0",
    "ra_eps_2x",
    "ra_eps_4x",
    "ra_eps_half",
    "zero_gradients",
]
CHECKED: tuple[Checked, ...] = get_args(Checked)
CHECK_COLUMNS = (
    *(f"check_{name}" for name in CHECKED),
    "check_gap_autoattack",
    "check_gap_black_box",
)
"""Columns of a point: fields of `oat.masking.Checks`, and how far RA under AutoAttack and under
the strongest black box lies below that under PGD; NaN where there is nothing to tell it from."""

EVERY_LAM = "-every-lam"
"""In the name of an attack from other λ as well: a black box in part."""

NOT_CHECKED = "not checked"
NO_FLAG = "none"


class MaskingColumns(TypedDict):
    """The columns of a point that tell of masked gradients; a number is NaN if not known.

    Attributes:
        masking: Signs of masked gradients: `none`, `not checked`, or the signs that were found.
        check_images: This and the next ten: see `studies.trial.evaluated.MaskingCheck`. None where
            the point was not checked: it is on held-out images, or `masking_images` is 0.
        check_sa: Likewise.
        check_ra: Likewise.
        check_ra_restarts: Likewise.
        check_ra_strong: Likewise; NaN for a check that is older than it.
        check_ra_noise: Likewise.
        check_ra_eps_0: Likewise.
        check_ra_eps_2x: Likewise.
        check_ra_eps_4x: Likewise.
        check_ra_eps_half: Likewise.
        check_zero_gradients: Likewise.
        check_gap_autoattack: How far RA under AutoAttack lies below RA under PGD, on the same
            images. Unit: fraction. None where the study has not both.
        check_gap_black_box: How far RA under the strongest black box lies below RA under PGD.
            Unit: fraction. None where the study has not both.
    """

    masking: str
    check_images: float
    check_sa: float
    check_ra: float
    check_ra_restarts: float
    check_ra_strong: float
    check_ra_noise: float
    check_ra_eps_0: float
    check_ra_eps_2x: float
    check_ra_eps_4x: float
    check_ra_eps_half: float
    check_zero_gradients: float
    check_gap_autoattack: float
    check_gap_black_box: float


def masking_columns(
    rows: Sequence[Point], correct: Correct, checks: Iterable[MaskingCheck]
) -> dict[str, MaskingColumns]:
    """Return the columns of each point of a trial that tell of masked gradients.

    Args:
        rows: Points of one trial.
        correct: Which images each has right.
        checks: Checks of the same trial's operating points.

    Returns:
        By point key: ``masking``, which is ``none``, ``not checked`` or the signs found, the
        attacks' own warnings among them; and `CHECK_COLUMNS`.
    """
    by_place = {_operating_point(check): check for check in checks}
    columns = {}
    for row in rows:
        there = [r for r in rows if _same_images(r, row) and r["eps"] == row["eps"]]
        check = (
            None if "split" in row else by_place.get(_operating_point(row))
        )  # made on test images
        numbers = {f"check_{name}": _number(check, name) for name in CHECKED}
        numbers["check_gap_autoattack"] = _gap(there, correct, ("autoattack",))
        numbers["check_gap_black_box"] = _gap(there, correct, ("square", "transfer"))
        warnings = sorted({r["warnings"] for r in there if r.get("warnings")})
        found = {"masking": _sentence(numbers, warnings), **numbers}
        columns[row["point_key"]] = cast(MaskingColumns, found)
    return columns


def _number(check: MaskingCheck | None, name: Checked) -> float:
    """Return a number of a check; NaN where there is none, as in older checks."""
    return float(check.get(name, math.nan)) if check else math.nan


def _operating_point(row: Point | MaskingCheck) -> tuple[str, float | None, float]:
    return row["checkpoint_rule"], row["lam"], row["width_mult"]


def _same_images(one: Point, other: Point) -> bool:
    return _operating_point(one) == _operating_point(other) and one.get("split") == other.get(
        "split"
    )


def _gap(there: Sequence[Point], correct: Correct, kinds: tuple[str, ...]) -> float:
    """Return how far RA under some attacks lies below that under PGD, on the same images."""
    white = [r for r in there if _is_ours(r, "pgd") and EVERY_LAM not in r["attack"]]
    other = [r for r in there if any(_is_ours(r, kind) for kind in kinds)]
    if not white or not other:
        return math.nan
    arrays = [[correct[f"{r['point_key']}.robust"] for r in some] for some in (white, other)]
    count = min(len(array) for some in arrays for array in some)
    lowest: list[float] = [min(_rate(array[:count]) for array in some) for some in arrays]
    return lowest[0] - lowest[1]


def _is_ours(row: Point, kind: str) -> bool:
    """Tell whether a point is under an attack of ours: `pgd20-ce`, and not under `pgd_margin`."""
    return re.fullmatch(rf"{kind}\d*(x\d+)?([-@].*)?", row["attack"]) is not None


def _rate(right: NDArray[np.bool_]) -> float:
    return float(right.mean())


def _sentence(numbers: Mapping[str, float], warnings: Sequence[str]) -> str:
    signs = [*flags(numbers), *warnings]
    if not signs and all(math.isnan(value) for value in numbers.values()):
        return NOT_CHECKED
    return "; ".join(signs) or NO_FLAG


def flags(numbers: Mapping[str, float]) -> list[str]:
    """Name the signs of masked gradients among the numbers of one operating point.

    Args:
        numbers: `CHECK_COLUMNS`; NaN is not checked and no sign.
    """
    n = {name.removeprefix("check_"): value for name, value in numbers.items()}
    radii = [n["ra_eps_0"], n["ra"], n["ra_eps_2x"], n["ra_eps_4x"], n["ra_eps_half"]]
    rises = any(after > before + RISE for before, after in pairwise(radii))
    harm, noise_harm = n["sa"] - n["ra_restarts"], n["sa"] - n["ra_noise"]
    # where PGD leaves nothing, noise that breaks much hides nothing
    equals = n["ra_restarts"] > LEFT and noise_harm > HARM and noise_harm >= NOISE * harm
    signs = {
        "radius 0 changes the accuracy": abs(n["ra_eps_0"] - n["sa"]) > 1e-9,
        "RA rises with the radius": rises,
        "RA stays above 0 at radius 0.5": n["ra_eps_half"] > LEFT,
        "more starts help much": n["ra"] - n["ra_restarts"] > HELP + 1e-9,
        "a stronger attack is far better": n["ra"] - n["ra_strong"] > STRONGER + 1e-9,
        "noise is nearly as good as PGD": equals,
        "zero gradients": n["zero_gradients"] > FLAT,
        "PGD is far from AutoAttack": n["gap_autoattack"] > GAP + 1e-9,
        "a black box is better than PGD": n["gap_black_box"] > BLACK_BOX + 1e-9,
    }
    return [sign for sign, found in signs.items() if found]


@dataclass(frozen=True)
class MaskingVerdict:
    """What a report says of masked gradients.

    Attributes:
        said: One sentence.
        state: ``good``, ``bad`` or ``unknown``.
        flagged: A sentence for each operating point and seed that has a sign of them.
        by_sign: The same, a sentence for those that have the same signs.
    """

    said: str
    state: str
    flagged: list[str]
    by_sign: list[str] = field(default_factory=list)


def masking_table(points: pd.DataFrame) -> pd.DataFrame:
    """Return what tells of masked gradients, a row for each operating point and seed.

    Args:
        points: Points under every attack, of one checkpoint rule.

    Returns:
        The place of each, ``flags`` (empty where none was found), and `CHECK_COLUMNS`.
    """
    place = ["variant", "lam", "beta", "width_mult", "recipe", "seed"]
    # attacks are held against each other at one radius, which is that of training if there is one
    odd = points["attack"].str.contains("@")
    own = points.assign(odd=odd).sort_values(["odd", "attack"], kind="stable")
    first = own.drop_duplicates(["run_key", *place])
    found = first["masking"].fillna(NOT_CHECKED)
    table = first[[*place, *CHECK_COLUMNS]].assign(flags=found.where(found != NO_FLAG, ""))
    return table[[*place, "flags", *CHECK_COLUMNS]].sort_values(place, ignore_index=True)


def masking_verdict(table: pd.DataFrame) -> MaskingVerdict:
    """Say whether anything points to masked gradients.

    Args:
        table: See `masking_table`; may be empty.
    """
    checked = table[table["flags"] != NOT_CHECKED] if len(table) else table
    if checked.empty:
        return MaskingVerdict("Nothing was checked for masked gradients.", "unknown", [])
    places = [_places(some) for some in (table, checked, checked[checked["flags"] != ""])]
    everywhere, seen, found = (len(dict.fromkeys(some)) for some in places)
    what = f"{seen} operating point{'' if seen == 1 else 's'}"
    left = everywhere - seen
    rest = f" {left} {'was' if left == 1 else 'were'} not checked." if left else ""
    if not found:
        return MaskingVerdict(f"No sign of masked gradients in {what}.{rest}", "good", [])
    rows = [(name_point(row), row["flags"]) for row in checked.to_dict("records") if row["flags"]]
    flagged = [f"{name}: {flags}" for name, flags in rows]
    by_sign = [
        f"{', '.join(name for name, its in rows if its == flags)}: {flags}"
        for flags in dict.fromkeys(flags for _, flags in rows)
    ]
    said = f"Signs of masked gradients in {found} of {what}.{rest}"
    return MaskingVerdict(said, "bad", flagged, by_sign)


def _places(table: pd.DataFrame) -> list[str]:
    return [name_point(row, seed=False) for row in table.to_dict("records")]
