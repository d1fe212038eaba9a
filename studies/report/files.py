"""The files of a report: page, figures and tables of one comparison."""

from collections.abc import Sequence

from studies.comparison.answer import Comparison
from studies.report.captions import figure_title
from studies.report.figures import paper_figure, picture, price_figure
from studies.report.latex import latex_table
from studies.report.markdown import markdown_tables
from studies.report.origin import Origin
from studies.report.page import render_page
from studies.report.radius_figures import radii_figure
from studies.report.rows import frames


def render(
    comparison: Comparison, origin: Origin, others: Sequence[Comparison] = ()
) -> dict[str, bytes]:
    """Make the files of the report.

    Args:
        comparison: What the report is about.
        origin: Where its numbers come from; see `studies.report.origin.gather`.
        others: The same study under other attacks, for the page and the Markdown.

    Returns:
        Contents by file name: ``index.html``; ``front`` and ``price``, each as ``.png`` and
        ``.svg``; ``table`` as ``.csv``, ``.md`` and ``.tex``; ``cells.csv``, ``fronts.csv``,
        ``masking.csv``, ``variants.csv`` where there are several, ``tuning.csv`` of tuned models;
        where there are several radii ``radii.png``, ``radii.svg``, ``radii.csv`` (RA by radius),
        ``areas.csv`` and ``by_radius.csv``.
    """
    title = figure_title(comparison, origin.plan.study)
    figures = {
        "front": paper_figure(comparison, title),
        "price": price_figure(comparison, title),
    }
    if comparison.radii is not None:
        title = figure_title(comparison, origin.plan.study, every_radius=True)
        figures["radii"] = radii_figure(comparison, title)
    return {
        "index.html": render_page(comparison, origin, others).encode(),
        **{
            f"{name}.{kind}": picture(figure, kind)
            for name, figure in figures.items()
            for kind in ("png", "svg")
        },
        "table.md": markdown_tables(comparison, others).encode(),
        "table.tex": latex_table(comparison).encode(),
        **{f"{name}.csv": t.to_csv(index=False).encode() for name, t in frames(comparison).items()},
    }
