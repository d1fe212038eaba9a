"""What a comparison looks like: terminal table, figure for a paper, self-contained HTML page."""

import io
import math
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import matplotlib as mpl
import pandas as pd
import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup
from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from studies.comparison import Comparison
from studies.fronts import front_name
from studies.intervals import LEVEL
from studies.methods import ONCE
from studies.planning import Plan
from studies.progress import duration
from studies.records import git_revision

# Okabe and Ito's colours, told apart by colour-blind readers; markers tell them apart in grey
STYLES: tuple[tuple[str, str, str], ...] = (
    ("#0072B2", "o", "circle"),
    ("#D55E00", "s", "square"),
    ("#009E73", "^", "triangle-up"),
    ("#CC79A7", "D", "diamond"),
    ("#E69F00", "v", "triangle-down"),
    ("#56B4E9", "P", "cross"),
)
HEADINGS = {
    "dedicated": "dedicated model",
    "oat": "OAT at",
    "sa_oat": "SA OAT",
    "sa_dedicated": "SA ded.",
    "d_sa": "ΔSA",
    "ra_oat": "RA OAT",
    "ra_dedicated": "RA ded.",
    "d_ra": "ΔRA",
    "verdict": "OAT is",
    "cost": "training",
}
LEGEND_WIDTH = 100
"""Characters that the legend of the figure holds in a line."""

WIDE = 118
"""Columns of a terminal that the tables fit into with intervals beside their values."""


def rows(comparison: Comparison) -> list[dict[str, str]]:
    """Return the free-vs-retrained table as text, a mapping of `HEADINGS` keys for each row."""
    several = comparison.table["once"].nunique() > 1 if len(comparison.table) else False
    widths = _has_widths(comparison)
    out = []
    for row in comparison.table.to_dict("records"):
        width = f" width={row['width_mult']:g}" if widths else ""
        out.append(
            {
                "dedicated": f"{row['dedicated']} {_value(row)}{width}",
                "oat": f"{row['once'] + ' ' if several else ''}λ={row['oat_lam']:g}",
                "sa_oat": percent(row["sa_oat"]),
                "sa_dedicated": percent(row["sa_dedicated"]),
                "d_sa": difference(row, "d_sa"),
                "ra_oat": percent(row["ra_oat"]),
                "ra_dedicated": percent(row["ra_dedicated"]),
                "d_ra": difference(row, "d_ra"),
                "verdict": str(row["verdict"]),
                "cost": duration(row["seconds_dedicated"]),
            }
        )
    return out


def variant_rows(comparison: Comparison) -> list[dict[str, str]]:
    """Return the table of OAT's variants against the plainest as text."""
    width = _has_widths(comparison)
    return [
        {
            "variant": f"{row['variant']} {_value(row)}"
            + (f" width={row['width_mult']:g}" if width else ""),
            "SA": percent(row["sa"]),
            "ΔSA": difference(row, "d_sa"),
            "RA": percent(row["ra"]),
            "ΔRA": difference(row, "d_ra"),
        }
        for row in comparison.variants.to_dict("records")
    ]


def _has_widths(comparison: Comparison) -> bool:
    return bool(comparison.cells["width_mult"].nunique() > 1)


def percent(fraction: float) -> str:
    """Write a fraction as percent with one decimal."""
    return f"{100 * fraction:.1f}"


def difference(row: dict[str, Any], name: str) -> str:
    """Write a difference of fractions in points with its interval; empty where there is none."""
    if name not in row or math.isnan(row[name]):
        return ""
    value, low, high = (100 * row[key] for key in (name, f"{name}_low", f"{name}_high"))
    return f"{value:+.1f} [{low:+.1f},{high:+.1f}]"


def front_rows(comparison: Comparison) -> list[dict[str, str]]:
    """Return the table of fronts and their price as text."""
    out = []
    for row in comparison.fronts.to_dict("records"):
        low, high = row["hypervolume_low"], row["hypervolume_high"]
        out.append(
            {
                "front": str(row["front"]),
                "models": f"{row['models']:g}",
                "operating points": str(row["operating_points"]),
                "on the front": str(row["on_front"]),
                "hypervolume": f"{row['hypervolume']:.3f} [{low:.3f}, {high:.3f}]",
                "ratio": "" if math.isnan(row["ratio"]) else f"{row['ratio']:.3f}",
                "training time": duration(row["device_seconds"]),
                "forward passes": f"{row['train_units'] / 1e6:,.2f} M",
                "stored": f"{row['network_bytes'] / 1e6:.2f} MB",
            }
        )
    return out


def terminal(comparison: Comparison, width: int) -> Iterator[Table | str]:
    """Yield what a terminal of so many columns shows of a comparison, in order."""
    if len(comparison.table):
        tables = list(comparison.table.groupby("once", sort=False))
        for once, table in tables:
            name = f" {once}," if len(tables) > 1 else ""
            yield _main_table(replace(comparison, table=table), name, width)
    if comparison.reference is not None:
        texts = variant_rows(comparison)
        yield _terminal_table(
            f"Against '{comparison.reference}', RA under {comparison.attack}, in percent",
            list(texts[0]),
            [list(row.values()) for row in texts],
            left=1,
            width=width,
        )
    keys = ["front", "models", "operating points", "hypervolume", "training time", "stored"]
    yield _terminal_table(
        f"Hypervolume above (0, 0) with {LEVEL:.0%} interval, and price",
        keys,
        [[row[key] for key in keys] for row in front_rows(comparison)],
        left=1,
        width=width,
    )
    yield comparison.answer()
    yield from comparison.notes


def _main_table(comparison: Comparison, name: str, width: int) -> Table:
    """Make the table of one once-for-all model against all dedicated ones."""
    # on a narrow terminal the training time stands in the second table alone
    shown = [key for key in HEADINGS if width >= WIDE or key != "cost"]
    return _terminal_table(
        f"Free vs retrained,{name} RA under {comparison.attack}, in percent",
        [HEADINGS[key] for key in shown],
        [[row[key] for key in shown] for row in rows(comparison)],
        left=2,
        width=width,
    )


def _terminal_table(
    title: str, headings: list[str], body: list[list[str]], *, left: int, width: int
) -> Table:
    """Make a table; on a narrow terminal intervals stand under their values."""
    narrow = width < WIDE
    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 0 if narrow else 1),
        collapse_padding=True,
        pad_edge=False,
        show_edge=False,
    )
    for i, heading in enumerate(headings):
        table.add_column(
            heading.replace(" ", "\n", 1) if narrow else heading,
            justify="left" if i < left else "right",
            # names give way to numbers, and are never cut
            no_wrap=i >= left,
            overflow="fold",
            min_width=None if i < left else max(map(len, _lines(heading, i, body, narrow))),
        )
    for row in body:
        table.add_row(*(text.replace(" [", "\n[") if narrow else text for text in row))
    return table


def _lines(heading: str, column: int, body: list[list[str]], narrow: bool) -> list[str]:
    """Return the lines that a column has to show."""
    texts = [heading.replace(" ", "\n", 1), *(row[column] for row in body)]
    if narrow:
        texts = [text.replace(" [", "\n[") for text in texts]
    else:
        texts[0] = heading
    return [line for text in texts for line in text.split("\n")]


def render(comparison: Comparison, plan: Plan) -> dict[str, bytes]:
    """Make the files of the report.

    Returns:
        Contents by file name: ``front.png``, ``front.svg``, ``index.html``, ``table.csv``,
        ``table.md``, ``cells.csv``, ``fronts.csv``, and ``variants.csv`` where there are several.
    """
    figure = paper_figure(comparison, plan.study.name)
    tables = {"table": comparison.table, "cells": comparison.cells, "fronts": comparison.fronts}
    if comparison.reference is not None:
        tables["variants"] = comparison.variants
    return {
        "front.png": _picture(figure, "png"),
        "front.svg": _picture(figure, "svg"),
        "index.html": page(comparison, plan).encode(),
        "table.md": markdown(comparison).encode(),
        **{f"{name}.csv": t.to_csv(index=False).encode() for name, t in tables.items()},
    }


def _picture(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    # the same points make the same bytes
    with mpl.rc_context({"svg.hashsalt": "oat", "svg.fonttype": "none"}):
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(buffer, format=kind, dpi=200, metadata=metadata)
    return buffer.getvalue()


@dataclass(frozen=True)
class Series:
    """The cells of one variant at one width, in order of their value, and how they are drawn.

    Attributes:
        name: For the legend.
        cells: Rows of `Comparison.cells`.
        once: Whether one model serves all of them.
        colour: By width where there are several, else by variant.
        marker: By variant; of matplotlib.
        symbol: The same, of plotly.
    """

    name: str
    cells: pd.DataFrame
    once: bool
    colour: str
    marker: str
    symbol: str


def series(cells: pd.DataFrame) -> list[Series]:
    """Divide the cells into what is drawn alike, once-for-all models first."""
    once = cells["method"].isin(ONCE)
    variants = [*cells.loc[once, "variant"].unique(), *cells.loc[~once, "variant"].unique()]
    widths = sorted(cells["width_mult"].unique(), reverse=True)
    found = []
    for i, variant in enumerate(variants):
        for j, width in enumerate(widths):
            own = cells[(cells["variant"] == variant) & (cells["width_mult"] == width)]
            if own.empty:
                continue
            colour = STYLES[(j if len(widths) > 1 else i) % len(STYLES)][0]
            _, marker, symbol = STYLES[i % len(STYLES)]
            name = front_name(variant, width, len(widths) > 1)
            own = own.sort_values(["lam", "beta"])
            found.append(Series(name, own, own["method"].iloc[0] in ONCE, colour, marker, symbol))
    return found


def _value(cell: Any) -> str:
    return f"β={cell['beta']:g}" if math.isnan(cell["lam"]) else f"λ={cell['lam']:g}"


def paper_figure(comparison: Comparison, title: str) -> Figure:
    """Draw standard against robust accuracy, a line for OAT and a mark for each dedicated model."""
    lines = series(comparison.cells)
    labels = [
        textwrap.fill(f"{line.name} ({'one model' if line.once else 'a model each'})", LEGEND_WIDTH)
        for line in lines
    ]
    longest = max(len(part) for label in labels for part in label.splitlines())
    columns = min(3, max(1, LEGEND_WIDTH // (longest + 8)))
    high = 3.6 + 0.14 * math.ceil(sum(1 + label.count("\n") for label in labels) / columns)
    figure = Figure(figsize=(5.2, high), layout="constrained")
    axes = figure.subplots()
    for line, label in zip(lines, labels, strict=True):
        cells, x, y = line.cells, 100 * line.cells["sa"], 100 * line.cells["ra"]
        axes.errorbar(
            x,
            y,
            xerr=[x - 100 * cells["sa_low"], 100 * cells["sa_high"] - x],
            yerr=[y - 100 * cells["ra_low"], 100 * cells["ra_high"] - y],
            fmt=line.marker,
            linestyle="-" if line.once else "none",
            color=line.colour,
            markersize=5,
            markerfacecolor=line.colour if line.once else "white",
            elinewidth=0.6,
            alpha=0.9,
            linewidth=1.2,
            label=label,
        )
    axes.set_xlabel("standard accuracy SA, %")
    axes.set_ylabel(f"robust accuracy RA under {comparison.attack}, %")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3, linewidth=0.5)
    figure.legend(fontsize=7, loc="outside lower center", ncols=columns, frameon=False)
    _annotate(figure, comparison.cells)
    return figure


def _annotate(figure: Figure, cells: pd.DataFrame) -> None:
    """Write the value beside each mark; where marks crowd, beside the first of them alone."""
    axes = figure.axes[0]
    figure.draw_without_rendering()  # fixes the layout, and with it where a mark is, in pixels
    taken: list[tuple[float, float]] = []
    for line in series(cells):
        for _, cell in line.cells.iterrows():
            at = (100 * cell["sa"], 100 * cell["ra"])
            x, y = axes.transData.transform(at)
            below = cell["method"] not in ONCE
            place = (float(x), float(y) - (19 if below else 0))
            if any(abs(place[0] - u) < 28 and abs(place[1] - v) < 9 for u, v in taken):
                continue
            taken.append(place)
            offset = (5, -10 if below else 4)
            axes.annotate(
                _value(cell),
                at,
                xytext=offset,
                textcoords="offset points",
                fontsize=6,
                color=line.colour,
            )


def _interactive(comparison: Comparison) -> go.Figure:
    figure = go.Figure()
    for line in series(comparison.cells):
        cells = line.cells
        text = [
            f"{line.name} {_value(cell)}<br>SA {percent(cell['sa'])} RA {percent(cell['ra'])}"
            f"<br>{cell['seeds']} seed(s), trained in {duration(cell['train_device_seconds'])}"
            for _, cell in cells.iterrows()
        ]
        errors = {
            axis: {
                "type": "data",
                "symmetric": False,
                "array": (100 * (cells[f"{axis}_high"] - cells[axis])).tolist(),
                "arrayminus": (100 * (cells[axis] - cells[f"{axis}_low"])).tolist(),
                "thickness": 1,
                "width": 2,
            }
            for axis in ("sa", "ra")
        }
        figure.add_scatter(
            x=(100 * cells["sa"]).tolist(),
            y=(100 * cells["ra"]).tolist(),
            error_x=errors["sa"],
            error_y=errors["ra"],
            name=line.name,
            mode="lines+markers" if line.once else "markers",
            marker={"color": line.colour, "symbol": line.symbol, "size": 9},
            hovertext=text,
            hoverinfo="text",
        )
    figure.update_layout(
        template="plotly_white",
        xaxis_title="standard accuracy SA, %",
        yaxis_title=f"robust accuracy RA under {comparison.attack}, %",
        height=520,
        margin={"l": 60, "r": 20, "t": 20, "b": 50},
        legend={"x": 0.02, "y": 0.02, "bgcolor": "rgba(255,255,255,0.7)"},
    )
    return figure


def page(comparison: Comparison, plan: Plan) -> str:
    """Write the HTML page: one file, no address outside, everything escaped."""
    environment = Environment(
        loader=PackageLoader("studies"), autoescape=select_autoescape(default=True)
    )
    chart = _interactive(comparison).to_html(
        full_html=False, include_plotlyjs=True, config={"displaylogo": False}, div_id="front"
    )
    text: str = environment.get_template("report.html").render(
        study=plan.study,
        comparison=comparison,
        headings=HEADINGS,
        rows=rows(comparison),
        variants=variant_rows(comparison),
        fronts=front_rows(comparison),
        chart=Markup(chart),
        trials=plan.trials,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        revision=git_revision(),
    )
    return text


def markdown(comparison: Comparison) -> str:
    """Write both tables, the answer and the notes as Markdown."""
    texts, fronts, variants = rows(comparison), front_rows(comparison), variant_rows(comparison)
    parts = [
        *([_markdown_table(list(HEADINGS.values()), texts)] if texts else []),
        *([_markdown_table(list(variants[0]), variants)] if variants else []),
        _markdown_table(list(fronts[0]), fronts),
        comparison.answer(),
        *comparison.notes,
    ]
    return "\n\n".join(parts) + "\n"


def _markdown_table(headings: list[str], body: list[dict[str, str]]) -> str:
    lines = [headings, ["---"] * len(headings), *(list(row.values()) for row in body)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
