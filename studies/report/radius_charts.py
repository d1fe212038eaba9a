"""The charts of the page that stand where a comparison has several radii, each with a choice."""

from typing import Any

from studies.comparison.answer import Comparison
from studies.naming import radius_text
from studies.report.captions import caption
from studies.report.charts import Figure, drawn, front, marker, plain
from studies.report.operating_points import interval, slider_points
from studies.report.origin import Origin
from studies.report.panels import Line, panels

Choice = dict[str, Any]
"""A ``label`` for a selector, the ``figure`` and what is ``said`` of it; and if it is ``first``."""


def front_choices(comparison: Comparison, origin: Origin) -> list[Choice]:
    """Draw the front at each radius, the deciding one to be shown first."""
    if comparison.radii is None:
        return []
    found: list[Choice] = []
    for eps, one in comparison.radii.at.items():
        figure = front(one, slider_points(one, origin))
        figure["data"] = [trace for trace in figure["data"] if "uid" not in trace]
        figure["layout"] |= {"height": HEIGHT}
        title = {"text": f"robust accuracy RA at ε={radius_text(eps)}, %"}
        figure["layout"]["yaxis"] |= {**RANGE, "title": title}
        first = eps == comparison.radii.decides
        label, said = f"ε={radius_text(eps)}", caption(one, origin.plan.study)
        found.append({"label": label, "figure": figure, "said": said, "first": first})
    return found


def curve_choices(comparison: Comparison, origin: Origin) -> list[Choice]:
    """Draw RA(ε) of the operating points of each trade-off value."""
    if comparison.radii is None:
        return []
    radii = sorted(comparison.radii.curves["eps"].unique())
    found: list[Choice] = []
    for panel in panels(comparison):
        traces = [_trace(line) for line in panel.lines]
        figure = drawn(traces, "radius ε; at 0 RA is SA", "robust accuracy RA, %", height=HEIGHT)
        figure["layout"]["yaxis"] |= RANGE
        figure["layout"]["xaxis"] |= {"tickvals": radii, "ticktext": list(map(radius_text, radii))}
        figure["layout"]["shapes"] = [_mark(comparison.radii.decides)]
        said = caption(comparison, origin.plan.study, every_radius=True)
        first = not found
        found.append({"label": panel.title, "figure": figure, "said": said, "first": first})
    return found


HEIGHT = 440
RANGE = {"range": [-2, 102]}
"""Of RA in percent, the same for every choice, so that they can be told apart."""


def _mark(eps: float) -> dict[str, Any]:
    """Draw a line at a radius."""
    line = {"color": "#6b7280", "width": 1, "dash": "dot"}
    return {"type": "line", "x0": eps, "x1": eps, "yref": "paper", "y0": 0, "y1": 1, "line": line}


def _trace(line: Line) -> Figure:
    style, curve = line.series.style, line.curve
    rows = curve.to_dict("records")
    return {
        "type": "scatter",
        "name": plain(line.name),
        "x": curve["eps"].tolist(),
        "y": (100 * curve["ra"]).tolist(),
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": (100 * (curve["ra_high"] - curve["ra"])).tolist(),
            "arrayminus": (100 * (curve["ra"] - curve["ra_low"])).tolist(),
            "thickness": 1,
            "width": 0,
        },
        "mode": "lines+markers",
        "line": {"color": style.colour, "dash": style.dash, "width": 2},
        "marker": marker(style.colour, style.symbol, 10 * style.scale, line.series.once),
        "hovertext": [
            f"<b>{plain(line.name)}</b><br>ε={radius_text(row['eps'])}<br>RA {interval(row, 'ra')}"
            for row in rows
        ],
        "hoverinfo": "text",
    }
