"""How often verdicts are wrong: simulated studies whose truth is known.

    python -m benchmarks.verdicts --studies 400 > verdicts.json

Each study has one OAT network of ten λ and ten dedicated models, judged on the same test images.
Which images a model has right follows from a difficulty that all share in part and from the luck
of its training. Truth is a difference in SA and RA that is the same in all rows.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from studies.comparison import resampling
from studies.comparison.assumed import MARGIN
from studies.comparison.pairs import pair_table, same_knob
from studies.comparison.resampling import Resampled
from studies.comparison.verdict import verdict_on_all
from studies.results.points import COLUMNS, frame
from studies.trial.records import Correct

ROWS = 10
SA, RA = 0.9, 0.5
SHARED = 0.8
"""Share of the images that are as hard for one model as for the other."""


@dataclass(frozen=True)
class Setting:
    """What is true of a study, and its size.

    Attributes:
        name: In words.
        behind: How much lower OAT is in truth, in SA and in RA, as fractions.
        images: Test images.
        seeds: Trainings of each setting.
        spread: Standard deviation between trainings of a dedicated model, in SA and RA.
        oat_spread: The same of OAT.
    """

    name: str
    behind: tuple[float, float]
    images: int
    seeds: int
    spread: tuple[float, float] = (0.005, 0.009)
    oat_spread: tuple[float, float] = (0.005, 0.009)


SETTINGS = (
    Setting("equal, one seed", (0.0, 0.0), 10_000, 1),
    Setting("equal, three seeds", (0.0, 0.0), 10_000, 3),
    Setting("equal, five seeds", (0.0, 0.0), 10_000, 5),
    Setting("at the margin, one seed", (MARGIN, MARGIN), 10_000, 1),
    Setting("at the margin, three seeds", (MARGIN, MARGIN), 10_000, 3),
    Setting("half the margin, few images, three seeds", (MARGIN / 2, MARGIN / 2), 500, 3),
    Setting(
        "OAT differs more between trainings", (0.0, 0.0), 10_000, 2, (0.002, 0.002), (0.015,) * 2
    ),
    Setting("three points behind, three seeds", (0.03, 0.03), 10_000, 3),
    Setting("five points behind, three seeds", (0.05, 0.05), 10_000, 3),
)


def points_of(setting: Setting, rng: np.random.Generator) -> tuple[Any, Correct]:
    """Draw the frame of points of one study, and which images each has right."""
    rows: list[dict[str, Any]] = []
    correct: Correct = {}
    shared = rng.random(setting.images)
    empty = {name: 0.0 if kind != "str" else "" for name, kind in COLUMNS.items()}
    for seed in range(setting.seeds):
        oat_luck = rng.normal(0, setting.oat_spread)
        for number in range(ROWS):
            own_luck = rng.normal(0, setting.spread)
            for method, luck, behind in (
                ("oat", oat_luck, setting.behind),
                ("pgd_at", own_luck, (0.0, 0.0)),
            ):
                key = f"{method} {number} {seed}"
                mixed = rng.random(setting.images) < SHARED
                hard = np.where(mixed, shared, rng.random(setting.images))
                right = [
                    hard < rate + moved - less
                    for rate, moved, less in zip((SA, RA), luck, behind, strict=True)
                ]
                correct |= {f"{key}.clean": right[0], f"{key}.robust": right[1]}
                rows.append(
                    {
                        **empty,
                        "method": method,
                        "variant": method,
                        "lam": number / 10,
                        "beta": np.nan,
                        "width_mult": 1.0,
                        "seed": seed,
                        "sa": right[0].mean(),
                        "ra": right[1].mean(),
                        "images": setting.images,
                        "point_key": key,
                        "run_key": f"{method} {seed}" if method == "oat" else key,
                    }
                )
    return frame(rows), correct


@dataclass(frozen=True)
class Found:
    """Shares of the simulated studies, and of their intervals.

    Attributes:
        not_free: Studies of which any row is called not free.
        not_free_before: The same as it was until 2026-11: one interval below the margin is enough.
        verdict_not_free: Studies with that verdict on the method; none has one with one seed.
        free: Rows that are called free or better.
        held: Intervals that hold the true difference.
    """

    not_free: float
    not_free_before: float
    verdict_not_free: float
    free: float
    held: float


def simulate(setting: Setting, studies: int, seed: int = 0) -> Found:
    """Simulate so many studies of a setting, and count what is said of them."""
    rng = np.random.default_rng(seed)
    resampling.RESAMPLES = 100  # areas are not asked for
    tables, verdicts = [], []
    for _ in range(studies):
        draws = Resampled(*points_of(setting, rng))
        table = pair_table(same_knob(draws), draws, MARGIN)
        tables.append(table)
        verdicts.append(verdict_on_all(table, setting.seeds))
    held: list[NDArray[np.bool_]] = []
    for name, behind in zip(("d_sa", "d_ra"), setting.behind, strict=True):
        held += [(t[f"{name}_low"] <= -behind) & (t[f"{name}_high"] >= -behind) for t in tables]
    before = [bool(((t["d_sa_high"] < -MARGIN) | (t["d_ra_high"] < -MARGIN)).any()) for t in tables]
    return Found(
        not_free=float(np.mean([(t["verdict"] == "not free").any() for t in tables])),
        not_free_before=float(np.mean(before)),
        verdict_not_free=float(np.mean([verdict == "not free" for verdict in verdicts])),
        free=float(np.mean([t["verdict"].isin({"free", "better"}).mean() for t in tables])),
        held=float(np.mean(held)),
    )


def main() -> None:
    """Simulate all settings and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--studies", type=int, default=400, help="Of each setting.")
    studies = parser.parse_args().studies
    found = [{**asdict(setting), **asdict(simulate(setting, studies))} for setting in SETTINGS]
    print(json.dumps({"studies": studies, "rows": ROWS, "settings": found}, indent=1))


if __name__ == "__main__":
    main()
