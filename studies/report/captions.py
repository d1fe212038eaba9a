"""What a figure is of, in words: data, radius, seeds and the verdict."""

from studies.comparison.answer import Comparison
from studies.comparison.verdict import ONE_SEED
from studies.naming import radius_text
from studies.study_file.study import Study


def caption(comparison: Comparison, study: Study, *, every_radius: bool = False) -> str:
    """Say in one line what a figure of a comparison is of.

    Args:
        comparison: The comparison.
        study: The study of it.
        every_radius: Whether the figure has all radii, and not only that of the verdict.
    """
    radii = comparison.cells["eps"].unique()
    eps = f"ε={radius_text(radii[0])}" if len(radii) == 1 else "several ε"
    if every_radius and comparison.radii is not None:
        ends = [radius_text(end(comparison.radii.at)) for end in (min, max)]
        eps = f"ε from {' to '.join(ends)}, verdict at {eps}"
    seeds = f"{comparison.seeds} seed{'' if comparison.seeds == 1 else 's'}"
    return f"{study.data.name}, {eps}, {seeds}; {verdict_words(comparison)}"


def verdict_words(comparison: Comparison) -> str:
    """Say the verdict and what it rests on, in a part of a sentence."""
    if not (counts := comparison.counts()):
        return "nothing to compare"
    verdict = "no verdict on the method" if comparison.verdict == ONE_SEED else comparison.verdict
    return f"{verdict}: {counts}"


def figure_title(comparison: Comparison, study: Study, *, every_radius: bool = False) -> str:
    """Return the title of a figure for a paper: the study's name, and the caption below it."""
    return f"{study.name}\n{caption(comparison, study, every_radius=every_radius)}"
