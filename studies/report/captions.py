"""What a figure is of, in words: data, radius, seeds and the verdict."""

from studies.comparison.answer import Comparison
from studies.comparison.verdict import ONE_SEED
from studies.naming import radius_text
from studies.study_file.study import Study


def caption(comparison: Comparison, study: Study) -> str:
    """Say in one line what a figure of a comparison is of."""
    radii = comparison.cells["eps"].unique()
    eps = f"ε={radius_text(radii[0])}" if len(radii) == 1 else "several ε"
    seeds = f"{comparison.seeds} seed{'' if comparison.seeds == 1 else 's'}"
    return f"{study.data.name}, {eps}, {seeds}; {verdict_words(comparison)}"


def verdict_words(comparison: Comparison) -> str:
    """Say the verdict and what it rests on, in a part of a sentence."""
    if not (counts := comparison.counts()):
        return "nothing to compare"
    verdict = "no verdict on the method" if comparison.verdict == ONE_SEED else comparison.verdict
    return f"{verdict}: {counts}"


def figure_title(comparison: Comparison, study: Study) -> str:
    """Return the title of a figure for a paper: the study's name, and the caption below it."""
    return f"{study.name}\n{caption(comparison, study)}"
