"""Free against retrained: the comparison that the project exists for.

A pure function of a frame of points and, where it is stored, of which images each point has
right; see `studies.intervals` for the intervals.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from studies.errors import ComparisonError
from studies.frontier import hypervolume, pareto_mask
from studies.intervals import LEVEL, ONCE, Interval, Resampled, quantiles
from studies.results import correctness

MARGIN = 0.01
MUST_AGREE = {
    "data_fingerprint": "data",
    "images": "numbers of test images",
    "eps": "ε of the evaluation",
    "step_size": "step sizes of the evaluation attack",
    "budget": "training settings (data, model, train, attack)",
    "checkpoint_rule": "checkpoint rules",
    "results_version": "versions of the results",
}


@dataclass(frozen=True)
class Comparison:
    """The answer to "is the in-situ trade-off free?", under one attack.

    Attributes:
        attack: The attack that RA is under.
        table: A row for each dedicated operating point, with OAT's beside it: SA, RA, their
            differences (OAT minus dedicated) with intervals, the verdict, the training time.
        cells: A row for each operating point: SA and RA, mean over seeds, with intervals.
        fronts: A row for each variant, and one for all dedicated models together: models,
            operating points, hypervolume with interval, training time, bytes.
        ratio: Hypervolume of OAT's front over that of the dedicated models.
        verdict: ``free``, ``better``, ``not free`` or ``undecided``, over the whole table.
        margin: How much worse still counts as free.
        notes: What a reader must know: seeds, missing cells, unpaired intervals.
    """

    attack: str
    table: pd.DataFrame
    cells: pd.DataFrame
    fronts: pd.DataFrame
    ratio: Interval | None
    verdict: str
    margin: float
    notes: list[str] = field(default_factory=list)

    def answer(self) -> str:
        """Say the answer in one sentence."""
        if self.table.empty:
            return "Nothing to compare: the study needs OAT and at least one dedicated model."
        counts = self.table["verdict"].value_counts()
        parts = ", ".join(f"{counts[v]} {v}" for v in VERDICTS if v in counts)
        return (
            f"The in-situ trade-off is {self.verdict.upper()} here: of {len(self.table)} dedicated "
            f"models, OAT is {parts} (margin {points(self.margin)} in SA and RA, "
            f"{LEVEL:.0%} intervals){self._ratio_text()}."
        )

    def _ratio_text(self) -> str:
        if self.ratio is None:
            return "; the dedicated front has no area to compare with"
        ratio = self.ratio
        return f"; hypervolume ratio {ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"


def points(fraction: float) -> str:
    """Write a difference of accuracies for people, such as ``1 point``."""
    return f"{100 * fraction:g} point{'' if fraction == 0.01 else 's'}"


VERDICTS = ("better", "free", "undecided", "not free")


def compare(
    points: pd.DataFrame, *, attack: str | None = None, margin: float = MARGIN, force: bool = False
) -> Comparison:
    """Compare one model for every trade-off with one model for each.

    Args:
        points: A frame of points, as `studies.points` returns it. With its ``folder`` column
            intervals are paired by image; without, they are not, and a note says so.
        attack: Which attack's RA to use; None is the one that leaves least RA, of those
            at the radius of training (``pgd20@0.05`` is at another).
        margin: How much worse, as a fraction, still counts as free.
        force: Compare points of different settings all the same.

    Returns:
        The comparison; a pure function of the points.

    Raises:
        ComparisonError: There are no points, or they come from different settings.
    """
    if points.empty:
        raise ComparisonError("There are no points to compare yet; `oat run` makes them.")
    attacks = sorted(points["attack"].unique())
    chosen = _strongest(points) if attack is None else attack
    if chosen not in attacks:
        raise ComparisonError(f"No point was judged by '{chosen}'; there are {', '.join(attacks)}.")
    points = points[points["attack"] == chosen]
    points = points.sort_values("point_key", ignore_index=True)
    notes = _check_comparable(points, force)
    draws = Resampled(points, correctness(points))
    notes += draws.notes
    cells = draws.cells
    table = _table(cells, draws, margin)
    fronts, ratio = _fronts(cells, draws, points)
    notes += _width_note(table, draws, margin)
    missing = sorted(set(cells.loc[~draws.once & cells["lam"].notna(), "lam"]) - _once_lams(cells))
    if missing and draws.once.any():
        notes.append("OAT was not judged at λ " + ", ".join(f"{lam:g}" for lam in missing) + ".")
    return Comparison(chosen, table, cells, fronts, ratio, _overall(table), margin, notes)


def _strongest(points: pd.DataFrame) -> str:
    mean = points.groupby("attack")["ra"].mean()
    own_radius = mean[[label for label in mean.index if "@" not in label]]
    return str((own_radius if len(own_radius) else mean).idxmin())


def _width_note(table: pd.DataFrame, draws: Resampled, margin: float) -> list[str]:
    """Say so where the intervals are too wide for the margin to be decided."""
    if table.empty:
        return []
    half = float((table["d_sa_high"] - table["d_sa_low"]).median() / 2)
    if half <= margin:
        return []
    images = int(draws.cells["images"].iloc[0])
    return [
        f"With {images} test images and {len(draws.seeds)} seed(s) a difference in SA is known to "
        f"about ±{100 * half:.1f} points, which is more than the margin: use more test images or "
        "seeds to decide."
    ]


def _once_lams(cells: pd.DataFrame) -> set[float]:
    return set(cells.loc[cells["method"].isin(ONCE), "lam"])


def _check_comparable(points: pd.DataFrame, force: bool) -> list[str]:
    """Refuse points of different settings, or note them if forced."""
    notes = []
    for column, what in MUST_AGREE.items():
        values = points[column].unique()
        if len(values) > 1:
            said = f"The points come from different {what}: {', '.join(map(str, sorted(values)))}"
            if not force:
                raise ComparisonError(f"{said}; compare them apart, or use `--force`.")
            notes.append(f"{said}; compared all the same.")
    return notes


def judge(sa: Interval, ra: Interval, margin: float) -> str:
    """Give the verdict on one pair of differences, OAT minus dedicated.

    ``better`` if both intervals lie above 0; ``free`` if both lie above ``-margin``; ``not
    free`` if one lies wholly below ``-margin``; else ``undecided``.
    """
    if sa.low > 0 and ra.low > 0:
        return "better"
    if sa.low >= -margin and ra.low >= -margin:
        return "free"
    if sa.high < -margin or ra.high < -margin:
        return "not free"
    return "undecided"


def _overall(table: pd.DataFrame) -> str:
    """Give the verdict on all pairs: the worst that any of them has."""
    found = set(table["verdict"]) if len(table) else set()
    for verdict in reversed(VERDICTS):
        if verdict in found:
            return verdict
    return "undecided"


def _table(cells: pd.DataFrame, draws: Resampled, margin: float) -> pd.DataFrame:
    """Pair every dedicated cell with OAT: at the same λ, or for TRADES at the nearest SA."""
    rows: list[dict[str, Any]] = []
    for variant in cells.loc[draws.once, "variant"].unique():
        mine = cells[cells["variant"] == variant]
        for j, dedicated in cells[~draws.once].iterrows():
            candidates = mine[mine["width_mult"] == dedicated["width_mult"]]
            if pd.notna(dedicated["lam"]):
                candidates = candidates[(candidates["lam"] - dedicated["lam"]).abs() < 1e-6]
            if candidates.empty:
                continue
            i = int((candidates["sa"] - dedicated["sa"]).abs().idxmin())
            sa, ra = draws.difference(i, int(str(j)), 0), draws.difference(i, int(str(j)), 1)
            rows.append(
                {
                    "once": variant,
                    "dedicated": dedicated["variant"],
                    "lam": dedicated["lam"],
                    "beta": dedicated["beta"],
                    "width_mult": dedicated["width_mult"],
                    "oat_lam": cells["lam"].iloc[i],
                    "sa_oat": cells["sa"].iloc[i],
                    "sa_dedicated": dedicated["sa"],
                    "d_sa": sa.value,
                    "d_sa_low": sa.low,
                    "d_sa_high": sa.high,
                    "ra_oat": cells["ra"].iloc[i],
                    "ra_dedicated": dedicated["ra"],
                    "d_ra": ra.value,
                    "d_ra_low": ra.low,
                    "d_ra_high": ra.high,
                    "verdict": judge(sa, ra, margin),
                    "seeds": dedicated["seeds"],
                    "seconds_oat": cells["train_device_seconds"].iloc[i],
                    "seconds_dedicated": dedicated["train_device_seconds"],
                }
            )
    columns = rows[0].keys() if rows else ["verdict"]
    return pd.DataFrame(rows, columns=list(columns))


def _fronts(
    cells: pd.DataFrame, draws: Resampled, points: pd.DataFrame
) -> tuple[pd.DataFrame, Interval | None]:
    """Measure the front of each variant and of all dedicated models together."""
    groups = {v: np.flatnonzero(cells["variant"] == v) for v in cells["variant"].unique()}
    dedicated = np.flatnonzero(~draws.once)
    if len(dedicated) and len({cells["variant"].iloc[i] for i in dedicated}) > 1:
        groups["all dedicated"] = dedicated
    runs = points.drop_duplicates("run_key")
    rows, samples = [], {}
    for name, members in groups.items():
        own = runs[runs["variant"].isin(cells["variant"].iloc[members])]
        volumes = np.array([hypervolume(draw) for draw in draws.samples[:, members]])
        samples[name] = volumes
        low, high = quantiles(volumes)
        front = cells[["sa", "ra"]].to_numpy()[members]
        rows.append(
            {
                "front": name,
                "models": len(own) / own["seed"].nunique(),
                "operating_points": len(members),
                "on_front": int(pareto_mask(front).sum()),
                "hypervolume": hypervolume(front),
                "hypervolume_low": low,
                "hypervolume_high": high,
                "device_seconds": own["train_device_seconds"].sum() / own["seed"].nunique(),
                "train_units": own["train_units"].sum() / own["seed"].nunique(),
                "network_bytes": own["network_bytes"].sum() / own["seed"].nunique(),
            }
        )
    fronts = pd.DataFrame(rows)
    once = [name for name in groups if name in set(cells.loc[draws.once, "variant"])]
    if not once or not len(dedicated):
        return fronts, None
    against = "all dedicated" if "all dedicated" in groups else cells["variant"].iloc[dedicated[0]]
    volume = fronts.set_index("front")["hypervolume"]
    if not samples[against].all() or not volume[against]:
        return fronts, None
    low, high = quantiles(samples[once[0]] / samples[against])
    return fronts, Interval(volume[once[0]] / volume[against], float(low), float(high))
