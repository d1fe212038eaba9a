"""The figure of RA(ε) for a paper: small multiples, a panel for each trade-off value."""

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from studies.comparison.answer import Comparison
from studies.naming import radius_text
from studies.report.figures import PLAIN_TEXTS, title_lines
from studies.report.panels import Line, Panel, panels

ACROSS = 3
"""Panels in a row."""


@PLAIN_TEXTS
def radii_figure(comparison: Comparison, title: str) -> Figure:
    """Draw RA(ε) of every operating point of a comparison that has several radii."""
    found = panels(comparison)
    across = min(ACROSS, len(found))
    down = math.ceil(len(found) / across)
    figure = Figure(figsize=(2.6 * across, 0.5 + 2.2 * down), layout="constrained")
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    figure.suptitle(title_lines(title, 38 * across), fontsize=8)
    places = list(grid.flat)
    for axes, panel in zip(places, found, strict=False):
        draw_panel(comparison, panel, axes)
        axes.set_title(panel.title, fontsize=8)
        axes.tick_params(labelsize=6)
        axes.legend(fontsize=5.5, frameon=False, loc="upper right")
    for axes in places[len(found) :]:
        axes.set_visible(False)
    for axes in places[max(0, len(found) - across) : len(found)]:  # with no panel below
        axes.tick_params(labelbottom=True)
    figure.supxlabel("radius ε; at 0 RA is SA", fontsize=8)
    figure.supylabel("robust accuracy RA, %", fontsize=8)
    return figure


def draw_panel(comparison: Comparison, panel: Panel, axes: Axes) -> None:
    """Draw RA(ε) of some operating points with their intervals, and mark the deciding radius."""
    assert comparison.radii is not None
    axes.axvline(comparison.radii.decides, color="#9ca3af", linewidth=0.8, linestyle=":")
    for line in panel.lines:
        _draw(line, axes)
    axes.set_ylim(-2, 102)
    axes.grid(alpha=0.3, linewidth=0.5)
    radii = sorted(comparison.radii.curves["eps"].unique())
    axes.set_xticks(radii, [radius_text(eps) for eps in radii], rotation=45)


def _draw(line: Line, axes: Axes) -> None:
    style, curve = line.series.style, line.curve
    ra, low, high = (100 * curve[name] for name in ("ra", "ra_low", "ra_high"))
    axes.errorbar(
        curve["eps"],
        ra,
        yerr=[ra - low, high - ra],
        fmt=style.marker,
        linestyle=style.line,
        color=style.colour,
        markersize=4 * style.scale,
        markerfacecolor=style.colour if style.filled else "white",
        elinewidth=0.8,
        linewidth=1.0,
        label=line.name,
    )
