"""The interactive charts of the page, as plain values of plotly.

Colours of traces are in `report.styles`; the page adds those of its theme, and places labels.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, cast

import pandas as pd

from studies.comparison.answer import Comparison
from studies.known_methods import ONCE
from studies.naming import NamedRow, duration, knob_text
from studies.planning.plan import PlannedTrial
from studies.report.origin import Origin
from studies.report.rows import COST
from studies.report.styles import (
    COLOURS,
    DASHES,
    OUTSIDE,
    OUTSIDE_LABEL,
    Series,
    front_styles,
    ra_of,
    series,
    side_by_side,
    variants_of,
)

Figure = dict[str, Any]
"""``data`` and ``layout`` of plotly."""

Curve = Literal["train_loss", "sa_val", "ra_val"]
"""What is drawn by epoch."""

HERE = "here"
NEAREST = "nearest"
"""Traces of the front that the script of the page moves, by plotly's ``uid``."""

AXIS = {"zeroline": False, "automargin": True}
RING = "#111111"
ACCURACIES: tuple[tuple[Curve, str, str], ...] = (
    ("sa_val", "SA", "solid"),
    ("ra_val", "RA", "dash"),
)
UNKNOWN = "not evaluated"
EVERY_LAM = "all λ"
"""What a training curve of a once-for-all model tells in place of its value."""


def plain(text: str) -> str:
    """Escape what plotly would read as a tag or an entity."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def front(comparison: Comparison, points: list[dict[str, Any]]) -> Figure:
    """Draw SA against RA; each mark carries its place among the operating points."""
    traces, first = [], 0
    for line in series(comparison.cells):
        last = first + len(line.cells)
        traces.append(_front_trace(line, points[first:last], list(range(first, last))))
        first = last
    if len(comparison.outside):
        traces.append(_outside_trace(comparison.outside))
    for uid, symbol, size in ((HERE, "circle-open", 22), (NEAREST, "square-open", 22)):
        traces.append(
            {
                "type": "scatter",
                "uid": uid,
                "x": [],
                "y": [],
                "mode": "markers",
                "hoverinfo": "skip",
                "showlegend": False,
                "marker": {"symbol": symbol, "size": size, "color": RING, "line": {"width": 3}},
            }
        )
    return drawn(
        traces,
        "standard accuracy SA, %",
        f"robust accuracy {ra_of(comparison)}, %",
        height=560,
    )


def _errors(cells: pd.DataFrame, colour: str) -> dict[str, Any]:
    return {
        f"error_{axis}": {
            "type": "data",
            "symmetric": False,
            "array": (100 * (cells[f"{name}_high"] - cells[name])).tolist(),
            "arrayminus": (100 * (cells[name] - cells[f"{name}_low"])).tolist(),
            "color": f"{colour}80",  # half transparent
            "thickness": 1,
            "width": 0,
        }
        for axis, name in (("x", "sa"), ("y", "ra"))
    }


def _outside_trace(outside: pd.DataFrame) -> dict[str, Any]:
    colour, _, symbol = OUTSIDE
    return {
        "type": "scatter",
        "name": plain(OUTSIDE_LABEL),
        "meta": {"labels": [plain(name) for name in outside["name"]]},
        "x": (100 * outside["sa"]).tolist(),
        "y": (100 * outside["ra"]).tolist(),
        **_errors(outside, colour),
        "mode": "markers",
        "line": {"color": colour},
        "marker": marker(colour, symbol, 14, filled=True),
        "hovertext": [plain(f"{name}, {OUTSIDE_LABEL}") for name in outside["name"]],
        "hoverinfo": "text",
    }


def _front_trace(line: Series, points: list[dict[str, Any]], places: list[int]) -> dict[str, Any]:
    cells, style = line.cells, line.style
    return {
        "type": "scatter",
        "name": plain(line.label),
        "meta": {
            "labels": [plain(knob_text(cast(NamedRow, cell))) for cell in cells.to_dict("records")]
        },
        "x": (100 * cells["sa"]).tolist(),
        "y": (100 * cells["ra"]).tolist(),
        **_errors(cells, style.colour),
        "customdata": places,
        "mode": "lines+markers" if line.once else "markers",
        "line": {"color": style.colour, "dash": style.dash, "width": 2},
        "marker": marker(style.colour, style.symbol, 12 * style.scale, line.once),
        "hovertext": [_hover(point) for point in points],
        "hoverinfo": "text",
    }


def marker(colour: str, symbol: str, size: float, filled: bool) -> dict[str, Any]:
    """Draw a mark: filled for one model, hollow for a model each."""
    if filled:
        return {"color": colour, "symbol": symbol, "size": size}
    return {"color": colour, "symbol": f"{symbol}-open", "size": size, "line": {"width": 2}}


def _hover(point: Mapping[str, Any]) -> str:
    facts = [f"{label}: {plain(text)}" for label, text in point["facts"]]
    runs = "runs: " + plain(", ".join(run for run, _ in point["runs"]))
    return "<br>".join([f"<b>{plain(point['name'])}</b>", *facts, runs])


def price(comparison: Comparison) -> Figure:
    """Draw the hypervolume of each front against the cost of training its models."""
    styles = front_styles(comparison)
    traces = []
    costs = side_by_side(comparison.fronts["train_units"])
    for cost, row in zip(costs, comparison.fronts.to_dict("records"), strict=True):
        style, area = styles[row["front"]], row["hypervolume"]
        low, high = row["hypervolume_low"], row["hypervolume_high"]
        texts = [
            f"<b>{plain(row['front'])}</b>",
            f"hypervolume: {area:.3f} [{low:.3f}, {high:.3f}]",
            f"{COST}: {row['train_units'] / 1e6:,.2f}",
            f"training: {duration(row['device_seconds'])} for {row['models']:g} model(s)",
        ]
        traces.append(
            {
                "type": "scatter",
                "name": plain(row["front"]),
                "x": [cost / 1e6],
                "y": [area],
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "array": [high - area],
                    "arrayminus": [area - low],
                    "thickness": 1,
                },
                "mode": "markers",
                "marker": marker(style.colour, style.symbol, 13 * style.scale, style.filled),
                "hovertext": ["<br>".join(texts)],
                "hoverinfo": "text",
            }
        )
    figure = drawn(traces, COST, "hypervolume", height=480)
    ticks = [m * 10.0**e for e in range(-6, 9) for m in (1, 2, 5)]
    figure["layout"]["xaxis"] |= {
        "type": "log",
        "tickvals": ticks,
        "ticktext": [f"{tick:,.10g}" for tick in ticks],
    }
    return figure


def training(comparison: Comparison, origin: Origin) -> tuple[Figure, Figure]:
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


def drawn(traces: list[dict[str, Any]], x: str, y: str, *, height: int) -> Figure:
    """Lay traces out on two axes with their titles; ``height`` is in pixels.

    The colours of axes and texts are those of the page's theme, which its script sets.
    """
    layout = {
        "xaxis": {**AXIS, "title": {"text": plain(x)}},
        "yaxis": {**AXIS, "title": {"text": plain(y)}},
        "height": height,
        "margin": {"l": 60, "r": 16, "t": 16, "b": 48},
        "hovermode": "closest",
        "hoverlabel": {"align": "left", "font": {"size": 12}},
        "font": {"family": "system-ui, sans-serif", "size": 12},
        "uirevision": "kept",  # a zoom stays when the theme changes
        "showlegend": True,
        "legend": {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom"},
    }
    return {"data": traces, "layout": layout}


def json_safe(value: Any) -> Any:
    """Return plain values that JSON can hold: numbers that are none become None."""
    if isinstance(value, Mapping):
        return {key: json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.item() if hasattr(value, "item") else value
