"""What a study can decide, before anything is trained: `studies.power`."""

from collections.abc import Sequence

from studies.comparison.assumed import MARGIN, Rates
from studies.comparison.power import Power, power_of
from studies.errors import StudyError
from studies.known_methods import CONDITIONAL, is_dedicated
from studies.planning.costs import test_images
from studies.study_file.loading import Source, load_study
from studies.study_file.study import Study


def power(
    study: Source,
    *,
    overrides: Sequence[str] = (),
    margin: float = MARGIN,
    sa_discordance: float = Rates.sa_discordance,
    ra_discordance: float = Rates.ra_discordance,
    sa_spread: float = Rates.sa_spread,
    ra_spread: float = Rates.ra_spread,
) -> Power:
    """Estimate what a study can decide with its test images and seeds; reads no results.

    Args:
        study: A preset's name, a YAML file, a mapping, or a study.
        overrides: ``path.to.key=value`` each, such as ``seeds=[0,1,2]``.
        margin: How much worse, as a fraction, still counts as free.
        sa_discordance: Share of the test images that exactly one of two models has right.
        ra_discordance: The same under attack.
        sa_spread: Standard deviation of SA between trainings of one setting, as a fraction.
        ra_spread: The same of RA.

    Raises:
        StudyError: The study is faulty or has nothing to compare, or a number is out of range.
    """
    resolved = load_study(study, overrides)
    rows = comparisons(resolved)
    if not rows:
        raise StudyError(
            "The study has nothing to compare: it needs OAT and at least one retrained model."
        )
    try:
        rates = Rates(sa_discordance, ra_discordance, sa_spread, ra_spread)
        return power_of(test_images(resolved), len(resolved.seeds), rows, rates, margin)
    except ValueError as error:
        raise StudyError(str(error)) from error


def comparisons(study: Study) -> int:
    """Count the comparisons of OAT or OATS with a dedicated model."""
    names = [method.name for method in study.all_methods()]
    return sum(name in CONDITIONAL for name in names) * sum(map(is_dedicated, names))
