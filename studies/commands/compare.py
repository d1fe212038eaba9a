"""Compare studies and write the report: `studies.compare`, and the last step of `studies.run`."""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from studies.commands.status import points as points_of
from studies.comparison import comparing
from studies.comparison.answer import Comparison
from studies.comparison.assumed import MARGIN
from studies.comparison.comparing import compare_all
from studies.driver.places import study_folder
from studies.errors import ComparisonError
from studies.naming import listed
from studies.planning.expand import make_plan
from studies.planning.plan import Plan
from studies.results.reading import MODELS
from studies.storage.addresses import DEFAULT_STORAGE
from studies.storage.folder import Folder
from studies.storage.opening import open_folder
from studies.study_file.loading import Source, load_study
from studies.study_file.study import Study
from studies.tuning.gains import with_gains

if TYPE_CHECKING:
    from studies.report.answer import Answer


def compare(
    studies: Source | Sequence[Source] | pd.DataFrame,
    *,
    held_out_points: pd.DataFrame | None = None,
    storage: str | Path = DEFAULT_STORAGE,
    overrides: Sequence[str] = (),
    out: str | Path | None = None,
    attack: str | None = None,
    checkpoint: str | None = None,
    margin: float = MARGIN,
    force: bool = False,
    command: str = "",
) -> "Answer":
    """Compare one network for every trade-off with one retrained for each.

    Args:
        studies: One study, or several whose points are put together: presets' names, YAML files,
            mappings or studies. Or a frame of points, as `studies.points` returns it.
        held_out_points: To a frame that does not say where its points are stored, such as one of
            `studies.runs`: the points of the same models on held-out images, by which λ is chosen.
        storage: Folder or URI of all studies' results.
        overrides: ``path.to.key=value`` each.
        out: Folder or URI for the report: page, figures and tables. None writes nothing.
        attack: Which attack's RA to use; None is the worst over the attacks at the radius of
            training that judged the most operating points on the most test images. What the
            comparison is at other radii stands in ``by_radius`` and ``radii`` of the answer.
        checkpoint: Which weights to compare; None is the first rule of the first study that all
            models have. Of a frame:
            the last where all models were judged with those.
        margin: How much worse, as a fraction, still counts as free.
        force: Compare points of different settings all the same.
        command: What the report names as the command that made it; empty is "from Python".

    Raises:
        ComparisonError: No study is named, there are no points, they come from different settings,
            or a report is asked for of a frame, which does not say where its points come from.
        StudyError: A study is faulty.
    """
    from studies.report.answer import Answer

    if isinstance(studies, pd.DataFrame):
        if out is not None:
            raise ComparisonError(
                "`out` needs a study, whose trials the report names; a frame of points has none."
            )
        return Answer.of(
            comparing.compare(
                studies,
                held_out=held_out_points,
                attack=attack,
                checkpoint=checkpoint,
                margin=margin,
                force=force,
            )
        )
    named: Sequence[Source] = (
        [studies] if isinstance(studies, str | Path | Mapping | Study) else studies
    )
    if not named:
        raise ComparisonError("`studies` names none; give at least one study to compare.")
    resolved = [load_study(study, overrides) for study in named]
    frames = [points_of(study, storage=storage) for study in resolved]
    points = _together(frames)
    names = (frame.attrs[MODELS].items() for frame in frames)
    points.attrs[MODELS] = dict(chain.from_iterable(names))
    plans = [make_plan(study, study_folder(study, storage)) for study in resolved]
    folder = study_folder(resolved[0], storage)
    if points.empty:
        raise ComparisonError(_nothing_there(plans, folder))
    result, others = _compare_plans(
        plans, points, folder, attack=attack, checkpoint=checkpoint, margin=margin, force=force
    )
    if out is not None:
        _write_report(result, others, plans[0], folder, open_folder(out, "--out"), command)
    return Answer.of(result)


def _nothing_there(plans: Sequence[Plan], folder: Folder) -> str:
    """Say where no points are, and what is there instead."""
    said = f"There are no points to compare yet in '{folder.uri}'; `oat run` makes them."
    if others := sum(len(plan.foreign) for plan in plans):
        said += f" {others} finished trial{' there has' if others == 1 else 's there have'} other "
        said += "settings."
        if any(plan.study.data.name == "imagefolder" for plan in plans):
            said += " The absolute path of the images is a setting of a trial."
    return said


def _together(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Put the points of several studies together; a trial that two of them have counts once.

    Raises:
        ComparisonError: A trial that two have was trained on different data.
    """
    points = pd.concat(frames, ignore_index=True)
    data = points.groupby("run_key")["data_fingerprint"].agg(lambda some: sorted(set(some)))
    mixed = data[data.map(len) > 1]
    if len(frames) > 1 and len(mixed):
        raise ComparisonError(
            f"The studies have {len(mixed)} trials in common that were trained on different data "
            f"(fingerprints {' and '.join(mixed.iloc[0])}): {listed(mixed.index)}; compare the "
            "studies one by one."
        )
    return points.drop_duplicates("point_key", ignore_index=True)


def compare_and_report(
    current: Plan, table: pd.DataFrame, folder: Folder, command: str
) -> tuple["Answer | None", dict[str, str], list[str]]:
    """Compare a study's points, and write the report into its folder.

    Returns:
        The comparison, the URIs of the report's files by their names, and a note where there is
        nothing to compare.
    """
    from studies.report.answer import Answer

    if table.empty:
        return None, {}, []
    try:
        comparison, others = _compare_plans([current], table, folder)
    except ComparisonError as error:
        return None, {}, [str(error)]
    place = folder.sub("report")
    return (
        Answer.of(comparison),
        _write_report(comparison, others, current, folder, place, command),
        [],
    )


def _compare_plans(
    plans: Sequence[Plan],
    points: pd.DataFrame,
    folder: Folder,
    *,
    attack: str | None = None,
    checkpoint: str | None = None,
    margin: float = MARGIN,
    force: bool = False,
) -> tuple[Comparison, list[Comparison]]:
    """Compare under the attack and under each other one; the first plan is that of the folder."""
    main = plans[0].study
    result, others = compare_all(
        points,
        attack=attack,
        checkpoint=checkpoint or _rule_of_all(points, main),
        margin=margin,
        force=force,
        unfinished=[trial for plan in plans for trial in plan.unfinished()],
    )
    return with_gains(result, main, folder), others


def _rule_of_all(points: pd.DataFrame, main: Study) -> str:
    """Return the first rule of a study that all models have, or else its first."""
    rules = points.groupby("run_key")["checkpoint_rule"].agg(set)
    common = set.intersection(*rules) if len(rules) else set()
    first: str = main.evaluate.checkpoints[0]
    return next((rule for rule in main.evaluate.checkpoints if rule in common), first)


def _write_report(
    comparison: Comparison,
    others: Sequence[Comparison],
    plan: Plan,
    folder: Folder,
    place: Folder,
    command: str,
) -> dict[str, str]:
    """Write the report into a place; return the URIs of its files by their names."""
    from studies.report.files import render
    from studies.report.origin import gather

    files = render(comparison, gather(plan, folder, command), others)
    for name, data in files.items():
        place.write(name, data)
    return {name: place.sub(name).uri for name in files}
