"""What a study can decide, before anything is trained: `studies.power`."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from math import isnan, nan
from pathlib import Path

from studies.comparison.assumed import MARGIN, Rates
from studies.comparison.power import ASSUMED, Power, power_of
from studies.errors import StudyError
from studies.known_methods import CONDITIONAL, is_dedicated
from studies.planning.costs import images_are_known, test_images
from studies.storage.addresses import DEFAULT_STORAGE
from studies.study_file.loading import Source, load_study
from studies.study_file.study import Study

DISCORDANCE = ("sa_discordance", "ra_discordance")
SPREAD = ("sa_spread", "ra_spread")


def power(
    study: Source,
    *,
    overrides: Sequence[str] = (),
    margin: float = MARGIN,
    like: Source | None = None,
    storage: str | Path = DEFAULT_STORAGE,
    sa_discordance: float | None = None,
    ra_discordance: float | None = None,
    sa_spread: float | None = None,
    ra_spread: float | None = None,
) -> Power:
    """Estimate what a study can decide with its test images and seeds.

    How far models differ is measured in the results of ``like``. What is neither measured there nor
    given is assumed; see `studies.comparison.assumed.Rates`.

    Args:
        study: A preset's name, a YAML file, a mapping, or a study.
        overrides: ``path.to.key=value`` each, such as ``seeds=[0,1,2]``.
        margin: How much worse, as a fraction, still counts as free.
        like: A study with results, such as a smaller one that was run first; or ``study`` itself.
            None reads no results.
        storage: Folder or URI of all studies' results, where those of ``like`` are.
        sa_discordance: Share of the test images that exactly one of two models has right.
        ra_discordance: The same under attack.
        sa_spread: Standard deviation of SA between trainings of one setting, as a fraction.
        ra_spread: The same of RA.

    Raises:
        StudyError: The study is faulty or has nothing to compare, or a number is out of range.
        ComparisonError: ``like`` has no results of OAT beside retrained models.
    """
    resolved = load_study(study, overrides)
    rows = comparisons(resolved)
    if not rows:
        raise StudyError(
            "The study has nothing to compare: it needs OAT and at least one retrained model."
        )
    given = {
        "sa_discordance": sa_discordance,
        "ra_discordance": ra_discordance,
        "sa_spread": sa_spread,
        "ra_spread": ra_spread,
    }
    named = {key: value for key, value in given.items() if value is not None}
    for key, value in named.items():
        if isnan(value):
            raise StudyError(f"`{key}` must be from 0 to 1, got nan.")
    known, name, images = Rates(nan, nan, nan, nan), None, None
    if like is not None:
        known, name, images = _measured(resolved, like, storage)
    try:
        return power_of(
            images or test_images(resolved),
            len(resolved.seeds),
            rows,
            replace(known.known(Rates()), **named),
            margin,
            (_source(DISCORDANCE, named, known, name), _source(SPREAD, named, known, name)),
            counted=images is not None or images_are_known(resolved),
        )
    except ValueError as error:
        raise StudyError(str(error)) from error


def _measured(study: Study, like: Source, storage: str | Path) -> tuple[Rates, str, int | None]:
    """Return how far models differ in the results of a study, and its name with what is other.

    And how many test images it was judged on, if they are those of the study, whose number is not
    known without reading them.

    Raises:
        ComparisonError: It has no results of OAT beside retrained models.
    """
    from studies.commands.compare import compare
    from studies.errors import ComparisonError

    resolved = load_study(like)
    try:
        answer = compare(resolved, storage=storage)
    except ComparisonError as error:
        raise ComparisonError(f"`like` '{resolved.name}': {error}") from error
    if answer.rates is None or answer.own_rows.empty:
        raise ComparisonError(
            f"`like` '{resolved.name}' has no results of OAT beside retrained models yet, from "
            "which to tell how far models differ; run it first, or leave `like` out."
        )
    settings = ("data", "model", "train", "attack")
    odd = [key for key in settings if getattr(resolved, key) != getattr(study, key)]
    name = f"'{resolved.name}'" + (f" (of other settings in `{'`, `'.join(odd)}`)" if odd else "")
    known = images_are_known(study) or "data" in odd
    return answer.rates, name, None if known else int(answer.cells["images"].max())


def _source(keys: tuple[str, str], given: Collection[str], known: Rates, name: str | None) -> str:
    """Say where the rates of two keys are known from; ``name`` is what was measured."""
    if all(key in given for key in keys):
        return "Given"
    if name is None:
        source = ASSUMED
    elif isnan(getattr(known, keys[0])):
        lacking = "results by image" if keys == DISCORDANCE else "second seed"
        source = f"{ASSUMED}, as {name} has no {lacking}"
    else:
        source = f"Measured in {name}"
    some = any(key in given for key in keys)
    return f"Given in part, else {source[0].lower()}{source[1:]}" if some else source


def comparisons(study: Study) -> int:
    """Count the comparisons of OAT or OATS with a dedicated model."""
    names = [method.name for method in study.all_methods()]
    return sum(name in CONDITIONAL for name in names) * sum(map(is_dedicated, names))
