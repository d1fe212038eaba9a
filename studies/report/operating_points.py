"""Every operating point of a comparison as plain values: what the page's slider shows."""

from collections.abc import Mapping
from typing import Any

from studies.comparison.answer import Comparison
from studies.naming import duration, value_text
from studies.report.cells import difference
from studies.report.origin import Origin
from studies.report.styles import series


def interval(row: Mapping[Any, Any], name: str) -> str:
    """Write an accuracy with its interval in percent."""
    value, low, high = (100 * row[key] for key in (name, f"{name}_low", f"{name}_high"))
    return f"{value:.1f} % [{low:.1f}, {high:.1f}]"


def slider_points(comparison: Comparison, origin: Origin) -> list[dict[str, Any]]:
    """Return what the page says of each cell, in the order of the front's marks.

    Each has numbers for the script, ``facts`` (labels and texts), ``runs`` (texts, and addresses
    or None) and, of a once-for-all model, the nearest retrained model: its place in the list, and
    the differences from it as a text.
    """
    seeds = {trial.run_key: trial.seed for trial in origin.plan.trials}
    lines = series(comparison.cells)
    places = {cell: i for i, cell in enumerate(i for line in lines for i in line.cells.index)}
    nearest = {
        row["once"]: {
            "place": places[row["dedicated"]],
            "said": f"SA {difference(row, 'd_sa')}, RA {difference(row, 'd_ra')}",
        }
        for row in comparison.nearest.to_dict("records")
    }
    return [
        {
            "name": f"{line.name} {value_text(cell)}",
            "variant": line.variant,
            "once": line.once,
            "width": cell["width_mult"],
            "value": value_text(cell),
            "nearest": nearest.get(place),
            "sa": cell["sa"],
            "ra": cell["ra"],
            "facts": [
                ["SA", interval(cell, "sa")],
                ["RA", interval(cell, "ra")],
                ["width", f"{cell['width_mult']:g}"],
                ["FLOPs", f"{cell['flops'] / 1e6:,.1f} M per image"],
                ["exported weights", f"{cell['deployed_bytes'] / 1e6:.2f} MB"],
                ["training", duration(cell["train_device_seconds"])],
                ["seeds", str(cell["seeds"])],
            ],
            "runs": sorted(
                [
                    f"seed {seeds[run]}: {run}" if run in seeds else run,
                    origin.links.points.get(point),
                ]
                for run, point in zip(
                    cell["run_keys"].split(), cell["point_keys"].split(), strict=True
                )
            ),
        }
        for line in lines
        for place, cell in line.cells.to_dict("index").items()
    ]
