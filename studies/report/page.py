"""The report as one interactive HTML page, which needs no other file and no network."""

import base64
import math
import zlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any, cast

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from studies.comparison.answer import Comparison
from studies.naming import NamedRow, name_point, radius_text
from studies.report import charts
from studies.report.captions import caption
from studies.report.cells import Cell, Row, percent
from studies.report.operating_points import slider_points
from studies.report.origin import Origin, demo_command
from studies.report.provenance import gaps, provenance_rows, trial_rows
from studies.report.radius_charts import curve_choices, front_choices
from studies.report.radius_rows import BY_RADIUS, CURVES, curve_rows, radius_rows
from studies.report.rows import (
    COST_HEADINGS,
    GAINED,
    SAME_HEADINGS,
    SAME_KNOB,
    front_rows,
    gain_rows,
    heading_of,
    headings_of,
    outside_rows,
    rows,
    same_knob_rows,
    variant_rows,
)
from studies.report.training_charts import loss_and_accuracy
from studies.results.masking import masking_verdict
from studies.statistics.intervals import LEVEL

CHECKS = {
    "check_sa": "SA",
    "check_ra": "RA",
    "check_ra_restarts": "RA, 5 starts",
    "check_ra_strong": "RA, margin losses too",
    "check_ra_noise": "RA, noise",
    "check_ra_eps_0": "RA at ε = 0",
    "check_ra_eps_2x": "RA at 2ε",
    "check_ra_eps_4x": "RA at 4ε",
    "check_ra_eps_half": "RA at ε = 0.5",
    "check_zero_gradients": "zero gradients",
    "check_gap_autoattack": "less under AutoAttack",
    "check_gap_black_box": "less without gradients",
}
"""Columns of `Comparison.masking` that the page shows, fractions, and their headings."""

WEIGHTS = {
    "last": "last epoch",
    "averaged": "exponential moving average of the weights",
    "chosen": "epoch with the best mean of SA and RA in validation",
}
"""What a checkpoint rule takes, in words."""


def render_page(comparison: Comparison, origin: Origin, others: Iterable[Comparison] = ()) -> str:
    """Write the HTML page: one file, no address outside loaded, everything escaped.

    Args:
        comparison: What the page is about.
        origin: Where its numbers come from.
        others: The same study under other attacks; their tables stand below the main one.
    """
    environment = Environment(
        loader=PackageLoader("studies.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    points = slider_points(comparison, origin)
    loss, accuracy = loss_and_accuracy(comparison, origin)
    fronts = front_rows(comparison)
    figures = {
        "front": charts.front(comparison, points),
        "price": charts.price(comparison),
        "loss": loss,
        "accuracy": accuracy,
    }
    data: dict[str, Any] = {"points": points, "figures": figures}
    if comparison.radii is not None:
        data["radii"] = {
            "fronts": front_choices(comparison, origin),
            "curves": curve_choices(comparison, origin),
        }
    text: str = environment.get_template("report.html").render(
        study=origin.plan.study,
        comparison=comparison,
        level=f"{LEVEL:.0%}",
        caption=caption(comparison, origin.plan.study),
        weights=_weights(comparison.checkpoint),
        caveats=_caveats(comparison),
        same_knob=SAME_KNOB,
        heading=heading_of(comparison),
        headings=headings_of(rows(comparison)),
        rows=rows(comparison),
        same_headings=SAME_HEADINGS,
        same=same_knob_rows(comparison),
        others=[(heading_of(o), o.answer(), rows(o), headings_of(rows(o))) for o in others],
        variants=variant_rows(comparison),
        outside=outside_rows(comparison),
        fronts=[{k: cell for k, cell in row.items() if k not in COST_HEADINGS} for row in fronts],
        prices=[{k: row[k] for k in ("front", *COST_HEADINGS) if k in row} for row in fronts],
        masking=masking_verdict(comparison.masking),
        checks=[_masking_row(row) for row in comparison.masking.to_dict("records")],
        once=any(point["once"] for point in points),
        trials=trial_rows(origin),
        facts=provenance_rows(origin),
        demo=demo_command(origin),
        gaps=gaps(comparison, origin),
        links=origin.links,
        gained=gain_rows(comparison.gains.table) if comparison.gains else [],
        tuning_notes=comparison.gains.notes if comparison.gains else [],
        gained_heading=GAINED,
        curves=bool(loss["data"]),
        by_radius=radius_rows(comparison),
        by_radius_heading=BY_RADIUS,
        curve_rows=curve_rows(comparison),
        curves_heading=CURVES,
        radius_notes=_radius_notes(comparison),
        data=charts.json_safe(data),
        plotly=Markup(packed_plotly()),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    return text


@cache
def packed_plotly() -> str:
    """Return the charting library as text of a third of its size, which the page unpacks.

    Compressed (RFC 1950) and in base 85 as Python writes it, but for ``<``, which would end a
    script early: it is ``,`` here. plotly's package has no smaller part of the library.
    """
    from plotly.offline import get_plotlyjs

    packed = base64.b85encode(zlib.compress(get_plotlyjs().encode(), 9))
    return packed.replace(b"<", b",").decode()


def _weights(rules: str) -> str:
    """Say which weights were evaluated."""
    said = WEIGHTS.get(rules)
    return f"checkpoint rules {rules}" if said is None else f"{said} (checkpoint rule {rules})"


def _caveats(comparison: Comparison) -> list[str]:
    """Return what stands under this heading; what tuning and masking say has its own place."""
    return [
        *comparison.notes,
        *comparison.rival_remarks(),
        *comparison.front_remarks(),
        *comparison.radius_remarks(),
    ]


def _radius_notes(comparison: Comparison) -> list[tuple[str, list[str]]]:
    """Return what must be known of each radius beyond the notes on the whole: label and notes."""
    at = {} if comparison.radii is None else comparison.radii.at
    told = {*comparison.notes}
    notes = {radius_text(eps): [n for n in one.notes if n not in told] for eps, one in at.items()}
    return [(f"ε={eps}", some) for eps, some in notes.items() if some]


def _masking_row(row: Mapping[Any, Any]) -> Row:
    images = row.get("check_images", math.nan)
    return {
        "operating point": Cell(name_point(cast(NamedRow, row))),
        "signs": Cell(row["flags"] or "none"),
        "images": Cell("" if math.isnan(images) else f"{images:g}", images),
        **{name: percent(row.get(key, math.nan)) for key, name in CHECKS.items()},
    }
