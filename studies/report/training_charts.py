"""The interactive charts of training: the loss, and SA and RA of validation, by epoch."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, cast

from studies.comparison.answer import Comparison
from studies.known_methods import ONCE
from studies.naming import NamedRow, knob_text
from studies.planning.plan import PlannedTrial
from studies.report.charts import Figure, drawn, plain
from studies.report.origin import Origin
from studies.report.styles import COLOURS, DASHES, variants_of

Curve = Literal["train_loss", "sa_val", "ra_val"]
"""What is drawn by epoch."""


ACCURACIES: tuple[tuple[Curve, str, str], ...] = (
    ("sa_val", "SA", "solid"),
    ("ra_val", "RA", "dash"),
)


UNKNOWN = "not evaluated"


EVERY_LAM = "all λ"
"""What a training curve of a once-for-all model tells in place of its value."""


def loss_and_accuracy(comparison: Comparison, origin: Origin) -> tuple[Figure, Figure]:
    """Draw the loss of training, and SA and RA of validation, by epoch.

    The trials of a variant are one trace, with gaps between them, so that the legend has an entry
    for each variant. The end of each line has a label: its λ or β.
    """
    cell_of = {
        run: cell
        for cell in comparison.cells.to_dict("records")
        for run in cell["run_keys"].split()
    }
    variant_of = {run: cell["variant"] for run, cell in cell_of.items()}
    values = {
        run: EVERY_LAM if cell["method"] in ONCE else knob_text(cast(NamedRow, cell))
        for run, cell in cell_of.items()
    }
    groups: dict[str, list[PlannedTrial]] = {name: [] for name in variants_of(comparison.cells)}
    for trial in origin.plan.trials:
        if trial.run_key in origin.epochs:
            groups.setdefault(variant_of.get(trial.run_key, UNKNOWN), []).append(trial)
    loss, accuracy = [], []
    for i, (name, trials) in enumerate(groups.items()):
        style = {"color": COLOURS[i % len(COLOURS)]}
        if not trials:
            continue
        dash = DASHES[i % len(DASHES)][1]
        curves = _curves(trials, origin, "train_loss", 1, values)
        loss.append(curves | _named(name, style, dash))
        for key, label, dashed in ACCURACIES:
            curves = _curves(trials, origin, key, 100, values)
            if curves["x"]:
                accuracy.append(curves | _named(f"{name} {label}", style, dashed))
    charts = (
        drawn(loss, "epoch", "training loss", height=400),
        drawn(accuracy, "epoch", "validation SA and RA, %", height=400),
    )
    for chart in charts:
        chart["layout"]["margin"]["r"] = 64  # for the labels at the ends of the lines
    return charts


def _named(name: str, style: Mapping[str, Any], dash: str) -> dict[str, Any]:
    return {"name": plain(name), "line": {**style, "dash": dash, "width": 1.5}}


def _curves(
    trials: Iterable[PlannedTrial],
    origin: Origin,
    key: Curve,
    scale: float,
    values: Mapping[str, str],
) -> dict[str, Any]:
    """Put the curves of several trials into one trace, with a gap after each.

    ``meta`` holds the label at the end of a line, once for all seeds; ``values`` has it by run key.
    """
    ends: dict[str, tuple[int, float]] = {}
    x: list[Any] = []
    y: list[Any] = []
    texts: list[str] = []
    for trial in trials:
        found = [
            (e["epoch"], value)
            for e in origin.epochs[trial.run_key]
            if (value := e.get(key)) is not None
        ]
        if not found:
            continue
        x += [*(epoch for epoch, _ in found), None]
        y += [*(scale * value if math.isfinite(value) else None for _, value in found), None]
        last, value = found[-1]
        if math.isfinite(value):
            text = plain(values.get(trial.run_key, trial.label))
            ends.setdefault(text, (last, scale * value))
        said = plain(f"{trial.label}, seed {trial.seed}")
        texts += [
            *(f"{said}<br>epoch {epoch}: {key} {scale * value:.4g}" for epoch, value in found),
            "",
        ]
    return {
        "type": "scatter",
        "x": x,
        "y": y,
        "meta": {"ends": [{"text": text, "x": end, "y": y} for text, (end, y) in ends.items()]},
        "mode": "lines+markers",
        "marker": {"size": 4},
        "hovertext": texts,
        "hoverinfo": "text",
    }
