"""Compare studies and write the report: `studies.compare`, and the last step of `studies.run`."""

import pandas as pd

from studies.comparison.answer import Comparison
from studies.comparison.comparing import compare_all
from studies.errors import ComparisonError
from studies.planning.plan import Plan
from studies.storage.folder import Folder


def compare_and_report(
    current: Plan, table: pd.DataFrame, folder: Folder, command: str
) -> tuple[Comparison | None, dict[str, str], list[str]]:
    """Compare, and write the report into the study's folder; say so where that cannot be done."""
    from studies.report.files import render
    from studies.report.origin import gather
    from studies.tuning.gains import with_gains

    if table.empty:
        return None, {}, []
    rule = current.study.evaluate.checkpoints[0]
    try:
        comparison, others = compare_all(table, checkpoint=rule, unfinished=current.unfinished())
    except ComparisonError as error:
        return None, {}, [str(error)]
    comparison = with_gains(comparison, current.study, folder)
    place = folder.sub("report")
    files = render(comparison, gather(current, folder, command), others)
    for name, data in files.items():
        place.write(name, data)
    return comparison, {name: place.sub(name).uri for name in files}, []
