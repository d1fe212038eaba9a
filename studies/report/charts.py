"""The interactive charts of the page, as plain values of plotly.

Colours of traces are in `report.styles`; the page adds those of its theme, and places labels.
"""

import math
from collections.abc import Mapping
from typing import Any, cast

import pandas as pd

from studies.comparison.answer import Comparison
from studies.naming import NamedRow, duration, knob_text
from studies.report.rows import COST
from studies.report.styles import (
    OUTSIDE,
    OUTSIDE_LABEL,
    Series,
    front_styles,
    ra_of,
    series,
    side_by_side,
)

Figure = dict[str, Any]
"""``data`` and ``layout`` of plotly."""


HERE = "here"
NEAREST = "nearest"
"""Traces of the front that the script of the page moves, by plotly's ``uid``."""

AXIS = {"zeroline": False, "automargin": True}
RING = "#111111"


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
    costs = side_by_side(comparison.fronts["train_cost"])
    for cost, row in zip(costs, comparison.fronts.to_dict("records"), strict=True):
        style, area = styles[row["front"]], row["hypervolume"]
        low, high = row["hypervolume_low"], row["hypervolume_high"]
        texts = [
            f"<b>{plain(row['front'])}</b>",
            f"hypervolume: {area:.3f} [{low:.3f}, {high:.3f}]",
            f"{COST}: {row['train_cost'] / 1e6:,.2f}",
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
